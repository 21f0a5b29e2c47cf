"""Group normalisation over time, in one pass over the signal.

The textbook form (reshape to groups, mean, then mean of squared deviations) costs a convolution
block half of its time on an accelerator. Here each channel is summed once, in float32, the groups
are folded on the small [batch, channels] sums, and the result is applied as one scale and one bias.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from noise2music.nn import axes
from noise2music.typing import Array, Signal


def group_count(channels: int, *, most: int = 32) -> int:
  """The largest number of groups, at most `most`, that divides `channels`."""
  return max(groups for groups in range(1, min(most, channels) + 1) if channels % groups == 0)


def group_statistics(
  x: Signal, *, groups: int
) -> tuple[Float[Array, "batch channels"], Float[Array, "batch channels"]]:
  """Mean and variance of each group over time and its channels, repeated for each channel.

  E[x^2] - E[x]^2 loses all digits when the mean is large. So each channel is first shifted by its
  own first sample, which is as near to the channel's mean as any sample is:
    d = x - x[0],  m = mean(d),  v = mean(d^2) - m^2          over time, for each channel,
    mean = mean(x[0] + m),  var = mean(v) + mean((x[0] + m - mean)^2)    over a group's channels.
  """
  x = x.astype(jnp.float32)
  # The result does not depend on the shift, so neither does the gradient.
  shift = jax.lax.stop_gradient(x[:, 0, :])
  shifted = x - shift[:, None, :]
  channel_offset = jnp.mean(shifted, axis=1)
  channel_variance = jnp.mean(jnp.square(shifted), axis=1) - jnp.square(channel_offset)
  channel_mean = (shift + channel_offset).reshape(x.shape[0], groups, -1)
  mean = jnp.mean(channel_mean, axis=-1, keepdims=True)
  variance = jnp.mean(
    channel_variance.reshape(channel_mean.shape) + jnp.square(channel_mean - mean),
    axis=-1,
    keepdims=True,
  )
  repeat = lambda a: jnp.broadcast_to(a, channel_mean.shape).reshape(x.shape[0], -1)  # noqa: E731
  return repeat(mean), jnp.maximum(repeat(variance), 0.0)


class GroupNormSwish(nn.Module):
  """swish(group_norm(x)); statistics, scale and swish in float32, the result in `dtype`."""

  groups: int = 32  # or as many as divide the channels
  epsilon: float = 1e-5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Signal) -> Signal:
    channels = x.shape[-1]
    scale = self.param("scale", axes.named(axes.ones_init, axes.CHANNELS), (channels,))
    bias = self.param("bias", axes.named(axes.zeros_init, axes.CHANNELS), (channels,))
    groups = group_count(channels, most=self.groups)
    mean, variance = group_statistics(x, groups=groups)
    scale = scale * jax.lax.rsqrt(variance + self.epsilon)
    bias = bias - mean * scale
    return nn.swish(x * scale[:, None, :] + bias[:, None, :]).astype(self.dtype)
