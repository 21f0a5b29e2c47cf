"""Lengths: pad, crop, cut, and mask. The one place where a signal's length changes.

The networks halve and double their input by fixed strides, so a clip whose length is no multiple
of the stride product is padded here before and cropped here after. Padding is always zeros at the
end, and `valid_mask` tells a loss which part is real.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from noise2music.typing import Array


def padded_length(n: int, multiple: int) -> int:
  """The smallest multiple of `multiple` that is at least `n` (and at least one of it).

  Raises:
    ValueError: if n is negative or multiple is below 1.
  """
  if multiple < 1 or n < 0:
    raise ValueError(f"padded_length needs n >= 0 and multiple >= 1, not n={n}, {multiple=}")
  return max(1, -(-n // multiple)) * multiple


def pad_to(x: Array, length: int, *, axis: int = -1) -> jax.Array:
  """`x` with zeros appended along `axis` until it is `length` long.

  Raises:
    ValueError: if x is longer than that; `fit` is the function that may do both.
  """
  have = x.shape[axis]
  if have > length:
    raise ValueError(f"cannot pad {have} down to {length}: use crop_to or fit")
  if have == length:
    return jnp.asarray(x)
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, length - have)
  return jnp.pad(x, widths)


def crop_to(x: Array, length: int, *, axis: int = -1) -> jax.Array:
  """The first `length` entries of `x` along `axis`.

  Raises:
    ValueError: if x is shorter than that; `fit` is the function that may do both.
  """
  have = x.shape[axis]
  if have < length:
    raise ValueError(f"cannot crop {have} up to {length}: use pad_to or fit")
  return jax.lax.slice_in_dim(jnp.asarray(x), 0, length, axis=axis)


def fit(x: Array, length: int, *, axis: int = -1) -> jax.Array:
  """`x` padded with zeros or cropped at its end, so that it is `length` long along `axis`."""
  if x.shape[axis] < length:
    return pad_to(x, length, axis=axis)
  return crop_to(x, length, axis=axis)


def snippet(x: Array, start: int | Int[Array, ""], length: int, *, axis: int = -1) -> jax.Array:
  """`length` entries of `x` from `start` on, along `axis`. `start` may be traced.

  A traced start that runs over the end is moved back until the snippet fits, because a traced
  value cannot raise.

  Raises:
    ValueError: if x is shorter than `length`, or a start known ahead runs over an end.
  """
  have = x.shape[axis]
  if length > have:
    raise ValueError(f"a snippet of {length} does not fit into {have}: pad the signal first")
  if isinstance(start, int) and not 0 <= start <= have - length:
    raise ValueError(f"a snippet of {length} from {start} leaves a signal of {have}")
  return jax.lax.dynamic_slice_in_dim(jnp.asarray(x), start, length, axis=axis)


def valid_mask(lengths: Int[Array, " batch"], length: int) -> Float[Array, "batch length"]:
  """float32 [batch, length]: 1.0 for the first lengths[b] positions of row b, else 0.0."""
  return (jnp.arange(length) < jnp.asarray(lengths)[:, None]).astype(jnp.float32)
