"""Audio files, through soundfile alone: no ffmpeg, no plug-ins. Host only, numpy arrays.

Reading takes whatever libsndfile knows (wav, flac, ogg, opus, mp3, aiff, ...) and fails with one
`AudioError` that names the file and the mend. It never returns non-finite samples.
"""

import dataclasses
import math
import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import soundfile
import soxr

from noise2music.batch import to_int16
from noise2music.errors import UserError

_BLOCK_FRAMES = 1 << 18  # also keeps libsndfile's Vorbis writer off its stack limit
_MP3_RUN_UP = 10 * 1_152  # frames of 1,152 samples
_TOLERATED_SECONDS = 0.1  # encoders pad, and some headers promise a few frames too many
_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_FOREIGN_SUFFIXES = (".m4a", ".aac", ".mp4", ".wma", ".webm", ".mov")


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Container:
  """How a suffix is written. rates: those the format can hold, empty for any."""

  format: str
  subtype: str
  rates: tuple[int, ...] = ()
  max_channels: int = 255


_CONTAINERS = {
  ".wav": _Container(format="WAV", subtype="PCM_16"),
  ".flac": _Container(format="FLAC", subtype="PCM_16", max_channels=8),
  ".ogg": _Container(format="OGG", subtype="VORBIS"),
  ".mp3": _Container(format="MP3", subtype="MPEG_LAYER_III", rates=_MP3_RATES, max_channels=2),
  ".opus": _Container(format="OGG", subtype="OPUS", rates=_OPUS_RATES),
}
AUDIO_SUFFIXES = tuple(_CONTAINERS)


class AudioError(UserError):
  """A file that cannot be read or written: `path` and `reason`, which includes the mend."""

  def __init__(self, path: str | os.PathLike, reason: str):
    super().__init__(str(path), reason)  # both as args, so that it survives pickling
    self.path, self.reason = str(path), reason

  def __str__(self) -> str:
    return f"{self.path}: {self.reason}"


