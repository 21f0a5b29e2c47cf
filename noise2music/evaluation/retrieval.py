"""How well vectors find what belongs together: retrieval@k and zero-shot labels, with intervals."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Integer

from noise2music.evaluation.intervals import bootstrap

Vectors = Float[np.ndarray, "n width"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
  """A share of n trials, its 95 % interval, and what chance would give."""

  value: float
  interval_95: tuple[float, float]
  chance: float
  n: int


def retrieval_at(k: int, *, similarity: Float[np.ndarray, "queries items"], seed: int = 0) -> Share:
  """The share of queries whose own item, that of the same number, is among the k most similar.

  Of items that tie, each order is taken as equally likely. Raises ValueError on what is not finite.
  """
  if not np.isfinite(similarity).all():
    raise ValueError("a similarity is NaN or infinite: mend the encoder that gave the vectors")
  own = np.diagonal(similarity)[:, None]
  before, ties = np.sum(similarity > own, 1), np.sum(similarity == own, 1)
  found = np.clip((k - before) / ties, 0.0, 1.0)
  return _share(found, chance=min(1.0, k / similarity.shape[1]), seed=seed)


def zero_shot(
  items: Vectors,
  *,
  labels: Float[np.ndarray, "_ width"],
  right: Integer[np.ndarray, "n"],
  seed: int = 0,
) -> Share:
  """The share of items whose nearest label is the right one. right: its number, for each item."""
  nearest = np.argmax(items @ labels.T, axis=1)
  return _share((nearest == np.asarray(right)).astype(float), chance=1 / len(labels), seed=seed)


def as_facts_tell(facts: Bool[np.ndarray, "queries items facts"]) -> Float[np.ndarray, "queries _"]:
  """Similarities of one who knows of each item which of a query's facts are true of it, and no
  more: the best that retrieval from such texts can be."""
  return facts.sum(-1).astype(np.float64)


def _share(found: np.ndarray, *, chance: float, seed: int) -> Share:
  interval = bootstrap(lambda rows: float(found[rows].mean()), count=len(found), seed=seed)
  return Share(value=float(found.mean()), interval_95=interval, chance=chance, n=len(found))
