"""Divergence of what a classifier hears in two versions of a clip: which way round is said."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Probabilities = Float[np.ndarray, "rows classes"]
Pool = Callable[[np.ndarray], np.ndarray]


def kl_divergence(p: Probabilities, q: Probabilities, *, epsilon: float = 0.0) -> np.ndarray:
  """KL(p || q) = sum p ln (p / (q + epsilon)) of each row, float64 [rows]; 0 ln 0 is 0."""
  p, q = np.asarray(p, np.float64), np.asarray(q, np.float64) + epsilon
  return np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0), axis=-1)


def mean_logits(rows: np.ndarray) -> np.ndarray:
  """Windows to one row a clip: the mean of logits, then the softmax (stable-audio-metrics)."""
  return softmax(rows.mean(0, keepdims=True))


def each_window(rows: np.ndarray) -> np.ndarray:
  """The softmax of every window, none pooled (audiocraft)."""
  return softmax(rows)


def softmax(logits: np.ndarray) -> np.ndarray:
  """Over the last axis, in float64."""
  x = np.asarray(logits, np.float64)
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Divergence:
  """KL between a generated clip and the clip it should be like.

  pool: logits [windows, classes] -> probabilities [rows, classes]. to_reference: KL(generated ||
  reference), as stable-audio-metrics takes it; False: KL(reference || generated), as audiocraft and
  audioldm_eval do. epsilon: added to what is divided by, as all three do.
  """

  pool: Pool = mean_logits
  to_reference: bool = True
  epsilon: float = 1e-6

  @property
  def protocol(self) -> str:
    sides = ("generated", "reference") if self.to_reference else ("reference", "generated")
    return f"KL({sides[0]} || {sides[1]}), {self.pool.__name__}, epsilon {self.epsilon:g}"

  def __call__(self, generated: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Logits [windows, classes] of one pair -> one value a row; rows that one side lacks are left
    out."""
    p, q = self.pool(generated), self.pool(reference)
    rows = min(len(p), len(q))
    p, q = p[:rows], q[:rows]
    sides = (p, q) if self.to_reference else (q, p)
    return kl_divergence(*sides, epsilon=self.epsilon)
