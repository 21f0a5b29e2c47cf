"""Cuts one music file into clips: the pure work that the local pool and Beam both run.

A file becomes consecutive clips of `CutSpec.seconds`, mono, int16, at one rate. Two clips never
overlap. What is left at the end is a clip of its own when it is at least `min_seconds` long; it is
stored as long as it is, and training pads it and masks the padding. A file shorter than a clip is
such an end too. Reading goes clip by clip, so a file of any length needs the memory of one.

Clips whose peak is above 1 are scaled down to 1, each by itself: clipping would distort them.

Clips that cannot be decoded, are not finite or silent are left out; the rest of the file is kept.
A bad file is a `CutResult` without pieces and with reasons. Only trouble with the output raises.
"""

import collections
import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.manifest import Clip, cannot_write
from data_pipelines.report import REFUSED, REPAIRED, Problem, describe_error
from data_pipelines.truncation import looks_cut_off
from noise2music.audio.wav_io import AudioInfo, CutOffError, probe, read_audio, write_audio
from noise2music.errors import UserError

_LOSSLESS = (".flac", ".wav")
# Decoding lossy files of loud masters overshoots 1: of 104 real ones 71 did, by up to 1.56. Above
# this the file itself is too loud.
_LOUD_PEAK = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutSpec:
  """How to cut.

  seconds: length of a clip; 29.44 s is 23 x 4096 samples at 3.2 kHz, so that the waveform stages
  need no padding. sample_rate_hz: of the clips. suffix: .flac is about half the size of .wav, .wav
  is faster to read from the middle. min_seconds: the shortest clip worth keeping, as long as the
  longest snippet that the cascaders train on. max_clips: the first so many clips of a file (the
  paper took six), None for all. min_sample_rate_hz: duller sources are refused.
  silence_peak: clips that never exceed it are left out; 0.001 is -60 dB of full scale.
  Raises UserError for settings that cannot be.
  """

  seconds: float = 29.44
  sample_rate_hz: int = 24_000
  suffix: str = ".flac"
  min_seconds: float = 4.0
  max_clips: int | None = None
  min_sample_rate_hz: int = 16_000
  silence_peak: float = 1e-3

  def __post_init__(self):
    if not 0 < self.seconds < float("inf"):
      raise UserError(f"seconds must be above 0, not {self.seconds:g}")
    if not 0 < self.min_seconds <= self.seconds:
      raise UserError(
        f"min_seconds must be above 0 and at most seconds ({self.seconds:g}), "
        f"not {self.min_seconds:g}"
      )
    if self.sample_rate_hz < 1 or self.min_sample_rate_hz < 1:
      raise UserError("sample_rate_hz and min_sample_rate_hz must be 1 or more")
    if self.suffix not in _LOSSLESS:
      raise UserError(f"suffix must be one of {', '.join(_LOSSLESS)}, not {self.suffix!r}")
    if self.max_clips is not None and self.max_clips < 1:
      raise UserError(f"max_clips must be 1 or more, not {self.max_clips}")
    if not 0 <= self.silence_peak < 1:
      raise UserError(f"silence_peak must be from 0 to below 1, not {self.silence_peak:g}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
  """A clip that was written. path: below the output folder. start, duration: seconds."""

  path: str
  start: float
  duration: float
  sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutResult:
  """What became of one file.

  reasons: what was wrong, empty for a file that was simply fine. sample_rate: Hz, of the file.
  dropped_seconds: of an end too short to keep, or past max_clips.
  """

  pieces: tuple[Piece, ...] = ()
  reasons: tuple[str, ...] = ()
  sample_rate: int | None = None
  dropped_seconds: float = 0.0

  def problem(self, audio: str | os.PathLike) -> Problem | None:
    """The one line of the report for this file, None when there is nothing to say."""
    if not self.reasons:
      return None
    status = REPAIRED if self.pieces else REFUSED
    return Problem(path=os.fspath(audio), reason="; ".join(self.reasons), status=status)

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, record: dict[str, Any]) -> "CutResult":
    pieces = tuple(Piece(**piece) for piece in record["pieces"])
    return cls(**{**record, "pieces": pieces, "reasons": tuple(record["reasons"])})


class Interrupted(Exception):
  """`keep_going` said no between two clips."""


