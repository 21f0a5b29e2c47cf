"""Audio that somebody brings along, checked and brought to one rate. Host only."""

import dataclasses
import os

import numpy as np

from noise2music.audio.wav_io import convert_rate, read_audio
from noise2music.errors import UserError

LOUDEST = 2.0  # decoders overshoot 1 a little; integers that nobody divided overshoot it by far


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
  """audio: floats [clips, samples] or [samples], in [-1, 1]; kept as float32 [clips, samples].

  Raises UserError, when built, on audio that is nothing to work with.
  """

  audio: np.ndarray
  sample_rate_hz: int

  def __post_init__(self):
    audio = np.asarray(self.audio)
    if not np.issubdtype(audio.dtype, np.floating) or audio.ndim not in (1, 2) or not audio.size:
      raise UserError(
        "the audio must be floats [samples] or [clips, samples] in [-1, 1], got"
        f" {audio.dtype}{list(audio.shape)}"
      )
    if self.sample_rate_hz < 1:
      raise UserError(f"the audio's sample rate must be positive, got {self.sample_rate_hz} Hz")
    if not np.isfinite(audio).all():
      raise UserError("the audio holds NaN or infinity: mend its source")
    if np.abs(audio).max() > LOUDEST:
      raise UserError(
        f"the audio reaches {np.abs(audio).max():g}: scale it to [-1, 1] (int16 by 1 / 32,768)"
      )
    audio = np.clip(np.atleast_2d(audio), -1, 1).astype(np.float32)
    object.__setattr__(self, "audio", audio)

  @classmethod
  def read(cls, path: str | os.PathLike) -> "Recording":
    """From a file of any rate and number of channels, which are averaged. Raises UserError."""
    audio, rate = read_audio(path)
    if not audio.any():
      raise UserError(f"{path} is silent from beginning to end: give audio with something in it")
    return cls(audio=audio, sample_rate_hz=rate)

  @property
  def seconds(self) -> float:
    return self.audio.shape[1] / self.sample_rate_hz

  def at(self, sample_rate_hz: int) -> "Recording":
    """The same at another rate."""
    if sample_rate_hz == self.sample_rate_hz:
      return self
    audio = convert_rate(self.audio.T, from_hz=self.sample_rate_hz, to_hz=sample_rate_hz).T
    return Recording(audio=np.clip(audio, -1, 1), sample_rate_hz=sample_rate_hz)

  def lasting(self, seconds: float) -> "Recording":
    """Cut off, or gone on with mirrored, so that nothing jumps where it ends."""
    samples = max(1, round(seconds * self.sample_rate_hz))
    missing = max(0, samples - self.audio.shape[1])
    audio = np.pad(self.audio[:, :samples], ((0, 0), (0, missing)), mode="symmetric")
    return Recording(audio=audio, sample_rate_hz=self.sample_rate_hz)
