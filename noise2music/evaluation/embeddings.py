"""The vectors of a set of clips: a state that grows, merges, and lies on the disk in shards."""

import dataclasses
import hashlib
import itertools
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
from noise2music.joint_embedding.encoder import EncoderError

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
  """What is kept of one clip. rate: of its file, in Hz."""

  vectors: np.ndarray
  seconds: float
  rate: int


def embed_files(
  encoder: Encoder,
  files: Sequence[File],
  *,
  folder: str | os.PathLike,
  scored: Whole | Middle | None = None,
  say: Say = lambda clips: None,
) -> Embedded:
  """The vectors of audio files, kept in `folder` clip by clip: what is missing is made, no more.

  Vectors hang on the encoder, the seconds that are scored, the clip's id and the file (path, size
  and time). A clip that cannot be read, also since it was deleted meanwhile, costs itself alone.
  say: called with the number of clips done. Raises UserError where the disk is full, EncoderError
  where the encoder is to blame.
  """
  scored = scored or Whole()
  keys = {file.id: _key(encoder, file, scored) for file in files}
  if len(keys) < len(files):
    raise UserError("two clips share a name: give each a name of its own")
  known = _known(Path(folder))
  found = {file.id: known[keys[file.id]] for file in files if keys[file.id] in known}
  missing = [file for file in files if file.id not in found]
  say(len(found))
  failed: dict[str, str] = {}
  for first in range(0, len(missing), CLIPS_A_SHARD):
    some = missing[first : first + CLIPS_A_SHARD]
    made = _embed(encoder, some, scored, failed)
    if made and not isinstance(encoder, Stored):  # which the file itself keeps
      _write(Path(folder), {keys[name]: row for name, row in made.items()})
    found |= made
    say(len(some))
  return Embedded(
    embeddings=Embeddings.of(
      ((name, row.vectors, row.seconds) for name, row in found.items()), width=encoder.width
    ),
    failed=failed,
    rates=tuple(sorted({row.rate for row in found.values()})),
  )


def _embed(
  encoder: Encoder, files: Sequence[File], scored: Whole | Middle, failed: dict[str, str]
) -> dict[str, _Row]:
  """By id; adds to `failed` why a clip has none."""
  ready: dict[str, tuple[np.ndarray | None, float, int]] = {}
  for file in files:
    try:
      info = probe(file.path)
      start, seconds = scored.span(info.duration)
      audio = None
      if not isinstance(encoder, Stored):
        audio, _ = read_audio(
          file.path, sample_rate_hz=encoder.sample_rate_hz, start_seconds=start, seconds=seconds
        )
      ready[file.id] = audio, info.duration if seconds is None else seconds, info.sample_rate
    except UserError as error:
      failed[file.id] = str(error)
  vectors = _vectors(encoder, {name: audio for name, (audio, _, _) in ready.items()}, failed)
  return {
    name: _Row(vectors=rows, seconds=ready[name][1], rate=ready[name][2])
    for name, rows in vectors.items()
  }


def _vectors(
  encoder: Encoder, clips: dict[str, np.ndarray | None], failed: dict[str, str]
) -> dict[str, np.ndarray]:
  """All at once; one by one where a clip among them cannot be embedded."""

  def embed(names: list[str]) -> list[np.ndarray]:
    if isinstance(encoder, Stored):
      return encoder.embed_ids(names)
    return encoder.embed([clips[name] for name in names])

  names = list(clips)
  try:
    return dict(zip(names, embed(names), strict=True)) if names else {}
  except EncoderError:
    raise
  except UserError:
    out = {}
    for name in names:
      try:
        out[name] = embed([name])[0]
      except EncoderError:
        raise
      except UserError as error:
        failed[name] = str(error)
    return out


def _key(encoder: Encoder, file: File, scored: Whole | Middle) -> str:
  """Differs where anything that the vectors of this file hang on does."""
  how = (encoder.name, encoder.fingerprint, encoder.protocol, str(scored), RESAMPLER)
  what = (file.id, os.path.abspath(file.path), _stamp(file.path))
  return hashlib.sha256(repr((how, what)).encode()).hexdigest()


def _stamp(path: str) -> tuple[int, int] | None:
  try:
    status = os.stat(path)
  except OSError:
    return None
  return status.st_size, status.st_mtime_ns


def _known(folder: Path) -> dict[str, _Row]:
  """By key, of all shards that are whole."""
  rows: dict[str, _Row] = {}
  for path in sorted(folder.glob("*.npz")):
    try:
      with np.load(path, allow_pickle=False) as file:
        parts = np.split(file["vectors"], np.cumsum(file["counts"]))[:-1]
        columns = (file["keys"].tolist(), parts, file["seconds"].tolist(), file["rates"].tolist())
      for key, vectors, seconds, rate in zip(*columns, strict=True):
        rows[key] = _Row(vectors=vectors, seconds=seconds, rate=rate)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
      continue  # it was cut off, and is made again
  return rows


def _write(folder: Path, rows: dict[str, _Row]) -> None:
  name = hashlib.sha256("".join(rows).encode()).hexdigest()[:16]
  temporary = folder / f"{name}.tmp"
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with open(temporary, "wb") as out:
      np.savez(
        out,
        keys=np.array(list(rows)),
        counts=np.array([len(row.vectors) for row in rows.values()], int),
        vectors=np.concatenate([row.vectors for row in rows.values()]),
        seconds=np.array([row.seconds for row in rows.values()]),
        rates=np.array([row.rate for row in rows.values()], int),
      )
    os.replace(temporary, folder / f"{name}.npz")
  except OSError as error:
    temporary.unlink(missing_ok=True)
    raise UserError(
      f"cannot write into {folder} ({error.strerror}): what is embedded is kept; make room and run"
      " again"
    ) from error
