"""The text side of a stage: tokenizer, encoder, and whether it is trained along."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from noise2music import typing as n2m
from noise2music.errors import UserError
from noise2music.stages.conditioning import Text
from noise2music.text import t5_weights
from noise2music.text.tokenizer import ByteTokenizer, tokenize


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextConditioner:
  """A text encoder and its tokenizer.

  encoder: a module with the call of `text.T5Encoder`. weights: a T5X or Hugging Face checkpoint
  of the same architecture. trainable: train it along with the network; the paper's encoder is
  frozen, which needs weights.
  """

  encoder: Any
  tokenizer: n2m.Tokenizer = ByteTokenizer()
  weights: str | None = None
  trainable: bool = False

  def __post_init__(self):
    if self.weights is None and not self.trainable:
      raise UserError(
        "a frozen text encoder needs weights: set TextConditioner.weights to a T5 checkpoint, or"
        " TextConditioner.trainable = True to train it along"
      )
    self.encoder.config.check_tokenizer(self.tokenizer)

  def init(self, key: n2m.Key, tokens: n2m.Tokens) -> n2m.PyTree:
    """Fresh parameters, boxed with their logical axis names."""
    mask = jnp.ones(tokens.shape, bool)
    return self.encoder.init(key, tokens, mask)["params"]

  def pretrained(self, params: n2m.PyTree) -> n2m.PyTree:
    """The checkpoint's parameters in place of `params`, where weights are given."""
    if self.weights is None:
      return params
    config, loaded = t5_weights.load_t5(self.weights)
    if config != self.encoder.config:
      raise UserError(
        f"{self.weights} holds {config}, the encoder is {self.encoder.config}: give T5Config the"
        " checkpoint's values"
      )
    return loaded

  @functools.partial(jax.jit, static_argnums=0)
  def embed(self, params: n2m.PyTree, tokens: n2m.Tokens, mask: n2m.Mask) -> n2m.TextEmbedding:
    """[batch, tokens] -> [batch, tokens, width]; no gradient reaches a frozen encoder."""
    if not self.trainable:
      params = jax.lax.stop_gradient(params)
    return self.encoder.apply({"params": params}, tokens, mask)

  def text(
    self, params: n2m.PyTree, tokens: n2m.Tokens, mask: n2m.Mask, *, keep: Bool[n2m.Array, "batch"]
  ) -> Text:
    """Rows without a single token have no text whatever `keep` says."""
    return Text(
      embedding=self.embed(params, tokens, mask),
      mask=jnp.asarray(mask),
      keep=keep & jnp.any(mask, axis=1),
    )

  def tokenize(self, prompts: Sequence[str], *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts -> (int32 tokens, bool mask), both [prompts, length]. Raises on an empty prompt."""
    return tokenize(prompts, tokenizer=self.tokenizer, length=length)
