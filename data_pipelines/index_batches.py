"""Batches straight from an index source, numpy alone: the k-th batch is a function of k.

`Examples` answers "what is the g-th example of this run": which clip (`index_order`), which snippet
of it, which text. `IndexBatches` puts B of them into the arrays of `noise2music/batch.py`, reading
ahead in a thread. The seqio side draws from the same `Examples`, so both give the same batches.

Hosts share the global batch in runs of rows: with n hosts, host i reads the B/n rows from row i B/n
on, at every step. The hosts' batches put one after another are the batch of a single host.
"""

import dataclasses
import functools
import itertools
import json
import logging
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from data_pipelines.embeddings import TextEmbeddings, check_embeddings
from data_pipelines.index_order import ORDER_VERSION, IndexOrder, draw_below
from data_pipelines.manifest import Caption
from data_pipelines.sources import Mixture, RecordError, Source
from data_pipelines.text_batches import TextBatch, token_rows
from noise2music import batch as batch_names
from noise2music.batch import BatchSpec, clip_id
from noise2music.errors import UserError
from noise2music.typing import Tokenizer

T = TypeVar("T")
_SUBSTITUTES = 16
_ALWAYS_TOLERATED = 8


class DataError(UserError):
  """The data cannot be trained on as it is; one sentence with the clip and the mend."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drawn:
  """One example of a run: a clip's id, int16 audio [<= samples asked for], and its captions."""

  global_index: int
  id: str
  audio: np.ndarray
  captions: tuple[Caption, ...]


