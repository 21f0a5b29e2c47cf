"""Convolutions over time: same length, down by a stride, up by a stride.

Down- and up-sampling have kernel = stride, so they are a reshape and a matrix product: the paper
leaves the kernel open, this size fits its parameter counts, and it is the fastest form on every
backend.
"""

import flax.linen as nn
import jax.numpy as jnp

from noise2music.nn import axes
from noise2music.nn.axes import CHANNELS, CHANNELS_IN, CHANNELS_OUT, TAPS, Initializer, named
from noise2music.typing import Signal


def fold(x: Signal, factor: int) -> Signal:
  """[batch, time, channels] -> [batch, time / factor, factor * channels]; time must divide."""
  batch, time, channels = x.shape
  return x.reshape(batch, time // factor, factor * channels)


def unfold(x: Signal, factor: int) -> Signal:
  """The inverse of `fold`."""
  batch, time, channels = x.shape
  return x.reshape(batch, time * factor, channels // factor)


def conv1d(
  channels: int,
  *,
  kernel_size: int,
  name: str,
  dtype: jnp.dtype = jnp.float32,
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
  dtype: jnp.dtype = jnp.float32,
  kernel_init: Initializer = axes.kernel_init,
  kernel_axes: tuple[str, str] = (CHANNELS_IN, CHANNELS_OUT),
) -> nn.Dense:
  """Fully connected layer over channels, at each time step."""
  return nn.Dense(
    channels,
    dtype=dtype,
    kernel_init=named(kernel_init, *kernel_axes),
    bias_init=named(axes.zeros_init, CHANNELS),
    name=name,
  )


def downsample(x: Signal, *, channels: int, stride: int, name: str, dtype: jnp.dtype) -> Signal:
  """[batch, time, c] -> [batch, time / stride, channels], a convolution of kernel = stride."""
  return dense(channels, dtype=dtype, name=name)(fold(x, stride))


def upsample(x: Signal, *, channels: int, stride: int, name: str, dtype: jnp.dtype) -> Signal:
  """[batch, time, c] -> [batch, time * stride, channels], the transpose of `downsample`."""
  return unfold(dense(channels * stride, dtype=dtype, name=name)(x), stride)
