"""Convolutions over time: same length, down by a stride, up by a stride.

Down- and up-sampling have kernel = stride, so they are a reshape and a matrix product: the paper
leaves the kernel open, this size fits its parameter counts, and it is the fastest form on every
backend.

In training, kernels come to the product in float32 and are rounded there, not before as flax would
have it.
Their gradients, which are sums over time and over all devices, then leave the product in float32
and are added up in float32: in bfloat16, which has eight bits, the parts of 256 chips would barely
count. (On a GPU, whose library has no such convolution, those of convolutions leave in bfloat16.)
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from noise2music.nn import axes
from noise2music.nn.axes import CHANNELS, CHANNELS_IN, CHANNELS_OUT, TAPS, Initializer, named
from noise2music.nn.pieces import Edged, after, before, cut, join, reach
from noise2music.nn.platform import platform
from noise2music.typing import Array, OtherSignal, Pieces, Signal


def fold(x: Signal, factor: int) -> OtherSignal:
  """[batch, time, channels] -> [batch, time / factor, factor * channels]; time must divide."""
  batch, time, channels = x.shape
  return x.reshape(batch, time // factor, factor * channels)


def unfold(x: Signal, factor: int) -> OtherSignal:
  """The inverse of `fold`."""
  batch, time, channels = x.shape
  return x.reshape(batch, time * factor, channels // factor)


def promote(x: Array, kernel: Array, bias: Array | None, *, dtype: DTypeLike, **kwargs):
  """In place of flax's `promote_dtype`: all but the kernel become `dtype`.

  So do the biases of dense layers, whose gradients are then summed in `dtype`.
  """
  del kwargs
  return x.astype(dtype), axes.gathered(kernel), None if bias is None else bias.astype(dtype)


def product(x: Signal, kernel: Float[Array, "channels _"]) -> OtherSignal:
  """[batch, time, c] by [c, out] -> [batch, time, out], as dense layers compute it."""
  return dot_general(x, kernel, (((2,), (0,)), ((), ())))


def dot_general(x: Array, kernel: Array, dimensions, precision=None, **kwargs) -> jax.Array:
  """`lax.dot_general` of x's last axes with the kernel's first, as flax's dense layers call it.

  The kernel's gradient is asked for in the kernel's own layout. The transpose that automatic
  differentiation puts after it makes XLA copy a whole signal on a CPU; for a GPU the two are the
  same. On a TPU it is a convolution of one tap, whose signals lie in memory as those of the
  convolutions around it; a product would have each of them copied.
  """
  del precision, kwargs  # which flax leaves open
  ((x_axes, kernel_axes), batch_axes) = dimensions
  shared = len(kernel_axes)
  if tuple(x_axes) != tuple(range(x.ndim - shared, x.ndim)) or any(batch_axes):
    raise NotImplementedError(f"contracts only the last axes of x, not {dimensions}")
  if platform() == "tpu" and x.ndim == 3 and kernel.ndim == 2:
    return _conv(x, kernel[None], (0, 0))
  return _matmul(x, kernel, shared)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x, kernel, shared):
  """x [*leading, *shared] and kernel [*shared, *out] -> [*leading, *out]."""
  contract = (tuple(range(x.ndim - shared, x.ndim)), tuple(range(shared)))
  return jax.lax.dot_general(x, kernel.astype(x.dtype), (contract, ((), ())))


def _matmul_forward(x, kernel, shared):
  return _matmul(x, kernel, shared), (x, kernel)


def _matmul_backward(shared, saved, gradient):
  x, kernel = saved
  leading = tuple(range(x.ndim - shared))
  out = (tuple(range(len(leading), gradient.ndim)), tuple(range(shared, kernel.ndim)))
  dx = jax.lax.dot_general(gradient, kernel.astype(x.dtype), (out, ((), ())))
  dkernel = jax.lax.dot_general(
    x, gradient, ((leading, leading), ((), ())), preferred_element_type=kernel.dtype
  )
  return dx, dkernel


_matmul.defvjp(_matmul_forward, _matmul_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, kernel, padding):
  """x [batch, time, c], kernel [taps, c, out], zeros beyond x's ends -> [batch, ..., out]."""
  return jax.lax.conv_general_dilated(
    x, kernel.astype(x.dtype), (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC")
  )


def _conv_forward(x, kernel, padding):
  return _conv(x, kernel, padding), (x, kernel)


def _conv_backward(padding, saved, gradient):
  x, kernel = saved
  beyond = kernel.shape[0] - 1
  dx = jax.lax.conv_general_dilated(
    gradient,
    jnp.flip(kernel.astype(x.dtype), axis=0),
    (1,),
    [tuple(beyond - pad for pad in padding)],
    dimension_numbers=("NWC", "WOI", "NWC"),
  )
  # The batch is summed over as channels are in the forward pass, time as taps are.
  dkernel = jax.lax.conv_general_dilated(
    x,
    gradient,
    (1,),
    [padding],
    dimension_numbers=("CWN", "IWO", "WNC"),
    # A GPU's library has no convolution from bfloat16 to float32.
    preferred_element_type=kernel.dtype if platform() == "tpu" else x.dtype,
  )
  return dx, dkernel.astype(kernel.dtype)


_conv.defvjp(_conv_forward, _conv_backward)


class Conv1D(nn.Module):
  """Convolution that keeps the length (zeros beyond the ends) of clips cut into `pieces`.

  What a piece lacks are the taps that reach into its neighbours: small convolutions of their edges,
  added at its ends. (To put the edges on the signal first would copy it. And with all taps, more
  than the edge has steps, XLA would exchange the two and turn the kernel around.)
  """

  channels: int
  kernel_size: int
  dtype: DTypeLike = jnp.float32
  kernel_init: Initializer = axes.kernel_init
  pieces: int = 1

  @nn.compact
  def __call__(self, x: Signal | Edged) -> Float[Array, "batch time channels_out"]:
    x = x if isinstance(x, Edged) else Edged(x, x, x)
    kernel, bias = self._parameters(x.whole)
    low, high = reach(self.kernel_size)
    y = _conv(x.whole.astype(self.dtype), kernel, (low, high))
    if self.pieces > 1 and low:
      left = before(x.tail[:, -low:], self.pieces).astype(self.dtype)
      left = _conv(left, kernel[:low], (0, low - 1))
      y = y + jnp.pad(left, ((0, 0), (0, y.shape[1] - low), (0, 0)))
    if self.pieces > 1 and high:
      right = after(x.head[:, :high], self.pieces).astype(self.dtype)
      right = _conv(right, kernel[-high:], (high - 1, 0))
      y = y + jnp.pad(right, ((0, 0), (y.shape[1] - high, 0), (0, 0)))
    return self._with_bias(y, bias)

  def _parameters(self, x: Signal) -> tuple[Float[Array, "taps _ _"], Float[Array, "_"]]:
    shape = (self.kernel_size, x.shape[-1], self.channels)
    kernel = self.param("kernel", named(self.kernel_init, TAPS, CHANNELS_IN, CHANNELS_OUT), shape)
    bias = self.param("bias", named(axes.zeros_init, CHANNELS), shape[-1:])
    return axes.gathered(kernel), bias

  def _with_bias(self, y: Array, bias: Array) -> Array:
    """Added in float32, so that its gradient is summed in it too."""
    return (y.astype(jnp.float32) + bias).astype(self.dtype)


class EntryConv1D(Conv1D):
  """From few channels of whole clips to many channels of their pieces, which it cuts.

  The taps are laid side by side as channels of one product, while the signal is narrow: a product
  of few channels takes as long as one of many, and pieces lack nothing.
  """

  @nn.compact
  def __call__(self, x: OtherSignal) -> Pieces:
    kernel, bias = self._parameters(x)
    low, high = reach(self.kernel_size)
    padded = jnp.pad(x.astype(self.dtype), ((0, 0), (low, high), (0, 0)))
    taps = [padded[:, tap : tap + x.shape[1]] for tap in range(self.kernel_size)]
    y = cut(jnp.concatenate(taps, axis=-1), self.pieces)
    return self._with_bias(product(y, kernel.reshape(-1, self.channels)), bias)


class ExitConv1D(Conv1D):
  """From many channels of pieces to few channels of whole clips: `EntryConv1D` turned around.

  One product gives what each step adds to its neighbours; these narrow parts are summed.
  """

  @nn.compact
  def __call__(self, x: Pieces) -> OtherSignal:
    kernel, bias = self._parameters(x)
    wide = jnp.swapaxes(kernel, 0, 1).reshape(x.shape[-1], -1)
    parts = join(product(x.astype(self.dtype), wide), self.pieces)
    low, high = reach(self.kernel_size)
    parts = jnp.split(jnp.pad(parts, ((0, 0), (low, high), (0, 0))), self.kernel_size, axis=-1)
    steps = parts[0].shape[1] - low - high
    y = sum(part[:, tap : tap + steps] for tap, part in enumerate(parts))
    return self._with_bias(y, bias)


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
    promote_dtype=promote,
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
