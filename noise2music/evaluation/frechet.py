"""The Frechet distance between two clouds of embeddings, as FAD uses it."""

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
  """|mean_a - mean_b|^2 + tr A + tr B - 2 tr (A B)^(1/2), of Gaussians fitted to two samples.

  a: [n, width], b: [m, width]; the width must agree, n and m be at least 2. In float64. The trace
  of the root is taken from the eigenvalues of the symmetric A^(1/2) B A^(1/2), so covariances of
  less than full rank (fewer embeddings than their width) are exact and need no constant added to
  their diagonal.

  The estimate falls as n and m grow, the distance itself unchanged: compare only at equal counts.
  """
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
    raise ValueError(
      f"needs two arrays [n >= 2, width] of one width, got {list(a.shape)} and {list(b.shape)}"
    )
  cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
  root_a = _symmetric_root(cov_a)
  cross = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
  trace = np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
  return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + max(trace, 0.0))


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(matrix)
  return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
