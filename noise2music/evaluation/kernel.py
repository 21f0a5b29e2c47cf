"""The kernel audio distance, KAD (Chung et al., 2025, arXiv 2502.15602): no Gaussian assumed, and
not biased by the number of clips."""

import dataclasses

import numpy as np
from jaxtyping import Float

SCALE = 100.0  # as published, so that figures are readable
_EPSILON = 1e-8
Cloud = Float[np.ndarray, "_ width"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Kernels:
  """k(x, y) = exp(-|x - y|^2 / (2 s^2 + 1e-8)) of all pairs, once, for many resamples.

  Rows of one clip are like one another, so only pairs of different clips tell of the cloud: the
  others are left out, within either side.

  evaluated: float32 [n, n]. reference: [m, m]. between: [n, m]. owners: the clip of each row, [n]
  and [m].
  """

  evaluated: np.ndarray
  reference: np.ndarray
  between: np.ndarray
  owners: tuple[np.ndarray, np.ndarray]

  @classmethod
  def of(
    cls,
    evaluated: Cloud,
    reference: Cloud,
    *,
    bandwidth: float,
    owners: tuple[np.ndarray, np.ndarray] | None = None,
  ) -> "Kernels":
    """owners: each row is a clip of its own where None."""
    gamma = 1 / (2 * bandwidth**2 + _EPSILON)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
      return np.exp(-gamma * squared_distances(a, b)).astype(np.float32)

    return cls(
      evaluated=kernel(evaluated, evaluated),
      reference=kernel(reference, reference),
      between=kernel(evaluated, reference),
      owners=owners or (np.arange(len(evaluated)), np.arange(len(reference))),
    )

  def distance(self, weights: np.ndarray | None = None) -> float:
    """100 x the unbiased estimate of MMD^2; may be negative where the clouds agree.

    weights: how often each evaluated row counts. NaN where only one clip does.
    """
    n, m = self.between.shape
    w = np.ones(n) if weights is None else np.asarray(weights, np.float64)
    own = _mean_of_pairs(self.evaluated, w, self.owners[0])
    other = _mean_of_pairs(self.reference, np.ones(m), self.owners[1])
    between = (w @ self.between.sum(1, dtype=np.float64)) / (w.sum() * m)
    return float(SCALE * (own + other - 2 * between))


def _mean_of_pairs(kernel: np.ndarray, w: np.ndarray, owners: np.ndarray) -> float:
  """Over pairs of rows of different clips."""
  total, count = w @ kernel.astype(np.float64) @ w, w.sum() ** 2
  for owner in np.unique(owners):
    rows = np.flatnonzero(owners == owner)
    total -= w[rows] @ kernel[np.ix_(rows, rows)].astype(np.float64) @ w[rows]
    count -= w[rows].sum() ** 2
  return float(total / count) if count else float("nan")


def kernel_distance(evaluated: Cloud, reference: Cloud, *, bandwidth: float) -> float:
  """KAD of rows that are a clip each.

  Raises ValueError for fewer than two rows a side, or widths that differ.
  """
  shapes = [np.shape(x) for x in (evaluated, reference)]
  if min(len(evaluated), len(reference)) < 2 or shapes[0][1:] != shapes[1][1:]:
    raise ValueError(f"needs two arrays [n >= 2, width] of one width, got {shapes}")
  return Kernels.of(evaluated, reference, bandwidth=bandwidth).distance()


def median_distance(vectors: Cloud) -> float:
  """The bandwidth: median distance of all pairs, the lower of the two middle ones.

  The paper takes it from the reference; kadtk's code from the evaluated set, which lets a model
  choose its own ruler.
  """
  upper = np.triu_indices(len(vectors), 1)
  distances = np.sort(squared_distances(vectors, vectors)[upper])
  return float(np.sqrt(distances[(len(distances) - 1) // 2]))


def squared_distances(a: Cloud, b: Cloud) -> np.ndarray:
  """float64 [n, m]."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  squares = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1) - 2 * a @ b.T
  return np.maximum(squares, 0)