class CutOffError(AudioError):
  """The file ends before its header says so; what is there can be read with whole=False."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioInfo:
  """What the header says. duration in seconds, sample_rate in Hz, frames in samples a channel."""

  duration: float
  sample_rate: int
  channels: int
  frames: int
  format: str


def probe(path: str | os.PathLike) -> AudioInfo:
  """The header of a file, without decoding it.

  Raises:
    AudioError: if it is missing, no file, empty, of an unknown kind, or without samples.
  """
  with _open(path) as file:
    return _info(file)


def read_audio(
  path: str | os.PathLike,
  *,
  sample_rate_hz: int | None = None,
  start_seconds: float = 0.0,
  seconds: float | None = None,
  mono: bool = True,
  whole: bool = True,
) -> tuple[np.ndarray, int]:
  """Decodes a file, or a segment of it: only that part is read.

  A wav, ogg or opus file that was cut off holds less than it should without saying so, and is read
  as far as it goes. One whose header promises more than can be decoded (mp3, flac) is refused.

  Args:
    path: of the file.
    sample_rate_hz: what to resample to (soxr, high quality); None keeps the file's rate.
    start_seconds: where to begin.
    seconds: how much to read; None: to the end. A file that ends earlier gives less.
    mono: True averages the channels.
    whole: False gives what there is of a file whose header promises more.

  Returns:
    (float32 [samples] if mono, else float32 [channels, samples]; sample rate in Hz).

  Raises:
    AudioError: if it cannot be read, ends before start_seconds, or holds NaN or infinity.
  """
  if not start_seconds >= 0 or (seconds is not None and not seconds > 0):
    raise AudioError(path, f"cannot read {seconds} s from {start_seconds} s: give positive times")
  if sample_rate_hz is not None and sample_rate_hz < 1:
    raise AudioError(path, f"cannot resample to {sample_rate_hz} Hz: give a positive rate")
  with _open(path) as file:
    info = _info(file)
    start = round(start_seconds * info.sample_rate)
    if start >= info.frames:
      raise AudioError(path, f"ends at {info.duration:.2f} s, before {start_seconds:.2f} s")
    wanted = info.frames - start
    if seconds is not None:
      wanted = min(wanted, max(1, round(seconds * info.sample_rate)))
    audio = _read_frames(path, file, start=start, wanted=wanted, mono=mono, whole=whole)
  if not np.isfinite(audio).all():
    raise AudioError(path, "holds samples that are NaN or infinite: export it again")
  rate = sample_rate_hz or info.sample_rate
  if rate != info.sample_rate:
    audio = convert_rate(audio, from_hz=info.sample_rate, to_hz=rate)
  return np.ascontiguousarray(audio[:, 0] if mono else audio.T), rate


def write_audio(path: str | os.PathLike, audio: np.ndarray, *, sample_rate_hz: int) -> int:
  """Writes a file in the format of its suffix: .wav and .flac (16 bit), .ogg, .mp3, .opus.

  Opus holds 8, 12, 16, 24 or 48 kHz and mp3 the nine rates of MPEG; audio at any other rate is
  resampled (soxr) to the next one above, or the highest. Samples beyond [-1, 1] are clipped. The
  file appears under its name when it is complete, and an older one stays until then.

  Args:
    path: with one of AUDIO_SUFFIXES, in a folder that exists.
    audio: floats, [samples] or [channels, samples].
    sample_rate_hz: of `audio`.

  Returns:
    The sample rate of the file in Hz.

  Raises:
    AudioError: for another suffix, a missing folder, audio that is empty, not finite, no floats or
      has more channels than the format holds, or a failure to write.
  """
  path = Path(path)
  container = _CONTAINERS.get(path.suffix.lower())
  if container is None:
    raise AudioError(path, f"cannot be written: use one of {', '.join(AUDIO_SUFFIXES)}")
  if not path.parent.is_dir():
    raise AudioError(path, "cannot be written, its folder does not exist: create it first")
  frames = _check_for_writing(path, audio, container)
  if sample_rate_hz < 1:
    raise AudioError(path, f"cannot be written at {sample_rate_hz} Hz: give a positive rate")
  rate = sample_rate_hz
  if container.rates and rate not in container.rates:
    rate = min((r for r in container.rates if r > rate), default=container.rates[-1])
    frames = convert_rate(frames, from_hz=sample_rate_hz, to_hz=rate)
  _write_frames(path, np.clip(frames, -1.0, 1.0), container=container, rate=rate)
  return rate


def _open(path: str | os.PathLike) -> soundfile.SoundFile:
  file = Path(path)
  if not file.exists():
    raise AudioError(path, "does not exist: check the path")
  if not file.is_file():
    raise AudioError(path, "is a folder or device, not an audio file: name a file")
  if file.suffix.lower() in _FOREIGN_SUFFIXES:
    mend = f"ffmpeg -i {file.name} {file.stem}.flac"
    raise AudioError(path, f"{file.suffix} is not read here: convert it first, e.g. with {mend}")
  if file.stat().st_size == 0:
    raise AudioError(path, "is empty (0 bytes): remove it or copy it again")
  try:
    return soundfile.SoundFile(os.fspath(path))
  except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: .raw wants settings
    raise AudioError(
      path, f"is no audio that can be read ({_reason(error)}): replace or remove it"
    ) from error


def _info(file: soundfile.SoundFile) -> AudioInfo:
  if file.frames < 1:
    raise AudioError(file.name, "holds no samples: remove it or copy it again")
  return AudioInfo(
    duration=file.frames / file.samplerate,
    sample_rate=file.samplerate,
    channels=file.channels,
    frames=file.frames,
    format=f"{file.format}/{file.subtype}",
  )


def _read_frames(
  path: str | os.PathLike,
  file: soundfile.SoundFile,
  *,
  start: int,
  wanted: int,
  mono: bool,
  whole: bool,
) -> np.ndarray:
  """float32 [frames, channels or 1], block by block: a header may promise more than there is."""
  # An mp3 frame may borrow bits from those before it, and soundfile, which seeks after each call,
  # makes the decoder forget them: so some frames more, and all in one call.
  run_up = min(start, _MP3_RUN_UP) if file.format == "MP3" else 0
  block_frames = wanted if file.format == "MP3" else _BLOCK_FRAMES
  blocks, have = [], 0
  try:
    if start:
      file.seek(start - run_up)
    while have < wanted:
      count = min(block_frames, wanted - have)
      block = file.read(run_up + count, dtype="float32", always_2d=True)[run_up:]
      have, run_up = have + len(block), 0
      with np.errstate(all="ignore"):  # NaN and infinity are reported by the caller
        blocks.append(block.mean(axis=1, keepdims=True) if mono else block)
      if len(block) < count:
        break
  except (soundfile.SoundFileError, OSError, MemoryError) as error:
    reason = f"is damaged or cut off ({_reason(error)}): replace or remove it"
    raise AudioError(path, reason) from error
  short = wanted - have > min(_TOLERATED_SECONDS * file.samplerate, wanted - 1)
  if short and (whole or not have):
    at = (start + have) / file.samplerate
    promised = file.frames / file.samplerate
    raise CutOffError(path, f"is cut off at {at:.2f} of {promised:.2f} s: replace it")
  return np.concatenate(blocks)


def convert_rate(frames: np.ndarray, *, from_hz: int, to_hz: int) -> np.ndarray:
  """[frames, channels] -> [round(frames * to / from), channels], at least one frame."""
  length = max(1, math.floor(len(frames) * to_hz / from_hz + 0.5))
  out = soxr.resample(frames, from_hz, to_hz)[:length]  # off by one at times
  return np.pad(out, [(0, length - len(out)), (0, 0)])


def _check_for_writing(path: Path, audio: np.ndarray, container: _Container) -> np.ndarray:
  """[samples] or [channels, samples] -> float32 [samples, channels]."""
  audio = np.asarray(audio)
  if not np.issubdtype(audio.dtype, np.floating) or audio.ndim not in (1, 2):
    raise AudioError(
      path,
      "cannot be written: give floats [samples] or [channels, samples], "
      f"not {audio.dtype}{list(audio.shape)}",
    )
  frames = np.atleast_2d(audio).T.astype(np.float32)
  if not frames.size:
    raise AudioError(path, "cannot be written without samples: give at least one")
  if frames.shape[1] > container.max_channels:
    raise AudioError(
      path,
      f"cannot hold {frames.shape[1]} channels: give at most {container.max_channels} "
      "(an array is [channels, samples])",
    )
  if not np.isfinite(frames).all():
    raise AudioError(path, "cannot be written: the audio holds NaN or infinity, mend its source")
  return frames


def _write_frames(path: Path, frames: np.ndarray, *, container: _Container, rate: int) -> None:
  part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
  try:
    with soundfile.SoundFile(
      os.fspath(part),
      "w",
      samplerate=rate,
      channels=frames.shape[1],
      format=container.format,
      subtype=container.subtype,
    ) as file:
      for start in range(0, len(frames), _BLOCK_FRAMES):
        block = frames[start : start + _BLOCK_FRAMES]
        # Rounded here, so that what was int16 comes back as the same int16.
        file.write(to_int16(block) if container.subtype == "PCM_16" else block)
    os.replace(part, path)
  except (soundfile.SoundFileError, OSError, AssertionError) as error:  # assertion: a short write
    # libsndfile says "System error" to a full disk.
    full = shutil.disk_usage(path.parent).free < frames.nbytes // 2  # as 16 bit
    reason = "the disk is full" if full else _reason(error)
    mend = "make room" if full else "check space and rights"
    raise AudioError(path, f"cannot be written ({reason}): {mend}") from error
  finally:
    part.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
  text = getattr(error, "error_string", "") or str(error)
  return text.strip().rstrip(".") or "the decoder gave up"
