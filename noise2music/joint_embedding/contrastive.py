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
  """

  def __call__(
    self, audio: Vectors, text: Vectors, *, temperature: Array, keep: Rows
  ) -> Float[Array, "batch"]:
    logits = _logits(audio, text, temperature)
    both = jnp.stack([logits, logits.T])
    others = ~jnp.eye(len(logits), dtype=bool) & keep[None, :]
    return jax.nn.logsumexp(both, axis=(0, 2), where=others[None]) - jnp.diagonal(logits)

  def chance(self, batch: Array) -> Array:
    return jnp.log(2 * (batch - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Temperature:
  """One learnt number, kept between `least` and 1 (MuLan: in (0, 1]; CLIP: least .01)."""

  initial: float = 0.07
  least: float = 0.01

  def init(self) -> jax.Array:
    return jnp.float32(math.log(self.initial))

  def __call__(self, parameter: Array) -> jax.Array:
    return jnp.clip(jnp.exp(parameter), self.least, 1.0)


def ranks(audio: Vectors, text: Vectors, *, keep: Rows) -> Float[Array, "batch"]:
  """For each text, how many clips are nearer to it than its own; of equally near ones half."""
  similarity = jnp.where(keep[None, :], text @ audio.T, -jnp.inf)
  own = jnp.diagonal(similarity)[:, None]
  before = jnp.sum(similarity > own, axis=1)
  return before + (jnp.sum(similarity == own, axis=1) - 1) / 2


def _logits(audio: Vectors, text: Vectors, temperature: Array) -> Float[Array, "batch batch"]:
  return audio @ text.T / temperature
