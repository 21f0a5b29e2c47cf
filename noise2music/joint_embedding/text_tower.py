"""From token ids to one unit vector."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from noise2music.joint_embedding.audio_tower import unit
from noise2music.nn.conv import dense
from noise2music.typing import Array, Mask, Tokens


class TextTower(nn.Module):
  """The mean of an encoder's embeddings over real tokens, brought to the width of the space.

  encoder: a module with the call of `text.T5Encoder`. A text without tokens gives zeros.
  """

  encoder: nn.Module
  width: int = 128

  @nn.compact
  def __call__(self, tokens: Tokens, mask: Mask) -> Float[Array, "batch width"]:
    embedded = self.encoder(tokens, mask)  # zero on padding
    mean = jnp.sum(embedded, axis=1) / jnp.maximum(jnp.sum(mask, axis=1, keepdims=True), 1)
    out = dense(self.width, name="exit")(mean)
    return unit(out) * jnp.any(mask, axis=1, keepdims=True)
