"""Change of sample rate by cutting or zero-padding the spectrum.

The paper up-samples its low-fidelity conditioning "by FFT"; the same operation downward is an
ideal low-pass filter, so up and then down is the identity, and so is down and then up for a signal
without energy above the lower Nyquist frequency. The signal is taken as periodic: what rings over
one end comes back at the other.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from noise2music.audio import framing
from noise2music.typing import Array

BLOCK = 1 << 16  # samples of a block at the higher rate, at most


def resampled_length(n: int, *, from_hz: int, to_hz: int) -> int:
  """n * to_hz / from_hz, halves rounded up, at least 1 (in whole numbers, so exact at any n).

  Raises:
    ValueError: if a rate is below 1 Hz or n below 1.
  """
  if from_hz < 1 or to_hz < 1:
    raise ValueError(f"sample rates must be at least 1 Hz, not {from_hz} and {to_hz}")
  if n < 1:
    raise ValueError(f"cannot resample {n} samples: give at least one")
  return max(1, (2 * n * to_hz + from_hz) // (2 * from_hz))


def resample(
  x: Float[Array, "*batch samples"], *, from_hz: int, to_hz: int
) -> Float[Array, "*batch resampled"]:
  """Resamples the last axis from one rate to the other.

  A length n for which n * to_hz / from_hz is no whole number is padded with zeros until it is,
  and the result is cropped to `resampled_length(n)`, so time stays aligned to the sample.

  Args:
    x: [..., samples], floating point.
    from_hz, to_hz: whole sample rates in Hz.

  Returns:
    float32 [..., resampled_length(samples)].

  Raises:
    ValueError: for integer samples (scale them to [-1, 1] first), rates below 1, or no samples.
  """
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f"resample takes floats in [-1, 1], not {x.dtype}: divide by 32768 first")
  n = x.shape[-1]
  length = resampled_length(n, from_hz=from_hz, to_hz=to_hz)
  x = jnp.asarray(x, jnp.float32)
  if from_hz == to_hz:
    return x
  common = math.gcd(from_hz, to_hz)
  up, down = to_hz // common, from_hz // common
  padded = framing.padded_length(n, down)
  x = framing.pad_to(x, padded)
  return framing.fit(_resize_spectrum(x, padded // down * up), length)


@functools.partial(jax.jit, static_argnums=1)
def _resize_spectrum(x: jax.Array, length: int) -> jax.Array:
  """[..., n] -> [..., length] through the real FFT, scaled so that amplitudes stay."""
  n = x.shape[-1]
  spectrum = jnp.fft.rfft(x, axis=-1)
  shorter = min(n, length)
  kept = spectrum[..., : shorter // 2 + 1]
  if shorter % 2 == 0 and n != length:
    # Bin shorter/2 is the sum of +f and -f in the short spectrum, and only +f in the long one.
    # Halving upward and doubling downward (real part: the imaginary one aliases to zero) makes
    # up-then-down exact with energy at the Nyquist frequency too.
    nyquist = kept[..., -1:]
    nyquist = nyquist / 2 if length > n else (2 * nyquist.real).astype(kept.dtype)
    kept = jnp.concatenate([kept[..., :-1], nyquist], axis=-1)
  missing = length // 2 + 1 - kept.shape[-1]
  kept = jnp.pad(kept, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
  return jnp.fft.irfft(kept, n=length, axis=-1) * (length / n)


def resample_in_blocks(
  x: Float[Array, "*batch samples"], *, from_hz: int, to_hz: int
) -> Float[Array, "*batch resampled"]:
  """`resample` by FFTs of blocks, for clips whose own length makes a bad FFT or a long one.

  Blocks overlap by half; each is brought down to zero by a raised cosine in its outer quarters,
  which are left out of the result. The same to some 1e-4 of the signal's peak, but for energy right
  at the lower Nyquist frequency and for the clip's ends: what lies beyond them is silence here, the
  other end there.
  """
  common = math.gcd(from_hz, to_hz)
  up, down = to_hz // common, from_hz // common
  if up == down:
    return resample(x, from_hz=from_hz, to_hz=to_hz)
  part = max(1, BLOCK // (4 * max(up, down)))
  part = 1 << (part.bit_length() - 1)
  quarter = down * part  # of a block, in samples at from_hz
  n = x.shape[-1]
  rows = -(-n // (2 * quarter)) + 1
  x = framing.pad_to(jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(quarter, 0)]), rows * 2 * quarter)
  x = x.reshape(*x.shape[:-1], rows, 2 * quarter)
  blocks = jnp.concatenate([x[..., :-1, :], x[..., 1:, :]], axis=-1)
  rise = 0.5 - 0.5 * jnp.cos(jnp.pi * (jnp.arange(quarter) + 0.5) / quarter)
  taper = jnp.concatenate([rise, jnp.ones(2 * quarter), rise[::-1]])
  made = resample(blocks * taper, from_hz=from_hz, to_hz=to_hz)
  kept = made[..., up * part : 3 * up * part]
  whole = kept.reshape(*kept.shape[:-2], -1)
  return framing.fit(whole, resampled_length(n, from_hz=from_hz, to_hz=to_hz))
