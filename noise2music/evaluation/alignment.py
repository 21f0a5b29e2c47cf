"""Where two recordings hold the same music: the offset, the span, and how well it agrees.

Windows of one recording are slid over the other, as log-mel frames, and correlated at every offset.
Each frame is less its own mean, so that a pause or a fade is no likeness, and each band is centred
within the window, so that neither level nor equalisation matters. The correlation is that of
Pearson over frames and bands; all offsets of a window cost one FFT.
"""

import dataclasses
from typing import Any

import numpy as np

from noise2music.audio.log_mel import LogMel
from noise2music.errors import UserError

_LEVEL_DB = -15.0  # every clip is brought to it, so the floor lies as deep under each
_SILENT = 1e-9  # energy under which a window has no shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
  """Seconds of a generated clip that agree with seconds of a training clip.

  score: correlation over the best window, up to 1. span_score: mean over the whole span.
  """

  score: float
  span_score: float
  generated_start_seconds: float
  training_start_seconds: float
  length_seconds: float

  @property
  def offset_seconds(self) -> float:
    """How much later the music is in the training clip than in the generated one."""
    return self.training_start_seconds - self.generated_start_seconds

  def to_json(self) -> dict[str, Any]:
    return {**dataclasses.asdict(self), "offset_seconds": self.offset_seconds}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aligner:
  """Finds the `Span` that two clips share.

  window_seconds: the least that counts as the same: shorter is found by chance, as two pieces share
  a chord. log_mel: the frames compared; its floor hides what lies far under a clip's level.

  As set here, 32 pieces of recorded and generated music scored 0.47 at most against one another,
  and 19 copies (8 s of a piece between other music, under noise 20 dB below) 0.87 or more.

  Raises UserError for a window of less than two frames.
  """

  window_seconds: float = 4.0
  log_mel: LogMel = LogMel(
    sample_rate_hz=8_000, bands=48, frames_per_second=25, window_seconds=0.128, floor_db=-50.0
  )

  def __post_init__(self):
    if not self.window >= 2:
      raise UserError(f"a window of {self.window_seconds:g} s holds no music: give a longer one")

  @property
  def window(self) -> int:
    """Frames of a window."""
    return round(self.window_seconds * self.log_mel.frames_per_second)

  def features(self, audio: np.ndarray, *, sample_rate_hz: int) -> np.ndarray:
    """float [samples] -> float32 [frames, bands], each frame's mean 0.

    Raises UserError for another rate than log_mel's, a clip shorter than the window, or samples
    that are not finite.
    """
    rate = self.log_mel.sample_rate_hz
    if sample_rate_hz != rate:
      raise UserError(f"clips to align must be at {rate} Hz, not {sample_rate_hz}: resample them")
    frames = len(audio) // self.log_mel.hop
    if frames < self.window:
      raise UserError(
        f"a clip of {len(audio) / rate:.2f} s cannot be aligned by windows of "
        f"{self.window_seconds:g} s: leave it out, or set a shorter window"
      )
    audio = np.asarray(audio, np.float32)
    rms = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64))))
    if not np.isfinite(rms):
      raise UserError("a clip to align holds NaN or infinity: mend its source")
    # Samples may exceed 1 then, which only the ceiling of 0 dB and more would show.
    audio = audio * (10 ** (_LEVEL_DB / 20) / rms) if rms else audio
    # Whole blocks of ten seconds: few lengths, so few compilations.
    padded = np.pad(audio, (0, -len(audio) % (10 * rate)))
    out = np.asarray(self.log_mel(padded))[:frames]
    return out - out.mean(axis=1, keepdims=True)

  def align(self, generated: np.ndarray, training: np.ndarray) -> Span:
    """Both as `features` gave them. The best of all windows (half a window apart) and offsets."""
    length = self.window
    starts = list(range(0, len(generated) - length, max(1, length // 2)))
    starts.append(len(generated) - length)
    scores = [window_correlation(generated[s : s + length], training) for s in starts]
    best = int(np.argmax([some.max() for some in scores]))
    place = int(np.argmax(scores[best]))
    return self._span(generated, training, starts[best], place, score=float(scores[best][place]))

  def _span(
    self, generated: np.ndarray, training: np.ndarray, start: int, place: int, *, score: float
  ) -> Span:
    """Grows the best window either way, as far as frames agree half as well as in it."""
    before, length = min(start, place), self.window
    after = min(len(generated) - start, len(training) - place) - length
    a = generated[start - before : start + length + after]
    b = training[place - before : place + length + after]
    inside = slice(before, before + length)
    a, b = a - a[inside].mean(axis=0), b - b[inside].mean(axis=0)
    cosines = np.sum(a * b, axis=1) / np.maximum(
      np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-9
    )
    gain = cosines - 0.5 * cosines[inside].mean()
    left, right = _reach(gain[:before][::-1]), _reach(gain[before + length :])
    span = cosines[before - left : before + length + right]
    rate = self.log_mel.frames_per_second
    return Span(
      score=score,
      span_score=float(span.mean()),
      generated_start_seconds=(start - left) / rate,
      training_start_seconds=(place - left) / rate,
      length_seconds=len(span) / rate,
    )


def window_correlation(window: np.ndarray, frames: np.ndarray) -> np.ndarray:
  """[length, bands] over [frames, bands] -> float64 [frames - length + 1] at every place in it.

  r(d) = sum_ib (w_ib - mean_b w) (f_(i+d)b - mean_b f) / sqrt(sum (w - ..)^2 sum (f - ..)^2), the
  means over the window's frames for each band. 0 where either is constant.
  """
  window, frames = np.asarray(window, np.float64), np.asarray(frames, np.float64)
  length = len(window)
  window = window - window.mean(axis=0)
  frames = frames - frames.mean(axis=0)  # changes nothing, but keeps the sums of squares small
  size = 1 << (len(frames) - 1).bit_length()
  spectrum = np.fft.rfft(frames, size, axis=0) * np.conj(np.fft.rfft(window, size, axis=0))
  # A centred window needs no centred frames: sum (w - mean) c = 0 for any constant c. Places from
  # 0 to frames - length do not wrap around.
  product = np.fft.irfft(spectrum.sum(axis=1), size)[: len(frames) - length + 1]
  energy = _moving_sum(np.sum(frames**2, axis=1), length) - (
    np.sum(_moving_sum(frames, length) ** 2, axis=1) / length
  )
  least = _SILENT * length
  scale = np.sqrt(np.maximum(energy, least) * max(np.sum(window**2), least))
  out = np.where(energy > least, product / scale, 0.0)
  return np.clip(out, -1.0, 1.0) if np.sum(window**2) > least else np.zeros_like(out)


def _moving_sum(values: np.ndarray, length: int) -> np.ndarray:
  """[n, ...] -> [n - length + 1, ...]."""
  sums = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
  return sums[length:] - sums[:-length]


def _reach(gain: np.ndarray) -> int:
  """How many of the first values to take for the largest sum; none where all sums fall."""
  sums = np.concatenate([[0.0], np.cumsum(gain)])
  return int(np.argmax(sums))
