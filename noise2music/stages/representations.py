"""What a stage makes or is conditioned on: a waveform at some rate, or a log-mel spectrogram.

A representation maps mono audio to the signal that a network sees and back. Both directions are
jax functions, so they run inside the jitted step; nothing is stored on disk in this form.
"""

import dataclasses
from typing import Protocol, runtime_checkable

from noise2music import typing as n2m
from noise2music.audio.log_mel import LogMel
from noise2music.audio.resample import resample, resampled_length


@runtime_checkable
class Representation(Protocol):
  """A signal [batch, time, channels] that stands for mono audio."""

  @property
  def channels(self) -> int: ...

  @property
  def rate_hz(self) -> int:
    """Time steps of the signal in a second."""

  @property
  def audio_rate_hz(self) -> int:
    """Of the audio that it is decoded to."""

  @property
  def limit(self) -> float:
    """The largest magnitude that stands for legal audio: where sampling clips."""

  def length(self, samples: int, *, sample_rate_hz: int) -> int:
    """Time steps of the signal of `samples` audio samples."""

  def encode(self, audio: n2m.Waveform, *, sample_rate_hz: int) -> n2m.Signal:
    """[batch, samples] at any rate -> [batch, time, channels]."""

  def decode(self, signal: n2m.Signal) -> tuple[n2m.Waveform, int]:
    """[batch, time, channels] -> ([batch, samples], sample_rate_hz)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Waveform:
  """Audio at `sample_rate_hz`, times `gain`.

  The noise schedules suppose data of about unit variance, and music is quieter than that; a gain
  that brings the data set's standard deviation to about 0.5 spends the noise levels where there is
  something to learn. 1 is the paper's setting.
  """

  sample_rate_hz: int
  gain: float = 1.0

  def __str__(self) -> str:
    times = f" times {self.gain:g}" if self.gain != 1 else ""
    return f"audio at {self.sample_rate_hz:,} Hz{times}"

  def __post_init__(self):
    if self.sample_rate_hz <= 0 or self.gain <= 0:
      raise ValueError(f"sample_rate_hz and gain must be positive, got {self}")

  @property
  def channels(self) -> int:
    return 1

  @property
  def rate_hz(self) -> int:
    return self.sample_rate_hz

  @property
  def audio_rate_hz(self) -> int:
    return self.sample_rate_hz

  @property
  def limit(self) -> float:
    return self.gain

  def length(self, samples: int, *, sample_rate_hz: int) -> int:
    return resampled_length(samples, from_hz=sample_rate_hz, to_hz=self.sample_rate_hz)

  def encode(self, audio: n2m.Waveform, *, sample_rate_hz: int) -> n2m.Signal:
    audio = resample(audio, from_hz=sample_rate_hz, to_hz=self.sample_rate_hz)
    return self.gain * audio[..., None]

  def decode(self, signal: n2m.Signal) -> tuple[n2m.Waveform, int]:
    return signal[..., 0] / self.gain, self.sample_rate_hz


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spectrogram:
  """Log-mel spectrogram in [-1, 1], times `gain`: one channel a mel band."""

  log_mel: LogMel
  gain: float = 1.0

  def __str__(self) -> str:
    return f"a log-mel spectrogram of {self.log_mel.bands} bands"

  @property
  def channels(self) -> int:
    return self.log_mel.bands

  @property
  def rate_hz(self) -> int:
    return self.log_mel.frames_per_second

  @property
  def audio_rate_hz(self) -> int:
    return self.log_mel.sample_rate_hz

  @property
  def limit(self) -> float:
    return self.gain

  def length(self, samples: int, *, sample_rate_hz: int) -> int:
    samples = resampled_length(samples, from_hz=sample_rate_hz, to_hz=self.log_mel.sample_rate_hz)
    return samples * self.log_mel.frames_per_second // self.log_mel.sample_rate_hz

  def encode(self, audio: n2m.Waveform, *, sample_rate_hz: int) -> n2m.Signal:
    audio = resample(audio, from_hz=sample_rate_hz, to_hz=self.log_mel.sample_rate_hz)
    return self.gain * self.log_mel(audio)

  def decode(self, signal: n2m.Signal) -> tuple[n2m.Waveform, int]:
    """By Griffin-Lim: for listening in, where no vocoder exists."""
    return self.log_mel.inverse(signal / self.gain), self.log_mel.sample_rate_hz
