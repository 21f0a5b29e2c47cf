"""Convolutions over time: same length, down by a stride, up by a stride.

Down- and up-sampling have kernel = stride, so they are a reshape and a matrix product: the paper
leaves the kernel open, this size fits its parameter counts, and it is the fastest form on every
backend.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from noise2music.nn import axes
from noise2music.nn.axes import CHANNELS, CHANNELS_IN, CHANNELS_OUT, TAPS, Initializer, named
from noise2music.typing import Array, OtherSignal, Signal


def fold(x: Signal, factor: int) -> OtherSignal:
  """[batch, time, channels] -> [batch, time / factor, factor * channels]; time must divide."""
  batch, time, channels = x.shape
  return x.reshape(batch, time // factor, factor * channels)


def unfold(x: Signal, factor: int) -> OtherSignal:
  """The inverse of `fold`."""
  batch, time, channels = x.shape
  return x.reshape(batch, time * factor, channels // factor)


def dot_general(x: Array, kernel: Array, dimensions, precision=None, **kwargs) -> jax.Array:
  """`lax.dot_general` of x's last axes with the kernel's first, as flax's dense layers call it.

  The kernel's gradient is asked for in the kernel's own layout. The transpose that automatic
  differentiation puts after it makes XLA copy a whole signal on a CPU; for an accelerator the two
  are the same.
  """
  del kwargs  # a preferred type, which flax leaves open
  ((x_axes, kernel_axes), batch_axes) = dimensions
  shared = len(kernel_axes)
  if tuple(x_axes) != tuple(range(x.ndim - shared, x.ndim)) or any(batch_axes):
    raise NotImplementedError(f"contracts only the last axes of x, not {dimensions}")
  return _matmul(x, kernel, shared, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _matmul(x, kernel, shared, precision):
  """x [*leading, *shared] and kernel [*shared, *out] -> [*leading, *out]."""
  contract = (tuple(range(x.ndim - shared, x.ndim)), tuple(range(shared)))
  return jax.lax.dot_general(x, kernel, (contract, ((), ())), precision=precision)


def _matmul_forward(x, kernel, shared, precision):
  return _matmul(x, kernel, shared, precision), (x, kernel)


def _matmul_backward(shared, precision, saved, gradient):
  x, kernel = saved
  leading = tuple(range(x.ndim - shared))
  out = (tuple(range(len(leading), gradient.ndim)), tuple(range(shared, kernel.ndim)))
  dx = jax.lax.dot_general(gradient, kernel, (out, ((), ())), precision=precision)
  dkernel = jax.lax.dot_general(x, gradient, ((leading, leading), ((), ())), precision=precision)
  return dx, dkernel


_matmul.defvjp(_matmul_forward, _matmul_backward)


def conv1d(
  channels: int,
  *,
  kernel_size: int,
  name: str,
  dtype: DTypeLike = jnp.float32,
  kernel_init: Initializer = axes.kernel_init,
) -> nn.Conv:
  """Convolution that keeps the length (zeros beyond the ends)."""
  return nn.Conv(
    channels,
    kernel_size=(kernel_size,),
    dtype=dtype,
    kernel_init=named(kernel_init, TAPS, CHANNELS_IN, CHANNELS_OUT),
    bias_init=named(axes.zeros_init, CHANNELS),
    name=name,
  )


def dense(
  channels: int,
  *,
  name: str,
  dtype: DTypeLike = jnp.float32,
  kernel_init: Initializer = axes.kernel_init,
  kernel_axes: tuple[str, str] = (CHANNELS_IN, CHANNELS_OUT),
) -> nn.Dense:
  """Fully connected layer over channels, at each time step."""
  return nn.Dense(
    channels,
    dtype=dtype,
    dot_general=dot_general,
    kernel_init=named(kernel_init, *kernel_axes),
    bias_init=named(axes.zeros_init, CHANNELS),
    name=name,
  )


def downsample(
  x: Signal, *, channels: int, stride: int, name: str, dtype: DTypeLike
) -> OtherSignal:
  """[batch, time, c] -> [batch, time / stride, channels], a convolution of kernel = stride."""
  return dense(channels, dtype=dtype, name=name)(fold(x, stride))


def upsample(x: Signal, *, channels: int, stride: int, name: str, dtype: DTypeLike) -> OtherSignal:
  """[batch, time, c] -> [batch, time * stride, channels], the transpose of `downsample`."""
  return unfold(dense(channels * stride, dtype=dtype, name=name)(x), stride)
