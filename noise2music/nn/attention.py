"""Self- and cross-attention over time, each followed by its residual layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from noise2music.nn import axes
from noise2music.nn.axes import CHANNELS, CHANNELS_IN, CHANNELS_OUT, HEAD_WIDTH, HEADS, named
from noise2music.nn.conv import dense, dot_general, promote
from noise2music.typing import Array, Mask, OtherSignal, Signal, TextEmbedding


def _layer_norm(x: Signal, *, dtype: DTypeLike, name: str) -> Signal:
  """Layer norm in float32, whose fast variance would be wrong for a large mean."""
  norm = nn.LayerNorm(
    dtype=jnp.float32,
    use_fast_variance=False,
    scale_init=named(axes.ones_init, CHANNELS),
    bias_init=named(axes.zeros_init, CHANNELS),
    name=name,
  )
  return norm(x).astype(dtype)


class MultiHeadAttention(nn.Module):
  """Queries from x, keys and values from `context`; softmax in float32; heads share the width."""

  heads: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Signal, context: OtherSignal, mask: Mask | None) -> Signal:
    width = x.shape[-1]
    project = lambda source, axis, name: nn.DenseGeneral(  # noqa: E731
      (self.heads, width // self.heads),
      dtype=self.dtype,
      promote_dtype=promote,
      dot_general=dot_general,
      kernel_init=named(axes.kernel_init, axis, HEADS, HEAD_WIDTH),
      bias_init=named(axes.zeros_init, HEADS, HEAD_WIDTH),
      name=name,
    )(source)
    context_axis = CHANNELS_IN if context is x else axes.TEXT_WIDTH
    attended = jax.nn.dot_product_attention(
      project(x, CHANNELS_IN, "query"),
      project(context, context_axis, "key"),
      project(context, context_axis, "value"),
      mask=None if mask is None else mask[:, None, None, :],
    )
    return nn.DenseGeneral(
      width,
      axis=(-2, -1),
      dtype=self.dtype,
      promote_dtype=promote,
      dot_general=dot_general,
      kernel_init=named(axes.kernel_init, HEADS, HEAD_WIDTH, CHANNELS_OUT),
      bias_init=named(axes.zeros_init, CHANNELS),
      name="out",
    )(attended)


class FeedForward(nn.Module):
  """Two fully connected layers with a swish between them; the hidden width is `expansion` times the
  input's."""

  expansion: int = 2
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Signal) -> Signal:
    width = x.shape[-1]
    hidden = dense(
      self.expansion * width,
      dtype=self.dtype,
      kernel_axes=(CHANNELS_IN, axes.HIDDEN),
      name="hidden",
    )(x)
    return dense(width, dtype=self.dtype, kernel_axes=(axes.HIDDEN, CHANNELS_OUT), name="out")(
      nn.swish(hidden)
    )


class SelfAttention(nn.Module):
  """x + attention(norm(x)), then y + feed_forward(norm(y))."""

  heads: int
  expansion: int = 2
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: Signal) -> Signal:
    h = _layer_norm(x, dtype=self.dtype, name="attention_norm")
    x = x + MultiHeadAttention(heads=self.heads, dtype=self.dtype, name="attention")(h, h, None)
    h = _layer_norm(x, dtype=self.dtype, name="feed_forward_norm")
    return x + FeedForward(expansion=self.expansion, dtype=self.dtype, name="feed_forward")(h)


class CrossAttention(nn.Module):
  """x + attention(norm(x), text), then y + feed_forward(norm(y)), for the rows that keep text.

  Where `keep` is False both additions are exactly zero, so that hiding the text hides the layer.
  Tokens that `mask` leaves out have no influence.
  """

  heads: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, x: Signal, text: TextEmbedding, mask: Mask, keep: Bool[Array, "batch"]
  ) -> Float[Array, "batch time channels"]:
    kept = lambda out: jnp.where(keep[:, None, None], out, 0)  # noqa: E731
    h = _layer_norm(x, dtype=self.dtype, name="attention_norm")
    attention = MultiHeadAttention(heads=self.heads, dtype=self.dtype, name="attention")
    x = x + kept(attention(h, text, mask))
    h = _layer_norm(x, dtype=self.dtype, name="feed_forward_norm")
    return x + kept(FeedForward(dtype=self.dtype, name="feed_forward")(h))