def cut_file(
  audio: str | os.PathLike,
  *,
  clip_id: str,
  out_dir: str | os.PathLike,
  spec: CutSpec,
  keep_going: Callable[[], bool] = lambda: True,
) -> CutResult:
  """Writes the clips of one file below `out_dir`; file names depend on `clip_id` alone.

  Running it twice, or on two machines at once, gives the same files. Raises CannotWrite when the
  output cannot be written, and Interrupted; whatever is wrong with the input is in the result.
  """
  try:
    open(audio, "rb").close()  # decoders do not say when it is the rights that are missing
    info = probe(audio)
    _refuse_unusable(info, spec)
    cut_off = looks_cut_off(audio, decoded=True)
  except Exception as error:  # one bad file, whatever is wrong with it, must not end the run
    return CutResult(reasons=(describe_error(error),))
  reasons = [cut_off] if cut_off else []
  if info.channels > 2:
    reasons.append(f"{info.channels} channels mixed to one")
  pieces, flaws, start = [], collections.defaultdict(list), 0.0
  for index in itertools.count():
    start = index * spec.seconds
    if info.duration - start < spec.min_seconds or index == spec.max_clips:
      break
    if not keep_going():
      raise Interrupted
    wanted = min(spec.seconds, info.duration - start)
    sound, flaw = _read_clip(audio, start=start, seconds=wanted, spec=spec)
    if flaw:
      flaws[flaw].append(start)
    if sound is not None:
      path = _clip_path(clip_id, index=index, spec=spec)
      pieces.append(_write(path, sound, start=start, out_dir=Path(out_dir), spec=spec))
  for flaw, starts in flaws.items():
    many = f"{len(starts)} clips, the first " if len(starts) > 1 else "clip "
    reasons.append(f"{flaw} ({many}at {starts[0]:.2f} s)")
  return CutResult(
    pieces=tuple(pieces),
    reasons=tuple(reasons),
    sample_rate=info.sample_rate,
    dropped_seconds=max(0.0, info.duration - start),
  )


def clips_of(source: Clip, result: CutResult, *, spec: CutSpec) -> list[Clip]:
  """The manifest's lines for the pieces of `source`, with its texts, licence, split and extras."""
  return [
    Clip(
      path=piece.path,
      duration=piece.duration,
      sample_rate=spec.sample_rate_hz,
      captions=source.captions,
      license=source.license,
      split=source.split,
      sha256=piece.sha256,
      id=f"{source.id}@{piece.start:.2f}",
      extra={
        **source.extra,
        "source_id": source.id,
        "source_start": piece.start,
        "source_sample_rate": result.sample_rate,
        "source_sha256": source.sha256,
      },
    )
    for piece in result.pieces
  ]


def _refuse_unusable(info: AudioInfo, spec: CutSpec) -> None:
  if info.duration < spec.min_seconds:
    raise UserError(
      f"{info.duration:.2f} s long, shorter than {spec.min_seconds:g} s: lower --min-seconds to"
      " keep it"
    )
  if info.sample_rate < spec.min_sample_rate_hz:
    raise UserError(
      f"sampled at {info.sample_rate} Hz, below {spec.min_sample_rate_hz} Hz: lower"
      " --min-sample-rate-hz to keep it"
    )


def _read_clip(
  audio: str | os.PathLike, *, start: float, seconds: float, spec: CutSpec
) -> tuple[np.ndarray | None, str | None]:
  """float32 [samples] in [-1, 1] at the clips' rate, None if of no use; and what was wrong."""
  rate = spec.sample_rate_hz
  piece = {"sample_rate_hz": rate, "start_seconds": start, "seconds": seconds}
  cut_off = None
  try:
    try:
      sound, _ = read_audio(audio, **piece)
    except CutOffError:
      sound, _ = read_audio(audio, **piece, whole=False)
      if sound.size < spec.min_seconds * rate:
        raise
      cut_off = f"cut off after {start + sound.size / rate:.2f} s, what is there is used"
  except Exception as error:  # as in cut_file; the next clip may be fine
    return None, f"{describe_error(error)}, left out"
  sound = sound[: round(seconds * rate)]
  peak = float(np.abs(sound).max())
  if peak <= spec.silence_peak:
    return None, "silence, left out"
  if peak <= 1:
    return sound, cut_off
  loud = "louder than full scale, scaled down" if peak > _LOUD_PEAK else None
  return sound / np.float32(peak), cut_off or loud


def _clip_path(clip_id: str, *, index: int, spec: CutSpec) -> str:
  """ASCII, short and unique; the first letters of the name help who looks at the folder."""
  digest = hashlib.sha256(clip_id.encode()).hexdigest()
  slug = re.sub(r"[^A-Za-z0-9]+", "_", Path(clip_id).stem).strip("_")[:32] or "clip"
  return f"clips/{digest[:2]}/{slug}-{digest[:12]}-{index:04d}{spec.suffix}"


def _write(path: str, sound: np.ndarray, *, start: float, out_dir: Path, spec: CutSpec) -> Piece:
  target = out_dir / path
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_audio(target, sound, sample_rate_hz=spec.sample_rate_hz)
    digest = hashlib.sha256(target.read_bytes()).hexdigest()
  except Exception as error:  # the encoder's own errors too; none of them is the input's fault
    raise cannot_write(target, error, needed_bytes=2 * sound.nbytes) from error
  duration = sound.size / spec.sample_rate_hz
  return Piece(path=path, start=round(start, 6), duration=duration, sha256=digest)
