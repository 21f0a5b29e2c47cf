"""seqio Tasks over index sources, and the batches of a Task or Mixture.

  add_task("my_clips", open_source=functools.partial(open_shards, "shards"), splits=("train",),
           tokenizer=ByteTokenizer())
  SeqioBatches(mixture_or_task="my_clips", spec=spec).batches(start_step=0)

gives, byte for byte, what `IndexBatches(source=ShardSource("shards"), ...)` gives. Nothing is
registered by importing this module, and registering reads no file.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines.embeddings import TextEmbeddings, check_embeddings
from data_pipelines.feature_converters import BatchFeatureConverter
from data_pipelines.features import output_features, task_feature_lengths
from data_pipelines.index_batches import host_rows
from data_pipelines.preprocessors import draw_text, encode_text
from data_pipelines.seqio_source import IndexDataSource
from data_pipelines.sources import ManifestSource, Mixture, ShardSource, Source
from data_pipelines.text_batches import TextBatch
from noise2music.batch import AUDIO, TOKENS, BatchSpec
from noise2music.errors import UserError
from noise2music.typing import Tokenizer


class IndexTask(seqio.Task):
  """A Task whose epochs, snippets and position are its index source's.

  `num_epochs` counts exact epochs, each in an order of its own; None never ends.
  `sequence_length["audio"]` is the length of the snippets; without it clips are given whole.
  """

  def at(self, *, start_step: int, batch_size: int) -> "IndexTask":
    """This Task from the given step of batches of that size on, shared among shards by rows."""
    return self._with(self.source.bound(start_step=start_step, batch_size=batch_size))

  def get_dataset(
    self,
    sequence_length: Mapping[str, int] | None = None,
    split: str = "train",
    use_cached: bool = False,
    shuffle: bool = True,
    shuffle_buffer_size: int | None = None,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    num_epochs: int | None = 1,
    trim_output_features: bool = True,
    try_in_mem_cache: bool = True,
  ) -> tf.data.Dataset:
    """As `seqio.Task.get_dataset`; refuses a cache and a shuffle buffer: they break the order."""
    del try_in_mem_cache  # only an offer to; an endless dataset would fill the memory
    if use_cached or shuffle_buffer_size:
      raise UserError(f"{self.name} is read by index; leave use_cached and shuffle_buffer_size out")
    bound = {"num_epochs": num_epochs}
    if sequence_length and AUDIO in sequence_length:
      bound["samples"] = sequence_length[AUDIO]
    return super(IndexTask, self._with(self.source.bound(**bound))).get_dataset(
      sequence_length=sequence_length,
      split=split,
      shuffle=shuffle,
      seed=seed,
      shard_info=shard_info,
      num_epochs=1,  # seqio would repeat by starting over
      trim_output_features=trim_output_features,
      try_in_mem_cache=False,
    )

  def _with(self, source: IndexDataSource) -> "IndexTask":
    return IndexTask(
      name=self.name,
      source=source,
      output_features=self.output_features,
      preprocessors=self.preprocessors,
      shuffle_buffer_size=None,
    )


def add_task(
  name: str,
  *,
  open_source: Callable[[str], Source | Mixture],
  splits: Sequence[str],
  tokenizer: Tokenizer,
  sample_rate_hz: int = BatchSpec.sample_rate_hz,
  text_batch: TextBatch | None = None,
  seed: int = 0,
  **options: Any,
) -> IndexTask:
  """Registers a Task of clips and returns it.

  Args:
    name: what configs call it.
    open_source: makes the source of a split: `functools.partial(open_shards, folder)`.
    splits: the splits that there are.
    tokenizer, text_batch: make the tokens.
    sample_rate_hz: of the clips; the source is refused when it has another.
    seed: of the order, where a caller gives none.
    **options: of `index_batches.Examples`, such as random_crop=False.
  """
  return seqio.TaskRegistry.add(
    name,
    source=IndexDataSource(
      open_source=open_source,
      splits=splits,
      sample_rate_hz=sample_rate_hz,
      seed=seed,
      options=options,
    ),
    output_features=output_features(tokenizer),
    preprocessors=[functools.partial(draw_text, text_batch=text_batch or TextBatch()), encode_text],
    shuffle_buffer_size=None,
    task_cls=IndexTask,
  )


def open_shards(folder: str, split: str) -> ShardSource:
  """`functools.partial(open_shards, folder)` is an `open_source`."""
  return ShardSource(folder, split=split)


def open_manifest(path: str, split: str) -> ManifestSource:
  """`functools.partial(open_manifest, path)` is an `open_source`."""
  return ManifestSource(path, split=split)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeqioBatches:
  """`noise2music.typing.BatchSource` over a Task or Mixture of ours.

  mixture_or_task: its registered name, or itself. spec: shapes of the *global* batch. The others
  mean what they do in `IndexBatches`.
  """

  mixture_or_task: str | seqio.Task | seqio.Mixture
  spec: BatchSpec
  split: str = "train"
  embeddings: TextEmbeddings | None = None
  seed: int = 0
  shuffle: bool = True
  host_index: int = 0
  host_count: int = 1

  def __post_init__(self):
    host_rows(self.spec.batch_size, host_index=self.host_index, host_count=self.host_count)
    if not hasattr(self._provider, "at"):
      raise UserError(
        f"{self._provider.name} has no position to resume from; register it with add_task or "
        "add_mixture"
      )
    tokenizer = self._provider.output_features[TOKENS].vocabulary.tokenizer
    check_embeddings(self.embeddings, spec=self.spec, tokenizer=tokenizer)

  def fingerprint(self) -> dict[str, Any] | None:
    """What the texts were embedded with, for a checkpoint; None where they were not."""
    return None if self.embeddings is None else self.embeddings.fingerprint()

  def for_host(self, index: int, count: int) -> "SeqioBatches":
    """The same batches, of which this gives the rows of host `index` of `count`."""
    return dataclasses.replace(self, host_index=index, host_count=count)

  @property
  def _provider(self) -> Any:
    named = isinstance(self.mixture_or_task, str)
    return seqio.get_mixture_or_task(self.mixture_or_task) if named else self.mixture_or_task

  def batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batch `start_step`, the one after it, and so on without end."""
    dataset = seqio.get_dataset(
      self._provider.at(start_step=start_step, batch_size=self.spec.batch_size),
      task_feature_lengths=task_feature_lengths(self.spec),
      feature_converter=BatchFeatureConverter(embeddings=self.embeddings),
      dataset_split=self.split,
      shuffle=self.shuffle,
      num_epochs=None,
      shard_info=seqio.ShardInfo(index=self.host_index, num_shards=self.host_count),
      seed=self.seed,
      batch_size=self.spec.batch_size // self.host_count,
      verbose=False,
    )
    yield from dataset.prefetch(2).as_numpy_iterator()
