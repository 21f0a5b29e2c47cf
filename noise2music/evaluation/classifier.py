"""A linear classifier of embeddings, fitted in closed form: does the music sound as asked?"""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearDiscriminant:
  """Fisher's linear discriminant: Gaussian classes that share one covariance.

  labels: [classes]. weights: [width, classes]. bias: [classes].
  """

  labels: tuple[str, ...]
  weights: np.ndarray
  bias: np.ndarray

  @classmethod
  def fit(
    cls, embeddings: np.ndarray, labels: Sequence[str], *, shrinkage: float = 0.05
  ) -> "LinearDiscriminant":
    """embeddings: [n, width]; labels: [n]. All classes are taken as equally likely.

    shrinkage: share of the mean variance mixed into the covariance's diagonal.
    """
    names = tuple(sorted(set(labels)))
    if len(names) < 2:
      raise ValueError(f"needs at least two classes to tell apart, got {list(names)}")
    x, y = np.asarray(embeddings, np.float64), np.asarray(labels)
    means = np.stack([x[y == name].mean(0) for name in names])
    within = x - means[np.searchsorted(names, y)]
    cov = within.T @ within / max(len(x) - len(names), 1)
    cov = (1 - shrinkage) * cov + shrinkage * np.trace(cov) / len(cov) * np.eye(len(cov))
    weights = np.linalg.solve(cov, means.T)
    return cls(labels=names, weights=weights, bias=-0.5 * np.sum(means.T * weights, 0))

  def scores(self, embeddings: np.ndarray) -> np.ndarray:
    """[..., width] -> [..., classes]: log-likelihoods but for a term that all classes share."""
    return np.asarray(embeddings, np.float64) @ self.weights + self.bias

  def predict(self, clips: np.ndarray) -> list[str]:
    """[clips, windows, width] -> one label a clip, by the sum of its windows' scores."""
    best = self.scores(clips).sum(1).argmax(-1)
    return [self.labels[index] for index in best]
