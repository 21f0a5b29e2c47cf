"""The encoder of T5 1.0 and 1.1 (also ByT5, mT5, Flan-T5): token ids to one vector a token."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from noise2music.errors import UserError
from noise2music.nn.axes import TEXT_WIDTH, named
from noise2music.text.t5_layers import (
  VOCAB,
  Activation,
  EncoderLayer,
  RelativePositionBias,
  rms_norm,
)
from noise2music.typing import Mask, TextEmbedding, Tokenizer, Tokens

_SIZES = (
  "vocab_size",
  "width",
  "layers",
  "heads",
  "head_dim",
  "ffn_width",
  "buckets",
  "max_distance",
)
_LARGEST = 1 << 24  # of any size: what is beyond it is an error in writing


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
  """The sizes of a T5 encoder.

  vocab_size: ids. width: of an embedding. layers, heads, head_dim, ffn_width: as named.
  gated, activation: the feed-forward; True and GELU_TANH in T5 1.1, False and RELU in 1.0.
  buckets, max_distance: of the relative positions (in tokens). dtype: computed in; parameters,
  norms, softmax and the result are float32.

  Raises UserError for sizes no encoder can have.
  """

  vocab_size: int
  width: int
  layers: int
  heads: int
  head_dim: int
  ffn_width: int
  gated: bool = True
  activation: Activation = Activation.GELU_TANH
  buckets: int = 32
  max_distance: int = 128
  norm_epsilon: float = 1e-6
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    for name in _SIZES:
      value = getattr(self, name)
      if type(value) is not int or not 1 <= value <= _LARGEST:
        raise UserError(f"T5 {name} is {value!r}: make it a whole number from 1 to {_LARGEST:,}")
    if self.buckets % 4:
      raise UserError(f"T5 buckets is {self.buckets}: make it a multiple of 4")
    if self.max_distance <= self.buckets // 4:
      raise UserError(
        f"T5 max_distance is {self.max_distance}: make it more than {self.buckets // 4}, "
        "a quarter of the buckets"
      )
    if type(self.norm_epsilon) is not float or not 0 < self.norm_epsilon < 1:
      raise UserError(f"T5 norm_epsilon is {self.norm_epsilon!r}: make it small, such as 1e-6")

  @classmethod
  def tiny(cls) -> "T5Config":
    """An encoder for `ByteTokenizer` small enough (0.1 M parameters) to train with a generator."""
    return cls(vocab_size=384, width=64, layers=2, heads=4, head_dim=16, ffn_width=128)

  def check_tokenizer(self, tokenizer: Tokenizer) -> None:
    """Raises UserError if `tokenizer` has ids that this encoder has no embedding for."""
    if tokenizer.vocab_size > self.vocab_size:
      raise UserError(
        f"the tokenizer has {tokenizer.vocab_size} ids, the text encoder {self.vocab_size}: "
        "use the tokenizer that the encoder was trained with"
      )


class T5Encoder(nn.Module):
  """Token ids to embeddings.

  Ids outside the vocabulary give NaN rather than the embedding of another token.
  """

  config: T5Config

  @nn.compact
  def __call__(self, tokens: Tokens, mask: Mask) -> TextEmbedding:
    """tokens int [B, L], mask bool [B, L] (True on text) -> float32 [B, L, width], 0 on padding.

    The embeddings of a text do not depend on how much padding follows it.
    """
    config = self.config
    x = nn.Embed(
      config.vocab_size,
      config.width,
      dtype=config.dtype,
      embedding_init=named(nn.initializers.normal(stddev=1.0), VOCAB, TEXT_WIDTH),
      name="token_embedder",
    )(tokens)
    bias = RelativePositionBias(
      heads=config.heads,
      buckets=config.buckets,
      max_distance=config.max_distance,
      name="relpos_bias",
    )(tokens.shape[1])
    for k in range(config.layers):
      x = EncoderLayer(
        heads=config.heads,
        head_dim=config.head_dim,
        ffn_width=config.ffn_width,
        gated=config.gated,
        activation=config.activation,
        norm_epsilon=config.norm_epsilon,
        dtype=config.dtype,
        name=f"layers_{k}",
      )(x, mask=mask, bias=bias)
    x = rms_norm(epsilon=config.norm_epsilon, dtype=jnp.float32, name="encoder_norm")(x)
    return jnp.where(mask[:, :, None], x, 0.0)
