"""The same recording twice: within a set, or between training and evaluation sets.

Two steps. Vectors of an encoder give candidates: pairs whose cosine is above a threshold, sought in
chunks. Then the audio itself decides: log-mel spectrograms are laid over one another at every
offset up to a few seconds, and correlated where they overlap. Level, codec and a cut somewhere else
leave that correlation near 1; two pieces of one style, near in the encoder's eyes, stay far below.
"""

import dataclasses
import functools
import heapq
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.report import describe_error
from noise2music.audio.log_mel import LogMel
from noise2music.audio.wav_io import read_audio
from noise2music.errors import UserError

DUPLICATES = "duplicates.jsonl"
COSINE = 0.98
OnProblem = Callable[[str, str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """Rows in the two sets (the same set, first < second, where there is one), and their cosine."""

  first: int
  second: int
  cosine: float


File = tuple[str, str]  # the id of a clip and the path of its audio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duplicate:
  """A line of duplicates.jsonl: ids, paths, cosine of the vectors, correlation of the audio.

  offset_seconds: the second begins so much later in the music than the first.
  """

  first: str
  second: str
  first_path: str
  second_path: str
  cosine: float
  correlation: float
  offset_seconds: float

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @property
  def order(self) -> tuple[float, str, str]:
    """To sort by: the nearest first."""
    return -self.cosine, self.first, self.second


@dataclasses.dataclass(frozen=True, kw_only=True)
class Overlay:
  """Compares two files by sound. threshold: correlation from which they are one recording.

  offset_seconds: how far they are shifted, either way. least_seconds: of overlap. seconds: of each
  file that are read. Raises UserError for what leaves nothing to compare.
  """

  threshold: float = 0.8
  offset_seconds: float = 5.0
  least_seconds: float = 1.0
  seconds: float = 60.0
  log_mel: LogMel = LogMel(sample_rate_hz=8_000, bands=32, frames_per_second=25, floor_db=-60.0)

  def __post_init__(self):
    if not (0 < self.threshold <= 1 and self.offset_seconds >= 0 and self.least_seconds > 0):
      raise UserError(
        "duplicates need a correlation threshold in (0, 1], an offset of 0 s or more, and an "
        "overlap above 0 s"
      )

  def spectrogram(self, path: str | os.PathLike) -> np.ndarray:
    """float32 [frames, bands]; raises AudioError."""
    rate = self.log_mel.sample_rate_hz
    audio, _ = read_audio(path, sample_rate_hz=rate, seconds=self.seconds)
    frames = max(1, len(audio) // self.log_mel.hop)
    # Whole blocks of ten seconds: few lengths, so few compilations.
    block = 10 * rate
    padded = np.pad(audio, (0, -len(audio) % block))
    return np.asarray(self.log_mel(padded))[:frames]

  def compare(self, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """(highest correlation, its offset in seconds) of two spectrograms; 0 for silence.

    At offset d, first[i + d] lies over second[i]; each band is centred over the overlap.
    """
    rate = self.log_mel.frames_per_second
    shortest = min(len(first), len(second))
    least = min(round(self.least_seconds * rate), shortest)
    most = round(self.offset_seconds * rate)
    best = (0.0, 0.0)
    for offset in range(-most, most + 1):
      a, b = first[max(0, offset) :], second[max(0, -offset) :]
      frames = min(len(a), len(b))
      # Half of the shorter one at least: a little overlap correlates by chance.
      if frames >= max(least, shortest / 2):
        best = max(best, (_correlation(a[:frames], b[:frames]), offset / rate))
    return best


def find_duplicates(
  files: Sequence[File],
  vectors: np.ndarray,
  *,
  against: tuple[Sequence[File], np.ndarray] | None = None,
  cosine: float = COSINE,
  overlay: Overlay | None = None,
  on_problem: OnProblem = lambda path, reason: None,
) -> list[Duplicate]:
  """Recordings that are there twice, the nearest first; whatever order the files came in.

  vectors: float32 [files, width], rows of length 1. against: another set, to whose files alone
  those of the first are compared. on_problem(path, reason): for a file that cannot be read.
  """
  files, vectors = _by_id(files, vectors)
  others, other_vectors = _by_id(*against) if against is not None else (None, None)
  found = verified(
    near_pairs(vectors, other_vectors, cosine=cosine),
    first=files,
    second=others,
    overlay=overlay,
    on_problem=on_problem,
  )
  return sorted(found, key=lambda one: one.order)


def _by_id(files: Sequence[File], vectors: np.ndarray) -> tuple[list[File], np.ndarray]:
  order = sorted(range(len(files)), key=lambda row: files[row])
  return [files[row] for row in order], vectors[order]


def near_pairs(
  first: np.ndarray,
  second: np.ndarray | None = None,
  *,
  cosine: float = COSINE,
  chunk: int = 4_096,
  most: int = 100_000,
) -> list[Pair]:
  """Pairs of rows of length 1 whose cosine is at least this, the nearest first.

  second: None looks within `first`. chunk: rows in one product, which takes 4 chunk^2 bytes. most:
  pairs that are kept. Raises UserError for a cosine that is none.
  """
  if not -1 < cosine <= 1:
    raise UserError(f"two vectors cannot have a cosine of {cosine:g}: give one above -1, up to 1")
  return heapq.nlargest(
    most, _near(first, second, cosine, chunk), key=lambda p: (p.cosine, -p.first, -p.second)
  )


def _near(
  first: np.ndarray, second: np.ndarray | None, cosine: float, chunk: int
) -> Iterator[Pair]:
  other = first if second is None else second
  for i in range(0, len(first), chunk):
    for j in range(i if second is None else 0, len(other), chunk):
      scores = first[i : i + chunk] @ other[j : j + chunk].T
      # Their last digits hang on the shape of the product: float64 decides.
      for a, b in np.argwhere(scores >= cosine - 1e-4):
        if second is not None or i + a < j + b:
          exact = first[i + a].astype(np.float64) * other[j + b].astype(np.float64)
          score = round(min(1.0, float(exact.sum())), 6)
          if score >= cosine:
            yield Pair(first=int(i + a), second=int(j + b), cosine=score)


def verified(
  pairs: Sequence[Pair],
  *,
  first: Sequence[File],
  second: Sequence[File] | None = None,
  overlay: Overlay | None = None,
  on_problem: OnProblem = lambda path, reason: None,
) -> Iterator[Duplicate]:
  """Those pairs that are one recording. first, second: (id, path of the audio) of each row.

  on_problem(path, reason): called for a file that cannot be read, whose pairs are left out.
  """
  overlay, second = overlay or Overlay(), first if second is None else second

  @functools.lru_cache(maxsize=256)
  def spectrogram(path: str) -> np.ndarray | None:
    try:
      return overlay.spectrogram(path)
    except (OSError, ValueError) as error:
      on_problem(path, describe_error(error))
      return None

  for pair in pairs:
    (name, path), (other, other_path) = first[pair.first], second[pair.second]
    a, b = spectrogram(path), spectrogram(other_path)
    if a is None or b is None:
      continue
    correlation, offset = overlay.compare(a, b)
    if correlation >= overlay.threshold:
      yield Duplicate(
        first=name,
        second=other,
        first_path=path,
        second_path=other_path,
        cosine=pair.cosine,
        correlation=round(correlation, 4),
        offset_seconds=offset,
      )


def groups(duplicates: Sequence[Mapping[str, Any]] | Sequence[Duplicate]) -> list[list[str]]:
  """Ids that hang together through any number of pairs, sorted: keep one of each."""
  parent: dict[str, str] = {}

  def root(name: str) -> str:
    parent.setdefault(name, name)
    while parent[name] != name:
      parent[name] = parent[parent[name]]
      name = parent[name]
    return name

  for one in duplicates:
    a, b = (one["first"], one["second"]) if isinstance(one, Mapping) else (one.first, one.second)
    parent[max(root(a), root(b))] = min(root(a), root(b))
  found: dict[str, list[str]] = {}
  for name in sorted(parent):
    found.setdefault(root(name), []).append(name)
  return list(found.values())


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
  a, b = a - a.mean(axis=0), b - b.mean(axis=0)
  scale = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
  return float(np.sum(a * b)) / scale if scale > 1e-6 else 0.0