class BadRecords:
  """Which records could not be read, and why; each is reported once.

  path: where to add a JSON line {"id", "reason"} for each, or None to only log them. most: how many
  are tolerated before DataError is raised.
  """

  def __init__(self, *, path: str | Path | None = None, most: int):
    self._path = path
    self._most = most
    self._reasons: dict[str, str] = {}
    self._lock = threading.Lock()

  @property
  def reasons(self) -> dict[str, str]:
    """id -> reason of each bad record met so far."""
    return dict(self._reasons)

  def add(self, error: RecordError) -> None:
    with self._lock:
      if error.name in self._reasons:
        return
      self._reasons[error.name] = error.reason
      logging.getLogger(__name__).warning("left out %s", error)
      if self._path is not None:
        with open(self._path, "a", encoding="utf-8") as out:
          out.write(json.dumps({"id": error.name, "reason": error.reason}) + "\n")
    if len(self._reasons) > self._most:
      raise DataError(
        f"{len(self._reasons)} clips cannot be read, the last one {error}; mend the data set with "
        "`n2m data check` or raise max_bad_fraction"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
  """The g-th example of a run, for any g, as a pure function of (source, seed, g).

  source: one source or a Mixture, of clips at `sample_rate_hz`. samples: length of a snippet; a
  longer clip is cropped, at a place drawn for g or, without `random_crop`, at its beginning; a
  shorter one is given whole. A record that cannot be read is replaced by another clip of its source
  drawn for g, and reported in `bad_records`; more than `max_bad_fraction` of all clips (8 are
  always tolerated) raise DataError. bad_records_path: where to write the report too.
  Raises UserError when the sample rate is another.
  """

  source: Source | Mixture
  samples: int
  sample_rate_hz: int
  seed: int = 0
  shuffle: bool = True
  random_crop: bool = True
  max_bad_fraction: float = 0.1
  bad_records_path: str | Path | None = None

  def __post_init__(self):
    for source in self.sources:
      if source.sample_rate_hz != self.sample_rate_hz:
        raise UserError(
          f"the clips are at {source.sample_rate_hz} Hz and the run asks for "
          f"{self.sample_rate_hz}; bring them to {self.sample_rate_hz} Hz with `n2m data cut`, "
          f"or set the run's sample_rate_hz to {source.sample_rate_hz}"
        )
    _ = self.order

  def __len__(self) -> int:
    """Clips in one epoch."""
    return len(self.order)

  def at(self, global_index: int) -> Drawn:
    """Raises DataError when too many records are bad."""
    which, k = self.order.at(global_index)
    source = self.sources[which]
    for attempt in range(_SUBSTITUTES):
      try:
        return self._read(source, k, global_index)
      except RecordError as error:
        self.bad_records.add(error)
        last = error
      k = draw_below(len(source), self.seed, "substitute", global_index, attempt)
    raise DataError(
      f"{_SUBSTITUTES} clips in a row cannot be read, the last one {last}; mend the data set with "
      "`n2m data check`"
    )

  def name(self, global_index: int) -> str:
    """The clip at `global_index`, without reading it."""
    which, k = self.order.at(global_index)
    return self.sources[which].name(k)

  @functools.cached_property
  def sources(self) -> tuple[Source, ...]:
    return self.source.sources if isinstance(self.source, Mixture) else (self.source,)

  @functools.cached_property
  def order(self) -> IndexOrder:
    return IndexOrder(
      sizes=tuple(len(source) for source in self.sources),
      weights=self.source.weights if isinstance(self.source, Mixture) else None,
      seed=self.seed,
      shuffle=self.shuffle,
    )

  @functools.cached_property
  def bad_records(self) -> BadRecords:
    most = max(_ALWAYS_TOLERATED, int(self.max_bad_fraction * len(self.order)))
    return BadRecords(path=self.bad_records_path, most=most)

  def fingerprint(self) -> dict[str, Any]:
    """What the g-th example depends on: a checkpoint keeps it and a resumed run compares it."""
    return {
      "order_version": ORDER_VERSION,
      "sources": [source.fingerprint() for source in self.sources],
      "weights": [float(weight) for weight in self.order.weights or ()],
      **{
        name: getattr(self, name)
        for name in ("seed", "shuffle", "random_crop", "samples", "sample_rate_hz")
      },
    }

  def _read(self, source: Source, k: int, global_index: int) -> Drawn:
    example = source[k]
    length = min(self.samples, example.samples)
    if length < 1:
      raise RecordError(example.id, "it holds no samples")
    start = 0
    if self.random_crop:
      start = draw_below(example.samples - length + 1, self.seed, "crop", global_index)
    audio = example.read(start, length)
    return Drawn(global_index=global_index, id=example.id, audio=audio, captions=example.captions)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexBatches:
  """`noise2music.typing.BatchSource` over an index source, without TensorFlow.

  source: a ManifestSource, a ShardSource, or a Mixture of them. spec: shapes of the *global* batch.
  tokenizer, text_batch: make the tokens. embeddings: of the texts, where they were made ahead of
  training. seed: names order, crops and texts. host_index, host_count: whose rows to give.
  prefetch: batches read ahead in a thread; 0 reads when asked. The others are those of `Examples`.
  Raises UserError for a batch that the hosts cannot share, or embeddings of another kind.
  """

  source: Source | Mixture
  spec: BatchSpec
  tokenizer: Tokenizer
  text_batch: TextBatch = TextBatch()
  embeddings: TextEmbeddings | None = None
  seed: int = 0
  shuffle: bool = True
  random_crop: bool = True
  host_index: int = 0
  host_count: int = 1
  prefetch: int = 2
  max_bad_fraction: float = 0.1
  bad_records_path: str | Path | None = None

  def __post_init__(self):
    host_rows(self.spec.batch_size, host_index=self.host_index, host_count=self.host_count)
    if self.prefetch < 0:
      raise UserError(f"prefetch is {self.prefetch}; give 0 or more batches")
    check_embeddings(self.embeddings, spec=self.spec, tokenizer=self.tokenizer)
    _ = self.examples

  @functools.cached_property
  def examples(self) -> Examples:
    names = ("source", "seed", "shuffle", "random_crop", "max_bad_fraction", "bad_records_path")
    return Examples(
      samples=self.spec.samples,
      sample_rate_hz=self.spec.sample_rate_hz,
      **{name: getattr(self, name) for name in names},
    )

  def for_host(self, index: int, count: int) -> "IndexBatches":
    """The same batches, of which this gives the rows of host `index` of `count`."""
    return dataclasses.replace(self, host_index=index, host_count=count)

  @property
  def local_spec(self) -> BatchSpec:
    """The shapes of this host's batches."""
    return dataclasses.replace(self.spec, batch_size=self.spec.batch_size // self.host_count)

  @property
  def steps_per_epoch(self) -> int:
    """Whole batches in one pass over the clips, at least 1."""
    return max(1, len(self.examples) // self.spec.batch_size)

  def batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batch `start_step`, the one after it, and so on without end.

    Close the iterator, or drop it, to stop the thread that reads ahead. Whatever goes wrong there
    is raised here, with the clip's id.
    """
    return read_ahead(map(self.batch, itertools.count(start_step)), depth=self.prefetch)

  def names(self, step: int) -> list[str]:
    """The clips of the global batch of `step`, without reading them."""
    first = step * self.spec.batch_size
    return [self.examples.name(first + row) for row in range(self.spec.batch_size)]

  def batch(self, step: int) -> dict[str, np.ndarray]:
    """This host's rows of the global batch of `step`; names and shapes of `BatchSpec.check`."""
    rows = host_rows(self.spec.batch_size, host_index=self.host_index, host_count=self.host_count)
    first = step * self.spec.batch_size
    return self._collate([self._drawn(first + row) for row in rows])

  def fingerprint(self) -> dict[str, Any]:
    """What the k-th batch depends on, as JSON; keep it next to the step."""
    text = dataclasses.asdict(self.text_batch)
    text["short_kinds"] = list(text["short_kinds"])
    ahead = {} if self.embeddings is None else self.embeddings.fingerprint()
    return {
      **self.examples.fingerprint(),
      **ahead,
      "batch_size": self.spec.batch_size,
      "text_batch": text,
      "tokenizer": self.tokenizer.fingerprint(),
      "token_length": self.spec.token_length,
    }

  def texts(self) -> Iterator[list[str]]:
    """Clip by clip, all that a batch may say of it; [] of one that cannot be read."""
    for source in self.examples.sources:
      for k in range(len(source)):
        try:
          captions = source.captions(k)
        except RecordError as error:
          self.examples.bad_records.add(error)
          captions = ()
        yield self.text_batch.members(
          captions, tokenizer=self.tokenizer, token_length=self.spec.token_length
        )

  def _drawn(self, global_index: int) -> tuple[Drawn, str]:
    try:
      drawn = self.examples.at(global_index)
      text = self.text_batch.draw(
        drawn.captions,
        tokenizer=self.tokenizer,
        token_length=self.spec.token_length,
        seed=self.seed,
        global_index=global_index,
      )
    except DataError:
      raise
    except Exception as error:
      # A text that cannot be tokenized is the user's to mend; a bug of ours keeps its traceback.
      kind = DataError if isinstance(error, UserError | OSError) else RuntimeError
      name = self.examples.name(global_index)
      raise kind(f"clip {name} (example {global_index} of the run): {error}") from error
    return drawn, text

  def _collate(self, rows: Sequence[tuple[Drawn, str]]) -> dict[str, np.ndarray]:
    out = self.local_spec.zeros()
    for row, (drawn, _) in enumerate(rows):
      out[batch_names.AUDIO][row, : drawn.audio.size] = drawn.audio
      out[batch_names.AUDIO_LENGTH][row] = drawn.audio.size
      out[batch_names.CLIP_ID][row] = clip_id(drawn.id)
    out[batch_names.TOKENS], out[batch_names.TOKEN_MASK] = token_rows(
      [text for _, text in rows], tokenizer=self.tokenizer, length=self.spec.token_length
    )
    if self.embeddings is not None:
      out[batch_names.TEXT_EMBEDDING] = self.embeddings.padded([text for _, text in rows])
    return out


def host_rows(batch_size: int, *, host_index: int, host_count: int) -> range:
  """The rows of a global batch that a host reads."""
  if host_count < 1 or not 0 <= host_index < host_count:
    raise UserError(f"host {host_index} of {host_count} cannot be; count hosts from 0")
  if batch_size < 1:
    raise UserError(f"a batch of {batch_size} clips trains nothing; give at least 1")
  if batch_size % host_count:
    raise UserError(
      f"a batch of {batch_size} cannot be shared by {host_count} hosts; make batch_size a multiple "
      f"of {host_count}"
    )
  share = batch_size // host_count
  return range(host_index * share, (host_index + 1) * share)


def read_ahead(items: Iterable[T], *, depth: int) -> Iterator[T]:
  """Gives `items` in order while a thread makes the next `depth` of them; 0 means no thread.

  An exception in the thread is raised to whoever asks for the item that it hit. Closing the
  iterator, dropping it or leaving a loop over it ends the thread after the item it is making.
  """
  if depth == 0:
    yield from items
    return
  made: queue.Queue = queue.Queue(maxsize=depth)
  stop = threading.Event()

  def put(message) -> None:
    while not stop.is_set():
      try:
        made.put(message, timeout=0.1)
        return
      except queue.Full:
        continue

  def work() -> None:
    try:
      for item in items:
        put((item, None))
        if stop.is_set():
          return
      put((None, StopIteration()))
    except BaseException as error:
      put((None, error))

  thread = threading.Thread(target=work, name="read_ahead", daemon=True)
  thread.start()
  try:
    while True:
      item, error = made.get()
      if isinstance(error, StopIteration):
        return
      if error is not None:
        raise error
      yield item
  finally:
    stop.set()
    thread.join()
