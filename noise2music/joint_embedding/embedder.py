"""Trained towers in use: clips of any length and texts to unit vectors."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Float

from noise2music.errors import UserError
from noise2music.joint_embedding.objective import JointEmbeddingObjective
from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import LogicalRules
from noise2music.text.tokenizer import tokenize
from noise2music.typing import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Embedder:
  """An `encoder.AudioTextEncoder`. batch_size: windows, or texts, at once; a multiple of the number
  of devices. weights: fingerprint of the parameters.
  """

  objective: JointEmbeddingObjective
  params: PyTree
  weights: str
  batch_size: int = 16

  @property
  def width(self) -> int:
    return self.objective.width

  @property
  def sample_rate_hz(self) -> int:
    return self.objective.sample_rate_hz

  @property
  def fingerprint(self) -> str:
    """Differs where a clip or a text may get another vector."""
    return f"{self.weights}, windows of {self.objective.window_seconds:g} s"

  def embed_audio(self, clips: Sequence[Float[np.ndarray, "_"]]) -> Float[np.ndarray, "n width"]:
    """Mean over non-overlapping windows, normalised. What is left at a clip's end is passed over; a
    clip shorter than a window is repeated until it fills one. Raises UserError on an empty clip."""
    windows, owners = [], []
    for clip, samples in enumerate(clips):
      for window in self._windows(samples):
        windows.append(window)
        owners.append(clip)
    run = functools.partial(self._audio, self.params)
    vectors = np.concatenate([run(*part) for part in self._batches(np.stack(windows))])
    total = np.zeros((len(clips), self.width))
    np.add.at(total, owners, vectors[: len(owners)])
    return _unit(total)

  def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n width"]:
    """Raises UserError on an empty text."""
    objective = self.objective
    arrays = tokenize(texts, tokenizer=objective.tokenizer, length=objective.token_length)
    run = functools.partial(self._texts, self.params)
    vectors = np.concatenate([run(*part) for part in self._batches(*arrays)])
    return _unit(vectors[: len(texts)])

  def _windows(self, samples: np.ndarray) -> np.ndarray:
    length = round(self.objective.window_seconds * self.sample_rate_hz)
    if not len(samples):
      raise UserError("a clip without a sample has no embedding: leave it out")
    if len(samples) < length:
      samples = np.tile(samples, -(-length // len(samples)))[:length]
    return samples[: len(samples) // length * length].reshape(-1, length).astype(np.float32)

  def _batches(self, *arrays: np.ndarray) -> Iterator[tuple]:
    """Of one size, the last filled up with its last row, each on the devices."""
    mesh, rules = MeshShape().build(), LogicalRules()
    for start in range(0, len(arrays[0]), self.batch_size):
      rows = np.minimum(np.arange(start, start + self.batch_size), len(arrays[0]) - 1)
      part = tuple(array[rows] for array in arrays)
      if jax.device_count() == 1:
        yield part
        continue
      with rules.activate(mesh):
        yield jax.device_put(part, rules.batch_sharding(mesh))

  @functools.partial(jax.jit, static_argnums=0)
  def _audio(self, params, windows):
    return self.objective.embed_windows(params, windows)

  @functools.partial(jax.jit, static_argnums=0)
  def _texts(self, params, tokens, mask):
    return self.objective.embed_tokens(params, tokens, mask)


def _unit(vectors: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return (vectors / np.maximum(norm, 1e-12)).astype(np.float32)
