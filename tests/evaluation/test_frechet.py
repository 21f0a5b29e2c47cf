import numpy as np
import pytest

from noise2music.evaluation.frechet import frechet_distance


def _with_moments(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
  """Points whose sample mean and (diagonal) sample covariance are exactly these."""
  width = len(mean)
  corners = np.concatenate([np.eye(width), -np.eye(width)])
  scale = np.sqrt((2 * width - 1) / 2)
  return mean + corners * scale * std


def test_closed_form_of_diagonal_gaussians() -> None:
  a = _with_moments(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 0.5]))
  b = _with_moments(np.array([1.0, 1.0, 0.0]), np.array([3.0, 2.0, 1.0]))
  # |mean|^2 = 1 + 4, and (std_a - std_b)^2 = 4 + 0 + 0.25 where covariances commute.
  assert frechet_distance(a, b) == pytest.approx(9.25, abs=1e-9)


def test_is_zero_for_equal_clouds_and_symmetric() -> None:
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(50, 8)), rng.normal(size=(60, 8)) @ rng.normal(size=(8, 8))
  assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
  assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_agrees_with_scipy_where_covariances_are_regular() -> None:
  linalg = pytest.importorskip("scipy.linalg")
  rng = np.random.default_rng(1)
  a, b = rng.normal(size=(200, 5)), rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + 1
  cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = linalg.sqrtm(cov_a @ cov_b).real
  expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
  assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_singular_covariance_is_exact() -> None:
  rng = np.random.default_rng(2)
  a = rng.normal(size=(4, 16))  # rank 3 of 16
  assert frechet_distance(a, a + 1) == pytest.approx(16, rel=1e-9)


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5,))])
def test_refuses_what_has_no_distance(shapes: tuple) -> None:
  with pytest.raises(ValueError, match="one width"):
    frechet_distance(np.zeros(shapes[0]), np.zeros(shapes[1]))
