"""An index source as a seqio DataSource: seqio's Tasks, an order that is ours.

seqio shuffles by reading ahead into a buffer: its order depends on the number of hosts, a restart
has to save the buffer (gigabytes of audio) or skip through the data, and an epoch is exact only by
luck. Here the order is `index_order`'s and the position an integer. seqio learns that the source
shuffles by itself, may be sharded as one likes, and must not be cached.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines.index_batches import Examples, host_rows
from data_pipelines.sources import Mixture, Source
from noise2music.batch import AUDIO, CLIP_ID, clip_id
from noise2music.errors import UserError

ID = "id"
CAPTION_TEXTS = "caption_texts"
CAPTION_KINDS = "caption_kinds"
SEED = "seed"
GLOBAL_INDEX = "global_index"

_SIGNATURE = {
  AUDIO: tf.TensorSpec([None], tf.int16),
  CLIP_ID: tf.TensorSpec([2], tf.uint32),
  ID: tf.TensorSpec([], tf.string),
  CAPTION_TEXTS: tf.TensorSpec([None], tf.string),
  CAPTION_KINDS: tf.TensorSpec([None], tf.string),
  SEED: tf.TensorSpec([], tf.int64),
  GLOBAL_INDEX: tf.TensorSpec([], tf.int64),
}
_WHOLE_CLIP = 2**62


class IndexDataSource(seqio.DataSource):
  """Gives the examples of `index_batches.Examples` in the order of their global index.

  open_source: makes the source of a split; called when a dataset is asked for, not before, so that
  registering a Task touches no disk. splits: the names it answers to. seed: of the order where
  `get_dataset` is given none. options: further arguments of `Examples`, `random_crop` for one.

  `bound` sets what only a caller knows. Shard i of n gives, out of each global batch, the rows that
  host i of n reads in `IndexBatches`; with no global batch size it gives every n-th example.
  """

  def __init__(
    self,
    *,
    open_source: Callable[[str], Source | Mixture],
    splits: Sequence[str],
    sample_rate_hz: int,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
  ):
    super().__init__(splits=splits, caching_permitted=False, performs_internal_shuffling=True)
    self.open_source = open_source
    self.sample_rate_hz = sample_rate_hz
    self.seed = seed
    self.options = dict(options or {})
    self._samples = _WHOLE_CLIP
    self._num_epochs: int | None = 1
    self._batch_size: int | None = None
    self._start_step = 0

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def bound(self, **values: Any) -> "IndexDataSource":
    """A copy that differs in samples, num_epochs (None: endless), batch_size or start_step."""
    other = copy.copy(self)
    for name, value in values.items():
      if not hasattr(self, f"_{name}"):
        raise TypeError(f"an IndexDataSource has no {name!r} to bind")
      setattr(other, f"_{name}", value)
    return other

  def examples(self, split: str, *, shuffle: bool = True, seed: int | None = None) -> Examples:
    """The numpy side of a split."""
    if split not in self.splits:
      raise UserError(f"there is no split {split!r}; choose among {', '.join(self.splits)}")
    return Examples(
      source=self.open_source(split),
      samples=self._samples,
      sample_rate_hz=self.sample_rate_hz,
      seed=self.seed if seed is None else seed,
      shuffle=shuffle,
      **self.options,
    )

  def num_input_examples(self, split: str) -> int:
    return len(self.examples(split))

  def list_shards(self, split: str) -> list[str]:
    return [split]

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    *,
    sequence_length: Mapping[str, int] | None = None,
    use_cached: bool = False,
    num_epochs: int | None = 1,
  ) -> tf.data.Dataset:
    """One example at a time; a Task passes none of the last three on, `bound` holds them."""
    del sequence_length, use_cached, num_epochs
    examples = self.examples(split, shuffle=shuffle, seed=seed)

    def generate() -> Iterator[dict[str, Any]]:
      for global_index in self._indices(len(examples), shard_info):
        drawn = examples.at(global_index)
        yield {
          AUDIO: drawn.audio,
          CLIP_ID: clip_id(drawn.id),
          ID: drawn.id,
          CAPTION_TEXTS: np.array([c.text.encode() for c in drawn.captions], object),
          CAPTION_KINDS: np.array([c.kind.encode() for c in drawn.captions], object),
          SEED: examples.seed,
          GLOBAL_INDEX: global_index,
        }

    return tf.data.Dataset.from_generator(generate, output_signature=_SIGNATURE)

  def _indices(self, size: int, shard_info: seqio.ShardInfo | None) -> Iterator[int]:
    """The global indices of one shard, from the start step to the end of the last epoch."""
    shard, shards = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
    batch_size = self._batch_size or shards
    rows = host_rows(batch_size, host_index=shard, host_count=shards)
    end = None if self._num_epochs is None else self._num_epochs * size
    for step in itertools.count(self._start_step):
      for row in rows:
        global_index = step * batch_size + row
        if end is not None and global_index >= end:
          return
        yield global_index
