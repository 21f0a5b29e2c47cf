"""How close clips lie, in a joint embedding, to their texts and to the clips they are like."""

import numpy as np
from jaxtyping import Float

Unit = Float[np.ndarray, "n width"]  # rows of length 1


def cosines(a: Unit, b: Unit) -> np.ndarray:
  """Of each row of `a` with the same row of `b`: float64 [n]; the score is their mean."""
  return np.sum(np.asarray(a, np.float64) * np.asarray(b, np.float64), axis=1)


def derangement(n: int, *, rng: np.random.Generator) -> np.ndarray:
  """An order of n >= 2 in which nobody keeps their place, for the floor of shuffled pairs."""
  order = rng.permutation(n)
  shifted = np.empty(n, int)
  shifted[order] = np.roll(order, 1)
  return shifted


def rank_agreement(a: np.ndarray, b: np.ndarray) -> float:
  """Spearman's rho of two scores of the same clips; equal scores share their mean rank."""
  ranks = [_ranks(np.asarray(x, np.float64)) for x in (a, b)]
  deviations = [rank - rank.mean() for rank in ranks]
  norm = np.sqrt(np.prod([np.sum(d**2) for d in deviations]))
  return float(np.sum(deviations[0] * deviations[1]) / norm) if norm else 0.0


def _ranks(x: np.ndarray) -> np.ndarray:
  _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
  last = np.cumsum(counts)
  return (last - (counts - 1) / 2)[inverse]
