"""Log-mel spectrograms scaled to [-1, 1], and back to sound without a learned vocoder.

Conventions (the paper gives only 80 channels, 100 frames per second and the range [-1, 1]):
- Frame i is centred on the middle of samples [i hop, (i + 1) hop), so n samples are exactly n / hop
  frames, and a frame lies over the samples it stands for whatever the window length.
- Powers are scaled such that a full-scale sine sums to 0 dB over the bands. Samples within [-1, 1]
  can reach 3.01 dB at most (a square wave), which is the ceiling: nothing is ever cut off.
- A band of power p is 10 log10(p + floor) dB; adding the floor, not cutting at it, keeps gradients
  alive and makes silence invert to silence.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from noise2music.typing import Array, Waveform
from noise2music.typing import LogMel as LogMelArray


def hz_to_mel(hz: float | np.ndarray) -> float | np.ndarray:
  """mel = 2595 log10(1 + hz / 700) (O'Shaughnessy)."""
  return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)


def mel_to_hz(mel: float | np.ndarray) -> float | np.ndarray:
  """The inverse of hz_to_mel."""
  return 700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMel:
  """[..., samples] -> [..., samples * frames_per_second / sample_rate_hz, bands] in [-1, 1].

  sample_rate_hz: of the waveform; a multiple of frames_per_second.
  window_seconds: length of the Hann window; the FFT has the next power of two above it.
  min_hz, max_hz: outer edges of the lowest and highest triangle; max_hz None is half the rate.
  floor_db, ceiling_db: mapped to -1 and 1; 0 dB is a sine of amplitude 1.

  Raises:
    ValueError: for a frame rate that does not divide the sample rate, edges out of order, or bands
      so narrow that one has no frequency bin under it.
  """

  sample_rate_hz: int = 16_000
  bands: int = 80
  frames_per_second: int = 100
  window_seconds: float = 0.064
  min_hz: float = 0.0
  max_hz: float | None = None
  floor_db: float = -80.0
  ceiling_db: float = 10 * math.log10(2.0)

  def __post_init__(self):
    if self.bands < 1 or self.frames_per_second < 1:
      raise ValueError("LogMel needs at least one band and one frame per second")
    if self.sample_rate_hz % self.frames_per_second:
      raise ValueError(
        f"LogMel needs a frame rate that divides {self.sample_rate_hz} Hz, "
        f"{self.frames_per_second} per second do not"
      )
    if self.window < self.hop:
      raise ValueError(
        f"LogMel's window of {self.window_seconds} s leaves gaps between "
        f"{self.frames_per_second} frames per second: use a longer one"
      )
    if not 0 <= self.min_hz < self.top_hz <= self.sample_rate_hz / 2:
      raise ValueError(
        f"LogMel needs 0 <= min_hz < max_hz <= {self.sample_rate_hz / 2} Hz (half the rate), "
        f"not {self.min_hz} and {self.top_hz}"
      )
    if not self.floor_db < self.ceiling_db:
      raise ValueError("LogMel needs floor_db below ceiling_db")
    empty = np.flatnonzero(_filters(self).sum(axis=0) <= 0)
    if len(empty):
      raise ValueError(
        f"LogMel has no frequency bin under {len(empty)} of its {self.bands} bands (the first is "
        f"band {empty[0]}): use fewer bands or a longer window_seconds"
      )

  @property
  def hop(self) -> int:
    """Samples per frame."""
    return self.sample_rate_hz // self.frames_per_second

  @property
  def window(self) -> int:
    """Samples under the window."""
    return round(self.window_seconds * self.sample_rate_hz)

  @property
  def fft_size(self) -> int:
    return 1 << (self.window - 1).bit_length()

  @property
  def top_hz(self) -> float:
    return self.sample_rate_hz / 2 if self.max_hz is None else self.max_hz

  @property
  def floor(self) -> float:
    """The power at floor_db."""
    return 10.0 ** (self.floor_db / 10.0)

  def frames(self, samples: int) -> int:
    """Frames of so many samples.

    Raises:
      ValueError: if they are no whole number of frames.
    """
    if samples < 1 or samples % self.hop:
      raise ValueError(
        f"{samples} samples are no whole number of frames of {self.hop}: "
        f"pad or crop them (audio.framing) first"
      )
    return samples // self.hop

  def __call__(self, waveform: Waveform) -> LogMelArray:
    """[..., samples] in [-1, 1] -> float32 [..., frames, bands] in [-1, 1]."""
    self.frames(waveform.shape[-1])
    return _log_mel(jnp.asarray(waveform, jnp.float32), self)

  def power(self, log_mel: LogMelArray) -> Float[Array, "*batch frames bands"]:
    """The band powers that a log-mel stands for; values outside of [-1, 1] are clipped first."""
    scaled = jnp.clip(jnp.asarray(log_mel, jnp.float32), -1.0, 1.0)
    decibels = (scaled + 1.0) / 2.0 * (self.ceiling_db - self.floor_db) + self.floor_db
    return jnp.maximum(10.0 ** (decibels / 10.0) - self.floor, 0.0)

  def inverse(
    self, log_mel: LogMelArray, *, iterations: int = 32, momentum: float = 0.99
  ) -> Waveform:
    """A waveform with nearly this log-mel, for listening: deterministic, differs in phase.

    Bands are spread over frequency bins by non-negative least squares, and phases found by the
    fast Griffin-Lim method (Perraudin et al., 2013).

    Args:
      log_mel: [..., frames, bands].
      iterations: of Griffin-Lim; 0 leaves the phases of steady sines.
      momentum: 0 is the original method of Griffin and Lim (1984).

    Returns:
      float32 [..., frames * hop].
    """
    if log_mel.shape[-1] != self.bands:
      raise ValueError(f"this LogMel has {self.bands} bands, the array has {log_mel.shape[-1]}")
    return _griffin_lim(self.power(log_mel), self, iterations, momentum)


