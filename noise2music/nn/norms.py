"""Group normalisation over time, in one pass over the signal.

The textbook form (reshape to groups, mean, then mean of squared deviations) costs a convolution
block half of its time on an accelerator. Here each channel is summed once, in float32, the groups
are folded on the small [batch, channels] sums, and the result is applied as one scale and one bias.
A signal may be cut into pieces (`nn.pieces`); statistics are those of whole clips.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from noise2music.nn import axes
from noise2music.nn.pieces import Edged
from noise2music.nn.remat import keep
from noise2music.typing import Array, Signal


def group_count(channels: int, *, most: int = 32) -> int:
  """The largest number of groups, at most `most`, that divides `channels`."""
  return max(groups for groups in range(1, min(most, channels) + 1) if channels % groups == 0)


def group_statistics(
  x: Signal, *, groups: int, pieces: int = 1
) -> tuple[Float[Array, "clips channels"], Float[Array, "clips channels"]]:
  """Mean and variance of each group over time and its channels, repeated for each channel.

  E[x^2] - E[x]^2 loses all digits when the mean is large. So each channel is first shifted by its
  own first sample, which is as near to the channel's mean as any sample is:
    d = x - x[0],  m = mean(d),  v = mean(d^2) - m^2          over time, for each channel,
    mean = mean(x[0] + m),  var = mean(v) + mean((x[0] + m - mean)^2)    over a group's channels.
  bfloat16 is not shifted: at a mean of 100 deviations, where float32 sums begin to lose a per cent
  of the variance, its own steps are half a deviation wide. And without a shift that waits for the
  signal, the sums are taken while a TPU's convolution writes it, which saves a pass.
  """
  clips = x.shape[0] // pieces
  coarse = x.dtype == jnp.bfloat16
  x = x.astype(jnp.float32)
  # The result does not depend on the shift, so neither does the gradient.
  first = jax.lax.stop_gradient(x[::pieces, 0, :])
  shift = jnp.zeros_like(first) if coarse else first
  shifted = x - _rows(shift, x)
  over_time = lambda a: jnp.mean(a.reshape(clips, -1, a.shape[-1]), axis=1)  # noqa: E731
  channel_offset = over_time(jnp.mean(shifted, axis=1))
  channel_square = over_time(jnp.mean(jnp.square(shifted), axis=1))
  channel_variance = channel_square - jnp.square(channel_offset)
  channel_mean = (shift + channel_offset).reshape(clips, groups, -1)
  mean = jnp.mean(channel_mean, axis=-1, keepdims=True)
  variance = jnp.mean(
    channel_variance.reshape(channel_mean.shape) + jnp.square(channel_mean - mean),
    axis=-1,
    keepdims=True,
  )
  repeat = lambda a: jnp.broadcast_to(a, channel_mean.shape).reshape(clips, -1)  # noqa: E731
  return repeat(mean), jnp.maximum(repeat(variance), 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def group_norm_swish(
  x: Signal,
  scale: Float[Array, "channels"],
  bias: Float[Array, "channels"],
  groups: int,
  epsilon: float,
  pieces: int = 1,
  edge: int = 0,
) -> Edged:
  """swish(z), z = scale (x - mean) / sqrt(var + epsilon) + bias, computed in float32; of the whole
  signal and, by themselves, of the first and last `edge` steps of its pieces.

  Its gradient is written out below, because what automatic differentiation makes of it passes over
  the signal more often.
  """
  return _forward(x, scale, bias, groups, epsilon, pieces, edge)[0]


def _forward(x, scale, bias, groups, epsilon, pieces, edge):
  mean, variance = group_statistics(x, groups=groups, pieces=pieces)
  mean, inverse = keep(mean), keep(jax.lax.rsqrt(variance + epsilon))
  slope = scale * inverse
  normed = lambda x: nn.swish(_affine(x, slope, bias - mean * slope))  # noqa: E731
  edged = Edged(normed(x), normed(x[:, :edge]), normed(x[:, x.shape[1] - edge :]))
  return edged, (x, scale, bias, mean, inverse)


def _backward(groups, epsilon, pieces, edge, saved, gradients):
  """With n = (x - mean) inverse, a = scale dz, and means E over a group:
  dx = inverse (a - E[a] - n E[a n]),  dscale = sum dz n,  dbias = sum dz.
  """
  del epsilon
  x, scale, bias, mean, inverse = saved
  gradient, head, tail = gradients
  if edge:
    rest = x.shape[1] - edge
    gradient += jnp.pad(head, ((0, 0), (0, rest), (0, 0)))
    gradient += jnp.pad(tail, ((0, 0), (rest, 0), (0, 0)))
  slope = scale * inverse
  z = _affine(x, slope, bias - mean * slope)
  gate = nn.sigmoid(z)
  # Rounded as the signal is: it is read twice, and in float32 it would be twice as long.
  dz = (gradient * (gate * (1 + z * (1 - gate)))).astype(x.dtype)
  clips = x.shape[0] // pieces
  over_time = lambda a: jnp.sum(  # noqa: E731
    jnp.sum(a, axis=1, dtype=jnp.float32).reshape(clips, pieces, -1), axis=1
  )
  sum_dz = over_time(dz)
  sum_dz_n = over_time(dz * (x - _rows(mean, x))) * inverse

  def group_mean(channel_sums):
    grouped = channel_sums.reshape(clips, groups, -1)
    means = jnp.mean(grouped, axis=-1, keepdims=True) / (x.shape[1] * pieces)
    return jnp.broadcast_to(means, grouped.shape).reshape(channel_sums.shape)

  of_n = inverse * inverse * group_mean(scale * sum_dz_n)
  offset = mean * of_n - inverse * group_mean(scale * sum_dz)
  dx = dz * _rows(slope, x) - _affine(x, of_n, -offset)
  return dx.astype(x.dtype), jnp.sum(sum_dz_n, axis=0), jnp.sum(sum_dz, axis=0)


def _affine(x, slope, offset):
  return x * _rows(slope, x) + _rows(offset, x)


def _rows(of_clips, x):
  """[clips, channels] -> [rows of x, 1, channels], each clip's for all of its pieces."""
  return jnp.repeat(of_clips, x.shape[0] // of_clips.shape[0], axis=0)[:, None, :]


group_norm_swish.defvjp(_forward, _backward)


class GroupNormSwish(nn.Module):
  """swish(group_norm(x)); statistics, scale and swish in float32, the result in `dtype`.

  For a convolution that reaches `edge` steps into the neighbouring pieces the result is Edged.
  """

  groups: int = 32  # or as many as divide the channels
  epsilon: float = 1e-5
  dtype: DTypeLike = jnp.float32
  pieces: int = 1
  edge: int = 0

  @nn.compact
  def __call__(self, x: Signal) -> Signal | Edged:
    channels = x.shape[-1]
    scale = self.param("scale", axes.named(axes.ones_init, axes.CHANNELS), (channels,))
    bias = self.param("bias", axes.named(axes.zeros_init, axes.CHANNELS), (channels,))
    groups = group_count(channels, most=self.groups)
    edge = self.edge if self.pieces > 1 else 0
    y = group_norm_swish(x, scale, bias, groups, self.epsilon, self.pieces, edge)
    y = Edged(*(part.astype(self.dtype) for part in y))
    return y if edge else y.whole
