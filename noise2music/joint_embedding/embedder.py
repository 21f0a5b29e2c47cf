"""Trained towers in use: clips of any length and texts to unit vectors."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float

from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import pool_windows, split_windows
from noise2music.joint_embedding.objective import JointEmbeddingObjective
from noise2music.sharding.rows import in_batches
from noise2music.text.tokenizer import tokenize
from noise2music.typing import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Embedder:
  """An `encoder.AudioTextEncoder`. batch_size: windows, or texts, at once; on several devices the
  next multiple of their number. weights: fingerprint of the parameters.
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
    ours = self.objective
    how = (ours.token_length, ours.tokenizer.fingerprint(), ours.log_mel, ours.sample_rate_hz)
    seen = hashlib.sha256(repr(how).encode()).hexdigest()[:8]
    return f"{self.weights}-{seen}, windows of {ours.window_seconds:g} s"

  def embed_audio(self, clips: Sequence[Float[np.ndarray, "_"]]) -> Float[np.ndarray, "n width"]:
    """As `split_windows` and `pool_windows` say, but that a clip shorter than a window is repeated
    until it fills one. Raises UserError on an empty clip."""
    if not len(clips):
      return np.zeros((0, self.width), np.float32)
    windows = [self._windows(clip) for clip in clips]
    run = functools.partial(self._audio, self.params)
    parts = in_batches(np.concatenate(windows), size=self.batch_size)
    vectors = np.concatenate([run(*part) for part in parts])
    ends = np.cumsum([len(of_clip) for of_clip in windows])
    return np.stack([pool_windows(v) for v in np.split(vectors[: ends[-1]], ends[:-1])])

  def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "n width"]:
    """Raises UserError on an empty text."""
    objective = self.objective
    if not len(texts):
      return np.zeros((0, self.width), np.float32)
    arrays = tokenize(texts, tokenizer=objective.tokenizer, length=objective.token_length)
    run = functools.partial(self._texts, self.params)
    vectors = np.concatenate([run(*part) for part in in_batches(*arrays, size=self.batch_size)])
    return vectors[: len(texts)]

  def _windows(self, clip: np.ndarray) -> np.ndarray:
    seconds, rate = self.objective.window_seconds, self.sample_rate_hz
    if not len(clip):
      raise UserError("a clip without a sample has no embedding: leave it out")
    length = round(seconds * rate)
    if len(clip) < length:
      clip = np.tile(clip, -(-length // len(clip)))[:length]
    return split_windows(clip, sample_rate_hz=rate, seconds=seconds)

  @functools.partial(jax.jit, static_argnums=0)
  def _audio(self, params, windows):
    return self.objective.embed_windows(params, windows)

  @functools.partial(jax.jit, static_argnums=0)
  def _texts(self, params, tokens, mask):
    return self.objective.embed_tokens(params, tokens, mask)