@functools.partial(jax.jit, static_argnums=1)
def _log_mel(waveform: jax.Array, mel: LogMel) -> jax.Array:
  spectrum = _stft(waveform, mel)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  power = jnp.matmul(power, _filters(mel), precision="highest")
  decibels = 10.0 * jnp.log10(power + mel.floor)
  scaled = 2.0 * (decibels - mel.floor_db) / (mel.ceiling_db - mel.floor_db) - 1.0
  return jnp.clip(scaled, -1.0, 1.0)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _griffin_lim(
  power: jax.Array, mel: LogMel, iterations: int, momentum: float | jax.Array
) -> jax.Array:
  """Band powers [..., frames, bands] -> waveform [..., frames * hop]."""
  magnitude = jnp.sqrt(_unmix(power, mel))
  start = magnitude * jnp.exp(1j * _steady_phase(magnitude.shape[-2], mel))

  def step(carry: tuple[jax.Array, jax.Array], _) -> tuple[tuple[jax.Array, jax.Array], None]:
    guess, last = carry
    consistent = _stft(_istft(guess, mel), mel)
    sped_up = consistent + momentum * (consistent - last)
    phase = sped_up / jnp.maximum(jnp.abs(sped_up), 1e-12)
    return (magnitude * phase, consistent), None

  (spectrum, _), _ = jax.lax.scan(step, (start, start), None, length=iterations)
  return _istft(spectrum, mel)


def _hann(mel: LogMel) -> np.ndarray:
  """Periodic Hann window, scaled so that |STFT|^2 of a full-scale sine sums to 1 over bins."""
  window = np.sin(np.pi * np.arange(mel.window) / mel.window) ** 2
  return (window * math.sqrt(4.0 / (mel.fft_size * np.sum(window**2)))).astype(np.float32)


