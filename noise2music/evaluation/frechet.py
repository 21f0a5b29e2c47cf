"""The Frechet distance between two clouds of vectors, as FAD uses it, and what its value owes to
the number of vectors."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from noise2music.errors import UserError

LARGEST = 512.0  # of an entry
_MOST_ROWS = 1 << 24
_COARSE, _FINE = 2.0**-5, 2.0**-20
Cloud = Float[np.ndarray, "_ width"]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Gaussian:
  """mean: float64 [width]. covariance: float64 [width, width], divided by count - 1."""

  count: int
  mean: np.ndarray
  covariance: np.ndarray

  @classmethod
  def fit(cls, vectors: Cloud, *, weights: np.ndarray | None = None) -> "Gaussian":
    """In float64. weights: how often each row counts, [n]; once where None.

    Raises ValueError for fewer than 2 rows.
    """
    x = np.asarray(vectors, np.float64)
    if x.ndim != 2 or (len(x) if weights is None else np.sum(weights)) < 2:
      raise ValueError(f"needs an array [n >= 2, width], got {list(x.shape)}")
    if weights is None:
      return cls(count=len(x), mean=x.mean(0), covariance=np.atleast_2d(np.cov(x, rowvar=False)))
    count = int(np.sum(weights))
    mean = weights @ x / count
    covariance = (x * weights[:, None]).T @ x - count * np.outer(mean, mean)
    return cls(count=count, mean=mean, covariance=covariance / (count - 1))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
  """What a Gaussian is fitted to: a state that rows are added to and that can be merged.

  The same to the bit in whatever order rows come and on however many hosts they are added: each
  entry is cut into two whole numbers, of 2^-5 and of 2^-20, whose sums float64 holds exactly (2^24
  rows of entries below 512). An entry is off by 2^-21 at most.

  sums: [2, width]. products: [3, width, width], of coarse x coarse, the mixed ones, fine x fine.
  """

  count: int
  sums: np.ndarray
  products: np.ndarray

  @classmethod
  def empty(cls, width: int) -> "Moments":
    return cls(count=0, sums=np.zeros((2, width)), products=np.zeros((3, width, width)))

  def add(self, vectors: Cloud) -> "Moments":
    """With these rows besides. Raises UserError for entries or counts that are out of bounds."""
    x = np.asarray(vectors, np.float64)
    if not np.all(np.abs(x) < LARGEST):  # also where it is NaN
      raise UserError(
        f"an embedding holds NaN or an entry beyond {LARGEST:g}: scale what the encoder gives"
      )
    coarse = np.rint(x / _COARSE)
    fine = np.rint((x - coarse * _COARSE) / _FINE)
    mixed = coarse.T @ fine
    more = Moments(
      count=len(x),
      sums=np.stack([coarse.sum(0), fine.sum(0)]),
      products=np.stack([coarse.T @ coarse, mixed + mixed.T, fine.T @ fine]),
    )
    return self.merge(more)

  def merge(self, other: "Moments") -> "Moments":
    count = self.count + other.count
    if count > _MOST_ROWS:
      raise UserError(f"{count:,} embeddings are too many: give at most {_MOST_ROWS:,}")
    return Moments(
      count=count, sums=self.sums + other.sums, products=self.products + other.products
    )

  def compute(self) -> Gaussian:
    """Raises ValueError for fewer than 2 rows."""
    if self.count < 2:
      raise ValueError(f"needs at least 2 rows, got {self.count}")
    total = self.sums[0] * _COARSE + self.sums[1] * _FINE
    units = np.array([_COARSE**2, _COARSE * _FINE, _FINE**2])
    scatter = np.tensordot(units, self.products, 1) - np.outer(total, total) / self.count
    return Gaussian(
      count=self.count, mean=total / self.count, covariance=scatter / (self.count - 1)
    )


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
  """|mean_a - mean_b|^2 + tr A + tr B - 2 tr (A B)^(1/2).

  The trace of the root is taken from the eigenvalues of the symmetric A^(1/2) B A^(1/2), so
  covariances of less than full rank (fewer embeddings than their width) are exact and need no
  constant added to their diagonal.

  The estimate falls as the counts grow, the distance itself unchanged: compare only at equal ones.
  Raises ValueError where the widths differ.
  """
  if a.mean.shape != b.mean.shape:
    raise ValueError(f"needs two Gaussians of one width, got {len(a.mean)} and {len(b.mean)}")
  root_a = _symmetric_root(a.covariance)
  cross = np.linalg.eigvalsh(root_a @ b.covariance @ root_a)
  trace = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
  return float(np.sum((a.mean - b.mean) ** 2) + max(trace, 0.0))


def expected_bias(gaussian: Gaussian, n: int, m: int) -> float:
  """What two samples of n and m independent rows of one Gaussian are apart, on average.

  To the first order (1/n + 1/m) (tr S + sum_ij (1 + [i=j]) l_i l_j / (l_i + l_j) / 2) with the
  eigenvalues l of S; of D equal ones (1/n + 1/m) l (D + D (D + 1) / 4). Rows of one clip depend on
  one another, so the true bias of frames is larger.
  """
  values = np.maximum(np.linalg.eigvalsh(gaussian.covariance), 0)
  sums = values[:, None] + values
  pairs = np.divide(np.outer(values, values), sums, out=np.zeros_like(sums), where=sums > 0)
  return float((1 / n + 1 / m) * (values.sum() + (pairs.sum() + np.trace(pairs)) / 2))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extrapolation:
  """FAD = value + slope / n, fitted. r_squared: share of the variance that the line explains."""

  value: float
  slope: float
  r_squared: float


def extrapolate(counts: Sequence[int], distances: Sequence[float]) -> Extrapolation:
  """Least squares of distance against 1 / count, at infinity."""
  inverse, y = 1 / np.asarray(counts, np.float64), np.asarray(distances, np.float64)
  slope, value = np.polyfit(inverse, y, 1)
  spread = np.sum((y - y.mean()) ** 2)
  left = np.sum((y - value - slope * inverse) ** 2)
  return Extrapolation(
    value=float(value), slope=float(slope), r_squared=float(1 - left / spread) if spread else 1.0
  )


@runtime_checkable
class Infinity(Protocol):
  """A way to extrapolate to infinitely many vectors. str() of it says which."""

  def __call__(
    self, clips: Sequence[np.ndarray], reference: Gaussian, *, rng: np.random.Generator
  ) -> Extrapolation | None:
    """clips: [rows, width] each. None where there are too few to tell."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByClips:
  """Whole clips, each at most once, from a fifth of them to all: the fit looks beyond the sample.

  Windows of a clip are like one another, so clips are what there must be more of. The smallest
  draw holds twice as many rows as they are wide, and at most a third of the clips, else there is no
  extrapolation. The bias of the reference's own size stays.
  """

  points: int = 25

  def __call__(
    self, clips: Sequence[np.ndarray], reference: Gaussian, *, rng: np.random.Generator
  ) -> Extrapolation | None:
    rows = sum(map(len, clips)) / len(clips)
    smallest = max(len(clips) // 5, math.ceil(2 * len(reference.mean) / rows), 2)
    if smallest > len(clips) / 3:
      return None
    counts = [int(n) for n in np.linspace(smallest, len(clips), self.points)]
    drawn = [np.concatenate([clips[k] for k in rng.permutation(len(clips))[:n]]) for n in counts]
    return extrapolate(counts, [frechet_distance(Gaussian.fit(x), reference) for x in drawn])

  def __str__(self) -> str:
    return "clips, without replacement"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FadtkRows:
  """As fadtk's score_inf: rows, with replacement, from 500 to all.

  The fit tends to the distance of the finite sample, bias and all: for comparison with fadtk alone.
  """

  smallest: int = 500
  points: int = 25

  def __call__(
    self, clips: Sequence[np.ndarray], reference: Gaussian, *, rng: np.random.Generator
  ) -> Extrapolation | None:
    rows = np.concatenate(clips)
    if len(rows) <= self.smallest:
      return None
    counts = [int(n) for n in np.linspace(self.smallest, len(rows), self.points)]
    drawn = [rows[rng.integers(0, len(rows), n)] for n in counts]
    return extrapolate(counts, [frechet_distance(Gaussian.fit(x), reference) for x in drawn])

  def __str__(self) -> str:
    return "rows, with replacement, as fadtk"


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
