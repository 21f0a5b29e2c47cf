"""KAD, KL and cosines against numbers worked out elsewhere or by hand."""

import numpy as np
import pytest

from noise2music.evaluation.divergence import Divergence, each_window, kl_divergence, softmax
from noise2music.evaluation.kernel import Kernels, kernel_distance, median_distance
from noise2music.evaluation.similarity import cosines, derangement, rank_agreement

X = np.array([(0, 0), (1, 0), (0, 2)], float)
Y = np.array([(1, 1), (2, 0), (3, 1), (0, 1)], float)


@pytest.mark.parametrize(
  ("bandwidth", "distance"),
  [(2.0, 0.100832060), (np.sqrt(2), -4.511150356), (1.7071068, -1.608093116)],
)
def test_kernel_distance(bandwidth: float, distance: float) -> None:
  assert kernel_distance(X, Y, bandwidth=bandwidth) == pytest.approx(distance, rel=1e-5)
  assert kernel_distance(Y, X, bandwidth=bandwidth) == pytest.approx(distance, rel=1e-5)


def test_the_bandwidth_is_the_lower_median() -> None:
  assert median_distance(X) == pytest.approx(2)
  assert median_distance(Y) == pytest.approx(np.sqrt(2))  # not 1.7071068, the mean of the two


def test_rows_that_are_drawn_twice_are_no_pairs() -> None:
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(300, 6)), rng.normal(size=(300, 6))
  kernels = Kernels.of(x, y, bandwidth=median_distance(y))
  assert kernels.distance(np.ones(300)) == pytest.approx(kernels.distance())
  draws = [np.bincount(rng.integers(0, 300, 300), minlength=300) for _ in range(100)]
  assert np.mean([kernels.distance(d) for d in draws]) == pytest.approx(
    kernels.distance(), abs=0.05
  )
  with pytest.raises(ValueError, match="n >= 2"):
    kernel_distance(x[:1], y, bandwidth=1.0)
  naive = Kernels.of(np.repeat(x, draws[0], axis=0), y, bandwidth=median_distance(y)).distance()
  assert naive > kernels.distance(draws[0]) + 0.1


def test_windows_of_one_clip_are_no_pairs() -> None:
  """As many clips of either side from one distribution: the distance is 0 on average."""
  rng, found, naive = np.random.default_rng(1), [], []
  owners = np.repeat(np.arange(20), 15)
  for _ in range(12):
    sides = [
      (rng.normal(size=(20, 1, 6)) + 0.3 * rng.normal(size=(20, 15, 6))).reshape(-1, 6)
      for _ in range(2)
    ]
    found.append(Kernels.of(*sides, bandwidth=3.0, owners=(owners, owners)).distance())
    naive.append(Kernels.of(*sides, bandwidth=3.0).distance())
  assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(12)
  assert np.mean(naive) > 3 * np.std(naive) / np.sqrt(12)


P, Q = np.array([[0.1, 0.4, 0.5]]), np.array([[0.8, 0.15, 0.05]])


def test_divergence_in_both_directions() -> None:
  assert kl_divergence(P, Q)[0] == pytest.approx(1.3356800935, rel=1e-9)
  assert kl_divergence(Q, P)[0] == pytest.approx(1.4012995907, rel=1e-9)
  assert kl_divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))[0] == pytest.approx(
    np.log(2)
  )
  certain = np.array([[1.0, 0.0, 0.0]])
  assert kl_divergence(certain[:, ::-1], certain, epsilon=1e-6)[0] == pytest.approx(-np.log(1e-6))


def test_pooling_and_direction_are_as_said() -> None:
  rng = np.random.default_rng(1)
  a, b = rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
  pooled = [softmax(x.mean(0)[None]) for x in (a, b)]
  ours = Divergence()
  np.testing.assert_allclose(ours(a, b), kl_divergence(*pooled, epsilon=1e-6))
  assert ours.protocol == "KL(generated || reference), mean_logits, epsilon 1e-06"
  other = Divergence(pool=each_window, to_reference=False, epsilon=0.0)
  np.testing.assert_allclose(other(a, b), kl_divergence(softmax(b), softmax(a[:2])))
  assert other.protocol == "KL(reference || generated), each_window, epsilon 0"


def test_cosines_of_pairs() -> None:
  a, b = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.0, 1.0], [0.6, 0.8]])
  np.testing.assert_allclose(cosines(a, b), [0, 1])


@pytest.mark.parametrize("n", [2, 3, 50])
def test_nobody_keeps_their_place(n: int) -> None:
  for seed in range(20):
    order = derangement(n, rng=np.random.default_rng(seed))
    assert sorted(order) == list(range(n))
    assert not np.any(order == np.arange(n))


def test_rank_agreement() -> None:
  a = np.array([3.0, 1.0, 2.0, 10.0])
  assert rank_agreement(a, a**3) == pytest.approx(1)
  assert rank_agreement(a, -a) == pytest.approx(-1)
  # Spearman's rho with ties, by hand: ranks (1.5, 1.5, 3) and (1, 2, 3).
  assert rank_agreement(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(
    1.5 / np.sqrt(1.5 * 2)
  )
  assert rank_agreement(np.ones(3), a[:3]) == 0
