"""Diffusion time as a vector, and the layer through which a vector steers a sequence."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from noise2music.nn.axes import CHANNELS_OUT, EMBEDDING, zeros_init
from noise2music.nn.conv import dense
from noise2music.typing import Array, Level, Signal

TIME_SCALE = 1000.0  # diffusion times in [0, 1] are spread as the thousand steps of Ho et al.
LONGEST_PERIOD = 10_000.0


def positional_embedding(t: Level, *, width: int) -> Float[Array, "batch width"]:
  """[sin(1000 t f_k), cos(1000 t f_k)] with f_k from 1 down to 1e-4, evenly in the logarithm.

  Vaswani et al. 2017, section 3.5, with the diffusion time in place of a position. An odd width
  ends with a zero.
  """
  half = width // 2
  step = math.log(LONGEST_PERIOD) / max(half - 1, 1)
  frequencies = jnp.exp(-step * jnp.arange(half, dtype=jnp.float32))
  angles = TIME_SCALE * t.astype(jnp.float32)[:, None] * frequencies
  waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
  return jnp.pad(waves, ((0, 0), (0, width % 2)))


class TimeEmbedding(nn.Module):
  """Diffusion time [batch] -> [batch, width]: positional embedding, then a linear layer."""

  width: int

  @nn.compact
  def __call__(self, t: Level) -> Float[Array, "batch width"]:
    waves = positional_embedding(t, width=self.width)
    return dense(self.width, kernel_axes=(EMBEDDING, CHANNELS_OUT), name="linear")(waves)


class CombineEmbedding(nn.Module):
  """x (1 + s) + b, with s and b of each channel a linear function of the embedding.

  The linear layer starts at zero, so a fresh layer passes x unchanged. x may be cut into pieces.
  """

  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Signal, embedding: Float[Array, "clips width"]) -> Signal:
    linear = dense(
      2 * x.shape[-1],
      kernel_init=zeros_init,
      kernel_axes=(EMBEDDING, CHANNELS_OUT),
      name="linear",
    )
    pieces = x.shape[0] // embedding.shape[0]
    both = jnp.repeat(linear(embedding).astype(self.dtype), pieces, axis=0)
    scale, bias = jnp.split(both, 2, axis=-1)
    return x * (1 + scale[:, None, :]) + bias[:, None, :]
