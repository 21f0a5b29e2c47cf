"""Losses that pull a clip and its text together and push the other pairs of a batch apart.

Each takes unit vectors of the whole batch, whatever devices they lie on, and gives one number a
row. `keep` leaves rows out, as pairs and as others' negatives.
"""

import dataclasses
import math
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from noise2music.errors import UserError
from noise2music.typing import Array

Vectors = Float[Array, "batch width"]
Rows = Bool[Array, "batch"]


@runtime_checkable
class Contrast(Protocol):
  """A loss of rows (audio_i, text_i)."""

  def __call__(
    self, audio: Vectors, text: Vectors, *, temperature: Array, keep: Rows
  ) -> Float[Array, "batch"]: ...

  def chance(self, batch: Array) -> Array:
    """The loss where all pairs of a batch look alike."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InfoNCE:
  """CLIP (Radford et al., 2021): cross-entropy of each clip among the texts, and of each text among
  the clips, halved."""

  def __call__(
    self, audio: Vectors, text: Vectors, *, temperature: Array, keep: Rows
  ) -> Float[Array, "batch"]:
    logits = _logits(audio, text, temperature)
    among_texts = jax.nn.logsumexp(logits, axis=1, where=keep[None, :])
    among_clips = jax.nn.logsumexp(logits, axis=0, where=keep[:, None])
    return (among_texts + among_clips) / 2 - jnp.diagonal(logits)

  def chance(self, batch: Array) -> Array:
    return jnp.log(batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MuLan:
  """MuLan (Huang et al., 2022): both directions in one sum, without the pair itself.

  -ln h_ii + ln sum_{j != i} (h_ij + h_ji),  h_ij = exp(audio_i . text_j / temperature)

  A row that has no other to be compared with has a loss of 0.
  """

  def __call__(
    self, audio: Vectors, text: Vectors, *, temperature: Array, keep: Rows
  ) -> Float[Array, "batch"]:
    logits = _logits(audio, text, temperature)
    both = jnp.stack([logits, logits.T])
    others = ~jnp.eye(len(logits), dtype=bool) & keep[None, :]
    some = jnp.any(others, axis=1)
    others = others | ~some[:, None]  # so that no logarithm of nothing is taken
    loss = jax.nn.logsumexp(both, axis=(0, 2), where=others[None]) - jnp.diagonal(logits)
    return jnp.where(some, loss, 0.0)

  def chance(self, batch: Array) -> Array:
    return jnp.log(2 * (batch - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
  """One learnt number between `least` and 1, neither of which it quite reaches (MuLan: in (0, 1];
  CLIP: .01 or more). initial: between them."""

  initial: float = 0.07
  least: float = 0.01

  def __post_init__(self):
    if not 0 <= self.least < self.initial < 1:
      raise UserError(
        f"the temperature begins at {self.initial:g}: give one between {self.least:g} and 1"
      )

  def init(self) -> jax.Array:
    share = (self.initial - self.least) / (1 - self.least)
    return jnp.float32(math.log(share / (1 - share)))

  def __call__(self, parameter: Array) -> jax.Array:
    # A sigmoid has a gradient everywhere: one that was cut off would stay at its bound for ever.
    return self.least + (1 - self.least) * jax.nn.sigmoid(parameter)


def ranks(audio: Vectors, text: Vectors, *, keep: Rows) -> Float[Array, "batch"]:
  """For each text, how many clips are nearer to it than its own; of equally near ones half."""
  similarity = jnp.where(keep[None, :], text @ audio.T, -jnp.inf)
  own = jnp.diagonal(similarity)[:, None]
  before = jnp.sum(~(similarity <= own), axis=1)  # so that NaN ranks last
  return before + jnp.maximum(jnp.sum(similarity == own, axis=1) - 1, 0) / 2


def _logits(audio: Vectors, text: Vectors, temperature: Array) -> Float[Array, "batch batch"]:
  return audio @ text.T / temperature
