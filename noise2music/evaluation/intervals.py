"""Confidence intervals by bootstrap: a figure without one is a rumour."""

from collections.abc import Callable

import numpy as np


def bootstrap(
  statistic: Callable[[np.ndarray], float], *, count: int, seed: int, rounds: int = 200
) -> tuple[float, float]:
  """The central 95 % of `statistic(indices)` over resamples of `count` indices."""
  rng = np.random.default_rng(seed)
  values = [statistic(rng.integers(0, count, count)) for _ in range(rounds)]
  low, high = np.quantile(values, [0.025, 0.975])
  return float(low), float(high)
