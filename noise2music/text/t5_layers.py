"""The layers of the T5 encoder (Raffel et al., 2020), with the parameter names of T5X.

T5 differs from the usual transformer in three points: layers are normalised by their root mean
square, without mean and bias; attention logits are not scaled (the query initializer is); and
positions enter only as a learned bias on the logits, which all layers share.

Parameters are float32 and carry logical axis names; norms, logits and softmax are float32.
"""

import enum

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from noise2music.nn import axes
from noise2music.nn.axes import HEAD_WIDTH, HEADS, HIDDEN, TEXT_WIDTH, named
from noise2music.typing import Array, Mask, TextEmbedding

VOCAB = "vocab"
BUCKETS = "buckets"
_MASKED = -1e9  # finite, so that a row without any token gives no NaN


class Activation(enum.Enum):
  """The nonlinearities of published T5 encoders; the values are Hugging Face's names."""

  RELU = "relu"
  GELU = "gelu"
  GELU_TANH = "gelu_new"  # the approximation by tanh: what T5 1.1 and T5X call gelu
  SILU = "silu"

  def __call__(self, x: jax.Array) -> jax.Array:
    match self:
      case Activation.RELU:
        return jax.nn.relu(x)
      case Activation.GELU:
        return jax.nn.gelu(x, approximate=False)
      case Activation.GELU_TANH:
        return jax.nn.gelu(x, approximate=True)
      case Activation.SILU:
        return jax.nn.silu(x)


def relative_position_bucket(
  distance: Int[np.ndarray, "*shape"], *, buckets: int, max_distance: int
) -> Int[np.ndarray, "*shape"]:
  """The bucket of each distance (key position - query position), for attention both ways.

  One half of the buckets is for keys behind the query and for itself, one for keys ahead. Of each
  half, the first half holds one distance each; the rest widens logarithmically up to
  `max_distance`, and what is farther shares the last one.

  Args:
    distance: integers of any shape, in tokens.
    buckets: in all, a multiple of 4.
    max_distance: in tokens, more than buckets / 4.

  Returns:
    int32 of the same shape, in [0, buckets).
  """
  half = buckets // 2
  exact = half // 2
  steps = np.abs(distance)
  growth = np.log(np.maximum(steps, exact) / exact) / np.log(max_distance / exact)
  # The quotient is a whole number at powers of two: a rounding error must not floor it away.
  wide = exact + np.floor(growth * (half - exact) + 1e-6).astype(np.int32)
  bucket = np.where(steps < exact, steps, np.minimum(wide, half - 1))
  return (bucket + np.where(distance > 0, half, 0)).astype(np.int32)


class RelativePositionBias(nn.Module):
  """A learned number for each head and bucket of distances."""

  heads: int
  buckets: int
  max_distance: int

  @nn.compact
  def __call__(self, tokens: int) -> Float[Array, "heads query key"]:
    """float32 [heads, tokens, tokens], for `tokens` queries and as many keys."""
    init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
    table = self.param("rel_embedding", named(init, HEADS, BUCKETS), (self.heads, self.buckets))
    position = np.arange(tokens)
    bucket = relative_position_bucket(
      position[None, :] - position[:, None],
      buckets=self.buckets,
      max_distance=self.max_distance,
    )
    return table[:, bucket]


def rms_norm(*, epsilon: float, dtype: DTypeLike, name: str) -> nn.Module:
  """x / sqrt(mean(x^2) + epsilon) * scale over the width, computed in float32."""
  return nn.RMSNorm(
    epsilon=epsilon, dtype=dtype, scale_init=named(axes.ones_init, TEXT_WIDTH), name=name
  )


def _promote(x: Array, kernel: Array, bias: None, *, dtype: DTypeLike, **kwargs):
  return nn.dtypes.promote_dtype(x, axes.gathered(kernel), bias, dtype=dtype, **kwargs)


def _variance(scale: float = 1.0) -> axes.Initializer:
  return nn.initializers.variance_scaling(scale, "fan_in", "normal")


class SelfAttention(nn.Module):
  """softmax(q k^T + bias) v, without scaling; keys that are padding get no weight."""

  heads: int
  head_dim: int
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: TextEmbedding, *, mask: Mask, bias: Float[Array, "heads query key"]
  ) -> TextEmbedding:
    def project(name: str, scale: float = 1.0) -> jax.Array:
      return nn.DenseGeneral(
        (self.heads, self.head_dim),
        use_bias=False,
        dtype=self.dtype,
        promote_dtype=_promote,
        kernel_init=named(_variance(scale), TEXT_WIDTH, HEADS, HEAD_WIDTH),
        name=name,
      )(x)

    # The small initial query stands for the factor 1/sqrt(head_dim) that the logits lack.
    query, key, value = project("query", 1 / self.head_dim), project("key"), project("value")
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
    logits = jnp.where(mask[:, None, None, :], logits + bias, _MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    return nn.DenseGeneral(
      x.shape[-1],
      axis=(-2, -1),
      use_bias=False,
      dtype=self.dtype,
      promote_dtype=_promote,
      kernel_init=named(_variance(), HEADS, HEAD_WIDTH, TEXT_WIDTH),
      name="out",
    )(jnp.einsum("bhqk,bkhd->bqhd", weights, value))


class FeedForward(nn.Module):
  """wo(activation(wi x)) as in T5 1.0; gated: wo(activation(wi_0 x) * (wi_1 x)) as in T5 1.1."""

  ffn_width: int
  gated: bool
  activation: Activation
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: TextEmbedding) -> TextEmbedding:
    def dense(width: int, name: str, *names: str) -> nn.Module:
      return nn.Dense(
        width,
        use_bias=False,
        dtype=self.dtype,
        promote_dtype=_promote,
        kernel_init=named(_variance(), *names),
        name=name,
      )

    widen = lambda name: dense(self.ffn_width, name, TEXT_WIDTH, HIDDEN)(x)  # noqa: E731
    if self.gated:
      hidden = self.activation(widen("wi_0")) * widen("wi_1")
    else:
      hidden = self.activation(widen("wi"))
    return dense(x.shape[-1], "wo", HIDDEN, TEXT_WIDTH)(hidden)


class EncoderLayer(nn.Module):
  """Attention, then feed-forward, each on the normalised input and added to it."""

  heads: int
  head_dim: int
  ffn_width: int
  gated: bool
  activation: Activation
  norm_epsilon: float
  dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: TextEmbedding, *, mask: Mask, bias: Float[Array, "heads query key"]
  ) -> TextEmbedding:
    norm = lambda name: rms_norm(epsilon=self.norm_epsilon, dtype=self.dtype, name=name)  # noqa: E731
    attention = SelfAttention(
      heads=self.heads, head_dim=self.head_dim, dtype=self.dtype, name="attention"
    )
    feed_forward = FeedForward(
      ffn_width=self.ffn_width,
      gated=self.gated,
      activation=self.activation,
      dtype=self.dtype,
      name="mlp",
    )
    x = x + attention(norm("pre_attention_layer_norm")(x), mask=mask, bias=bias)
    return x + feed_forward(norm("pre_mlp_layer_norm")(x))
