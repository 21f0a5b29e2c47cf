import numpy as np
import pytest

from noise2music.evaluation.intervals import bootstrap, jackknife

X = np.random.default_rng(0).normal(size=400)


def _mean(indices: np.ndarray) -> float:
  return float(X[indices].mean())


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
  low, high = jackknife(_mean, count=len(X))
  error = X.std(ddof=1) / np.sqrt(len(X))
  assert (low, high) == pytest.approx((X.mean() - 1.96 * error, X.mean() + 1.96 * error))


def test_bootstrap_of_a_mean_comes_near_it_and_repeats() -> None:
  low, high = bootstrap(_mean, count=len(X), seed=1, rounds=2000)
  assert (low, high) == pytest.approx(jackknife(_mean, count=len(X)), abs=0.02)
  assert (low, high) == bootstrap(_mean, count=len(X), seed=1, rounds=2000)
