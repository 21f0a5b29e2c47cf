"""The text side of a stage: tokenizer, encoder, and whether it is trained along.

TextConditioner   the encoder runs in the step, on the batch's tokens
EmbeddedAhead     a frozen encoder that ran before training: the batch brings what it gave
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from noise2music import batch as batch_lib
from noise2music import typing as n2m
from noise2music.checkpoints import leaves
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

  def of_batch(
    self, params: n2m.PyTree, batch: n2m.Batch, *, keep: Bool[n2m.Array, "batch"]
  ) -> Text:
    """The batch's texts, as `text` gives them."""
    return self.text(params, batch[batch_lib.TOKENS], batch[batch_lib.TOKEN_MASK], keep=keep)

  def check_data(self, dataset: Any) -> None:
    """Any data set will do: the encoder reads its tokens."""

  def completed(self, params: n2m.PyTree, *, dataset: Any, folder: Path) -> n2m.PyTree:
    """The encoder's parameters, which a checkpoint holds."""
    del dataset, folder
    return params

  def fingerprint(self, params: n2m.PyTree) -> dict[str, Any]:
    """What an embedding depends on beside its tokens, as JSON: the weights, to the bit; sizes."""
    config = dataclasses.asdict(self.encoder.config)
    config |= {"activation": config["activation"].value, "dtype": jnp.dtype(config["dtype"]).name}
    return {"weights": leaves.fingerprint(params), **config}

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


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EmbeddedAhead:
  """A frozen encoder whose embeddings were computed before training (`n2m data embed`).

  Training has no encoder and its checkpoints hold none; sampling loads the one that `conditioner`
  names. conditioner: the encoder that runs in sampling, and that ran ahead.
  """

  conditioner: TextConditioner
  trainable = False

  def __post_init__(self):
    if self.conditioner.trainable:
      raise UserError(
        "a text encoder that is trained along has no embeddings ahead of training: set"
        " TextConditioner.trainable = False and its weights, or leave EmbeddedAhead out"
      )

  @property
  def encoder(self) -> Any:
    return self.conditioner.encoder

  @property
  def tokenizer(self) -> n2m.Tokenizer:
    return self.conditioner.tokenizer

  def init(self, key: n2m.Key, tokens: n2m.Tokens) -> None:
    """No parameters: the encoder ran ahead."""

  def of_batch(self, params: None, batch: n2m.Batch, *, keep: Bool[n2m.Array, "batch"]) -> Text:
    """The embeddings that the batch brings, in float32. Raises UserError where it brings none."""
    if batch_lib.TEXT_EMBEDDING not in batch:
      raise UserError(
        "the batches bring no text embeddings: bind IndexBatches.embeddings and"
        " BatchSpec.text_width as configs/text/t5_ahead.gin does"
      )
    embedding = jnp.asarray(batch[batch_lib.TEXT_EMBEDDING]).astype(jnp.float32)
    if embedding.shape[-1] != self.encoder.config.width:
      raise UserError(
        f"the text embeddings are {embedding.shape[-1]} wide, the text encoder's"
        f" {self.encoder.config.width}: give BatchSpec.text_width and T5Config.width one value"
      )
    mask = jnp.asarray(batch[batch_lib.TOKEN_MASK])
    return Text(embedding=embedding, mask=mask, keep=keep & jnp.any(mask, axis=1))

  def text(
    self, params: n2m.PyTree, tokens: n2m.Tokens, mask: n2m.Mask, *, keep: Bool[n2m.Array, "batch"]
  ) -> Text:
    """As `TextConditioner.text`, for prompts, which nobody embedded ahead."""
    return self.conditioner.text(params, tokens, mask, keep=keep)

  def tokenize(self, prompts: Sequence[str], *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """As `TextConditioner.tokenize`."""
    return self.conditioner.tokenize(prompts, length=length)

  def check_data(self, dataset: Any) -> None:
    """Raises UserError unless the texts were embedded by the encoder that `conditioner` names."""
    params = self.conditioner.pretrained(None)
    self._check(params, where=self.conditioner.weights, dataset=dataset)

  def completed(self, params: None, *, dataset: Any, folder: Path) -> n2m.PyTree:
    """The encoder's parameters, from where the config says or from a run's `folder` or beside it.

    dataset: fingerprint of what the run was trained on. Raises UserError where there is no such
    checkpoint, or it is another one than that which embedded the texts.
    """
    del params  # a checkpoint holds none
    named = Path(self.conditioner.weights)
    places = [named, folder / named.name, folder.parent / named.name]
    found = next((place for place in places if place.exists()), named)
    try:
      params = dataclasses.replace(self.conditioner, weights=str(found)).pretrained(None)
    except UserError as error:
      raise UserError(
        f"{folder} holds no text encoder, since its texts were embedded ahead, and"
        f" {error}; put the T5 checkpoint of the run there, or as {named.name} beside the run"
      ) from error
    self._check(params, where=found, dataset=dataset)
    return jax.tree.map(jnp.asarray, params)

  def _check(self, params: n2m.PyTree, *, where: str | Path, dataset: Any) -> None:
    made_with = dataset.get(batch_lib.TEXT_EMBEDDING) if isinstance(dataset, dict) else None
    if made_with is None:
      raise UserError(
        "the batches do not say which encoder their texts were embedded with: give them the"
        " embeddings that `n2m data embed` wrote"
      )
    have, want = made_with["encoder"], self.conditioner.fingerprint(params)
    if have != want:
      names = ", ".join(name for name in want if have.get(name) != want[name])
      raise UserError(
        f"{where} is not the encoder that embedded the texts ({names} differ): put that one there,"
        " or embed the texts anew with `n2m data embed` and train with these"
      )
