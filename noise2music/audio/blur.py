"""Gaussian blur of conditioning signals, each clip with a standard deviation of its own.

The stages that refine a signal see slightly blurred conditions in training, so that they do not
trust detail which a generated condition lacks. Taps lie on whole offsets from -(size // 2) on (an
even size has one more on the left), so a standard deviation near 0 changes nothing; they sum to 1,
and the edges are repeated outward, so a constant stays constant.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from noise2music.typing import Array, Level, Signal


def gaussian_blur_1d(x: Signal, std: Level, *, size: int = 10) -> Signal:
  """Blurs [batch, time, channels] along time; std [batch] in samples, size in taps.

  Raises:
    ValueError: if size is below 1.
  """
  return _blur(x, _taps(std, size), axes=(1,))


def gaussian_blur_2d(
  x: Float[Array, "batch time bands"], std: Level, *, size: int = 5
) -> Float[Array, "batch time bands"]:
  """Blurs [batch, time, bands] along both, by size x size taps; std [batch] in frames and bands.

  Raises:
    ValueError: if size is below 1.
  """
  return _blur(x, _taps(std, size), axes=(1, 2))


def _taps(std: Level, size: int) -> Float[jax.Array, "batch size"]:
  """Normalised exp(-offset^2 / (2 std^2)); the limit of std 0 is the unit tap."""
  if size < 1:
    raise ValueError(f"a blur needs at least one tap, not {size}")
  offsets = jnp.arange(size) - size // 2
  std = jnp.maximum(jnp.asarray(std, jnp.float32), 1e-3)[:, None]
  return jax.nn.softmax(-0.5 * jnp.square(offsets / std), axis=-1)


@functools.partial(jax.jit, static_argnames="axes")
def _blur(x: jax.Array, taps: jax.Array, *, axes: tuple[int, ...]) -> jax.Array:
  """Sums of shifted copies: a kernel per clip is no convolution, and ten additions are cheap."""
  size = taps.shape[-1]
  y = x
  for axis in axes:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (size // 2, size - 1 - size // 2)
    padded = jnp.pad(y, widths, mode="edge")
    shifted = [jax.lax.slice_in_dim(padded, k, k + x.shape[axis], axis=axis) for k in range(size)]
    y = sum(taps[:, k, None, None] * shifted[k] for k in range(size))
  return y.astype(x.dtype)