@functools.lru_cache(maxsize=32)
def _filters(mel: LogMel) -> np.ndarray:
  """float32 [bins, bands]: triangles of height 1, evenly spaced in mel."""
  edges = mel_to_hz(np.linspace(hz_to_mel(mel.min_hz), hz_to_mel(mel.top_hz), mel.bands + 2))
  bins = np.arange(mel.fft_size // 2 + 1)[:, None] * mel.sample_rate_hz / mel.fft_size
  rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  filters = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
  filters.flags.writeable = False  # it is shared by every LogMel that equals this one
  return filters


def _stft(waveform: jax.Array, mel: LogMel) -> jax.Array:
  """[..., frames * hop] -> complex64 [..., frames, bins]; silence is assumed beyond the ends."""
  frames = waveform.shape[-1] // mel.hop
  before, blocks = _layout(mel)
  after = (frames + blocks - 1) * mel.hop - waveform.shape[-1] - before
  lead = waveform.shape[:-1]
  padded = jnp.pad(waveform, [(0, 0)] * len(lead) + [(before, after)])
  padded = padded.reshape(*lead, frames + blocks - 1, mel.hop)
  # Neighbouring frames share most samples: lay shifted views side by side instead of gathering.
  windows = jnp.concatenate([padded[..., k : k + frames, :] for k in range(blocks)], axis=-1)
  return jnp.fft.rfft(windows[..., : mel.window] * _hann(mel), n=mel.fft_size, axis=-1)


def _istft(spectrum: jax.Array, mel: LogMel) -> jax.Array:
  """The least-squares inverse of `_stft`."""
  frames = spectrum.shape[-2]
  before, blocks = _layout(mel)
  window = _hann(mel)
  pieces = jnp.fft.irfft(spectrum, n=mel.fft_size, axis=-1)[..., : mel.window] * window
  total = _overlap_add(pieces, mel.hop, blocks)
  weight = _overlap_add(jnp.broadcast_to(window**2, (frames, mel.window)), mel.hop, blocks)
  waveform = total / jnp.maximum(weight, 1e-3 * weight.max())
  return waveform[..., before : before + frames * mel.hop]


def _layout(mel: LogMel) -> tuple[int, int]:
  """Samples that the first window begins before the clip, and hops that a window spans."""
  return (mel.window - mel.hop) // 2, -(-mel.window // mel.hop)


def _overlap_add(pieces: jax.Array, hop: int, blocks: int) -> jax.Array:
  """[..., frames, window] -> [..., (frames + blocks - 1) * hop]."""
  lead, frames = pieces.shape[:-2], pieces.shape[-2]
  none = [(0, 0)] * len(lead)
  pieces = jnp.pad(pieces, [*none, (0, 0), (0, blocks * hop - pieces.shape[-1])])
  pieces = pieces.reshape(*lead, frames, blocks, hop)
  total = sum(
    jnp.pad(pieces[..., k, :], [*none, (k, blocks - 1 - k), (0, 0)]) for k in range(blocks)
  )
  return total.reshape(*lead, (frames + blocks - 1) * hop)


def _unmix(power: jax.Array, mel: LogMel, *, iterations: int = 50) -> jax.Array:
  """[..., frames, bands] -> [..., frames, bins] >= 0 whose bands are nearly the given powers.

  Lee and Seung's multiplicative updates for non-negative least squares from the transpose on: a
  plain pseudo-inverse has negative lobes, which cut to zero leave the bands wrong.
  """
  filters = _filters(mel)
  share = filters / np.maximum(filters.sum(axis=0), 1e-12)
  guess = power @ share.T
  target = power @ filters.T
  overlap = filters @ filters.T

  def step(_: jax.Array, guess: jax.Array) -> jax.Array:
    return guess * target / jnp.maximum(guess @ overlap, 1e-20)

  return jax.lax.fori_loop(0, iterations, step, guess)


def _steady_phase(frames: int, mel: LogMel) -> np.ndarray:
  """float32 [frames, bins]: each bin turns at its own frequency, staggered over the bins.

  A tone then starts coherent between frames; equal starting phases would sound as a click a frame.
  """
  bins = np.arange(mel.fft_size // 2 + 1)
  turns = np.arange(frames)[:, None] * bins * mel.hop / mel.fft_size + bins**2 / (2 * len(bins))
  return (2 * np.pi * (turns % 1.0)).astype(np.float32)
