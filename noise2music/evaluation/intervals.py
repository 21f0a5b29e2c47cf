"""Confidence intervals: a figure without one is a rumour."""

from collections.abc import Callable

import numpy as np


def jackknife(statistic: Callable[[np.ndarray], float], *, count: int) -> tuple[float, float]:
  """value -+ 1.96 standard errors from leaving out one of `count` indices at a time.

  For statistics that resampling with replacement would bias, as repeated clips do to a covariance.
  """
  everything = np.arange(count)
  left_out = np.array([statistic(np.delete(everything, index)) for index in range(count)])
  error = np.sqrt((count - 1) * np.mean((left_out - left_out.mean()) ** 2))
  value = statistic(everything)
  return float(value - 1.96 * error), float(value + 1.96 * error)


def bootstrap(
  statistic: Callable[[np.ndarray], float], *, count: int, seed: int, rounds: int = 200
) -> tuple[float, float]:
  """The central 95 % of `statistic(indices)` over resamples of `count` indices."""
  rng = np.random.default_rng(seed)
  values = [statistic(rng.integers(0, count, count)) for _ in range(rounds)]
  low, high = np.quantile(values, [0.025, 0.975])
  return float(low), float(high)
