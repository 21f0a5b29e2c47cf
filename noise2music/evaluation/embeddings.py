"""The vectors of a set of clips: a state that grows, merges, and lies on the disk in shards."""

import dataclasses
import hashlib
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio.wav_io import probe, read_audio
from noise2music.errors import UserError
from noise2music.evaluation.embedders.encoder import AudioEncoder
from noise2music.evaluation.embedders.stored import Stored

CLIPS_A_SHARD = 32
Encoder = AudioEncoder | Stored
RESAMPLER = "soxr HQ, channels averaged"  # of audio/wav_io.py
Say = Callable[[int], Any]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Embeddings:
  """ids: of the clips, sorted. counts: int [clips], rows of each. vectors: float32 [rows, width].

  seconds: of audio, [clips].
  """

  ids: tuple[str, ...]
  counts: np.ndarray
  vectors: np.ndarray
  seconds: np.ndarray

  @classmethod
  def of(
    cls, rows: Iterable[tuple[str, np.ndarray, float]], *, width: int | None = None
  ) -> "Embeddings":
    """From (id, [rows, width], seconds) in any order. Raises UserError for an id that is twice."""
    rows = sorted(rows, key=lambda row: row[0])
    ids = tuple(name for name, _, _ in rows)
    twice = next((a for a, b in itertools.pairwise(ids) if a == b), None)
    if twice is not None:
      raise UserError(f"the clip {twice} is there twice: give each clip a name of its own")
    return cls(
      ids=ids,
      counts=np.array([len(vectors) for _, vectors, _ in rows], int),
      vectors=np.concatenate([vectors for _, vectors, _ in rows])
      if rows
      else np.zeros((0, width or 0), np.float32),
      seconds=np.array([seconds for _, _, seconds in rows]),
    )

  def __len__(self) -> int:
    return len(self.ids)

  @property
  def width(self) -> int:
    return self.vectors.shape[1]

  @property
  def clips(self) -> list[np.ndarray]:
    """[rows, width] of each clip."""
    return np.split(self.vectors, np.cumsum(self.counts))[:-1]

  def merge(self, *others: "Embeddings") -> "Embeddings":
    """The same whichever host embedded what. Raises UserError for a clip that two of them hold."""
    every = (self, *others)
    widths = {some.width for some in every if len(some)}
    if len(widths) > 1:
      raise UserError(f"embeddings of widths {sorted(widths)} are not of one encoder")
    return Embeddings.of(
      (row for some in every for row in zip(some.ids, some.clips, some.seconds, strict=True)),
      width=self.width,
    )

  def take(self, chosen: Sequence[int] | np.ndarray) -> "Embeddings":
    """Some of the clips, each at most once, by their places."""
    clips = self.clips
    rows = ((self.ids[k], clips[k], self.seconds[k]) for k in chosen)
    return Embeddings.of(rows, width=self.width)

  def repeats(self, times: np.ndarray) -> np.ndarray:
    """How often each row counts where each clip counts so often."""
    return np.repeat(times, self.counts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole:
  """All of a clip is scored."""

  def span(self, duration: float) -> tuple[float, float | None]:
    """(first second, seconds or None for all) of a clip."""
    del duration
    return 0.0, None

  def __str__(self) -> str:
    return "whole clips"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Middle:
  """So many seconds from the middle of a clip are scored."""

  seconds: float

  def span(self, duration: float) -> tuple[float, float | None]:
    """Raises UserError for a clip that is shorter by more than a tenth of a second."""
    if duration < self.seconds - 0.1:
      raise UserError(
        f"is {duration:.2f} s long, of which the middle {self.seconds:g} s are to be scored: give"
        " longer clips, or the protocol `folder`"
      )
    return max(0.0, (duration - self.seconds) / 2), self.seconds

  def __str__(self) -> str:
    return f"middle {self.seconds:g} s"


@dataclasses.dataclass(frozen=True, kw_only=True)
class File:
  """An audio file under the name of its clip."""

  id: str
  path: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded:
  """failed: id -> why a clip has no vectors. rates: sample rates of the files."""

  embeddings: Embeddings
  failed: dict[str, str]
  rates: tuple[int, ...]


def embed_files(
  encoder: Encoder,
  files: Sequence[File],
  *,
  folder: str | os.PathLike,
  scored: Whole | Middle | None = None,
  say: Say = lambda clips: None,
) -> Embedded:
  """The vectors of audio files, kept in `folder` so that a run that was stopped goes on.

  A clip that cannot be read, also since it was deleted meanwhile, costs itself alone. say: called
  with the number of clips done. Raises UserError where the disk is full.
  """
  scored = scored or Whole()
  files = sorted(files, key=lambda file: file.id)
  parts, failed, rates = [], {}, set()
  for first in range(0, len(files), CLIPS_A_SHARD):
    some = files[first : first + CLIPS_A_SHARD]
    path = Path(folder) / f"{first // CLIPS_A_SHARD:05d}.npz"
    key = _key(encoder, some, scored)
    part = _read(path, key)
    if part is None:
      part = _embed(encoder, some, scored)
      _write(path, part, key)
    parts.append(part.embeddings)
    failed |= part.failed
    rates |= set(part.rates)
    say(len(some))
  empty = Embeddings.of((), width=encoder.width)
  return Embedded(embeddings=empty.merge(*parts), failed=failed, rates=tuple(sorted(rates)))


def _embed(encoder: Encoder, files: Sequence[File], scored: Whole | Middle) -> Embedded:
  rows, failed, rates = [], {}, set()
  for file in files:
    try:
      info = probe(file.path)
      start, seconds = scored.span(info.duration)
      if isinstance(encoder, Stored):
        vectors = encoder.embed_ids([file.id])[0]
      else:
        audio, _ = read_audio(
          file.path, sample_rate_hz=encoder.sample_rate_hz, start_seconds=start, seconds=seconds
        )
        vectors = encoder.embed([audio])[0]
      rows.append((file.id, vectors, info.duration if seconds is None else seconds))
      rates.add(info.sample_rate)
    except UserError as error:
      failed[file.id] = str(error)
  return Embedded(
    embeddings=Embeddings.of(rows, width=encoder.width), failed=failed, rates=tuple(rates)
  )


def _key(encoder: Encoder, files: Sequence[File], scored: Whole | Middle) -> str:
  """Differs where anything that the vectors of these files hang on does."""
  how = (encoder.name, encoder.fingerprint, encoder.protocol, str(scored), RESAMPLER)
  what = [(file.id, os.path.abspath(file.path), _stamp(file.path)) for file in files]
  return hashlib.sha256(repr((how, what)).encode()).hexdigest()


def _stamp(path: str) -> tuple[int, int] | None:
  try:
    status = os.stat(path)
  except OSError:
    return None
  return status.st_size, status.st_mtime_ns


def _read(path: Path, key: str) -> Embedded | None:
  """None where there is no such shard, or it holds something else or half."""
  try:
    with np.load(path, allow_pickle=False) as file:
      head = json.loads(str(file["head"]))
      if head["key"] != key:
        return None
      embeddings = Embeddings(
        ids=tuple(head["ids"]),
        counts=file["counts"],
        vectors=file["vectors"],
        seconds=file["seconds"],
      )
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None
  return Embedded(embeddings=embeddings, failed=head["failed"], rates=tuple(head["rates"]))


def _write(path: Path, part: Embedded, key: str) -> None:
  some = part.embeddings
  head = {"key": key, "ids": some.ids, "failed": part.failed, "rates": [*map(int, part.rates)]}
  temporary = path.with_suffix(".tmp.npz")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {"counts": some.counts, "vectors": some.vectors, "seconds": some.seconds}
    np.savez(temporary, head=json.dumps(head), **arrays)
    os.replace(temporary, path)
  except OSError as error:
    temporary.unlink(missing_ok=True)
    raise UserError(
      f"cannot write {path} ({error.strerror}): what is embedded is kept; make room and run again"
    ) from error
