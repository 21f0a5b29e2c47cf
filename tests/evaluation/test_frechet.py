"""The distance against closed forms, its state against any order, its bias against simulation."""

import itertools

import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.evaluation.frechet import (
  ByClips,
  FadtkRows,
  Gaussian,
  Moments,
  expected_bias,
  extrapolate,
  frechet_distance,
)


def of(mean, covariance) -> Gaussian:
  return Gaussian(count=9, mean=np.asarray(mean, float), covariance=np.asarray(covariance, float))


FULL = of([0, 0], [[1, -0.3], [-0.3, 3]])


@pytest.mark.parametrize(
  ("a", "b", "distance"),
  [
    (of([1, -2, 0.5], np.diag([1, 4, 9])), of([0, 0, 0], np.diag([4, 1, 16])), 8.25),
    # tr A + tr B - 2 sqrt(tr AB + 2 sqrt(det A det B))
    (of([0, 0], [[2, 0.5], [0.5, 1]]), FULL, 0.929311854968),
    # tr A + tr B - 2 sqrt(u' B u) of A = u u' with u = (1, 2)
    (of([0, 0], [[1, 2], [2, 4]]), FULL, 2.129774385073),
  ],
)
def test_closed_forms(a: Gaussian, b: Gaussian, distance: float) -> None:
  assert frechet_distance(a, b) == pytest.approx(distance, rel=1e-11)
  assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-11)
  assert frechet_distance(a, a) == pytest.approx(0, abs=1e-7)


def test_agrees_with_scipy_where_covariances_are_regular() -> None:
  linalg = pytest.importorskip("scipy.linalg")
  rng = np.random.default_rng(1)
  a, b = rng.normal(size=(200, 5)), rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + 1
  cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
  root = linalg.sqrtm(cov_a @ cov_b).real
  expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
  assert frechet_distance(Gaussian.fit(a), Gaussian.fit(b)) == pytest.approx(expected, rel=1e-8)


def test_singular_covariance_is_exact() -> None:
  a = np.random.default_rng(2).normal(size=(4, 16))  # rank 3 of 16
  assert frechet_distance(Gaussian.fit(a), Gaussian.fit(a + 1)) == pytest.approx(16, rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (5,)])
@pytest.mark.usefixtures("unchecked")
def test_a_cloud_of_one_point_is_refused(shape: tuple) -> None:
  with pytest.raises(ValueError, match="n >= 2"):
    Gaussian.fit(np.zeros(shape))


def test_widths_that_differ_are_refused() -> None:
  with pytest.raises(ValueError, match="one width"):
    frechet_distance(FULL, of([0, 0, 0], np.eye(3)))


def test_weights_are_repetitions() -> None:
  x = np.random.default_rng(3).normal(size=(20, 4))
  times = np.arange(20) % 3
  ours, theirs = Gaussian.fit(x, weights=times), Gaussian.fit(np.repeat(x, times, axis=0))
  assert ours.count == theirs.count
  np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12, atol=1e-15)
  np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (0.01, 0.1), (20, 200)])
def test_moments_are_the_same_to_the_bit_in_any_order_and_near_float64(scale, offset) -> None:
  rng = np.random.default_rng(4)
  x = (rng.normal(size=(3_000, 24)) * scale + offset).astype(np.float32)
  parts = np.split(x, [100, 101, 1_500])

  def merged(order) -> Moments:
    states = [Moments.empty(24).add(parts[k][::-1]) for k in order]
    return states[0].merge(states[1]).merge(states[2].merge(states[3]))

  whole = Moments.empty(24).add(x)
  for order in itertools.permutations(range(4)):
    found = merged(order)
    assert found.count == 3_000
    assert np.array_equal(found.sums, whole.sums)
    assert np.array_equal(found.products, whole.products)
  ours, float64 = whole.compute(), Gaussian.fit(x)
  np.testing.assert_allclose(ours.mean, float64.mean, atol=1e-6)
  np.testing.assert_allclose(ours.covariance, float64.covariance, atol=1e-6 * max(scale, 0.1))


@pytest.mark.parametrize("entry", [np.nan, np.inf, 600.0])
def test_moments_refuse_what_they_cannot_add(entry: float) -> None:
  with pytest.raises(UserError, match="NaN or an entry beyond 512"):
    Moments.empty(2).add(np.array([[0.0, entry]]))


def test_expected_bias_of_equal_eigenvalues_is_the_closed_form_and_what_samples_show() -> None:
  width, n, m, variance = 16, 200, 400, 2.5
  isotropic = of(np.zeros(width), variance * np.eye(width))
  closed = (1 / n + 1 / m) * variance * (width + width * (width + 1) / 4)
  assert expected_bias(isotropic, n, m) == pytest.approx(closed, rel=1e-12)
  rng = np.random.default_rng(5)
  scales = np.array([3.0] * 2 + [0.1] * (width - 2))
  draw = lambda count: Gaussian.fit(rng.normal(size=(count, width)) * scales)  # noqa: E731
  seen = np.mean([frechet_distance(draw(n), draw(m)) for _ in range(60)])
  uneven = of(np.zeros(width), np.diag(scales**2))
  assert seen == pytest.approx(expected_bias(uneven, n, m), rel=0.15)
  even = of(np.zeros(width), np.mean(scales**2) * np.eye(width))
  assert seen < expected_bias(even, n, m) / 2


def test_a_straight_line_is_found_again() -> None:
  counts = np.linspace(500, 5_000, 25).astype(int)
  found = extrapolate(counts.tolist(), (2.5 + 1_000 / counts).tolist())
  assert found.value == pytest.approx(2.5, rel=1e-9)
  assert found.slope == pytest.approx(1_000, rel=1e-9)
  assert found.r_squared == pytest.approx(1, rel=1e-9)


def clips_of(rng: np.random.Generator, count: int, *, rows: int, width: int) -> list[np.ndarray]:
  """Of a Gaussian with unit covariance, the rows of a clip close to one another."""
  places = rng.normal(size=(count, 1, width))
  return list(np.sqrt(0.5) * (places + rng.normal(size=(count, rows, width))))


@pytest.mark.parametrize(("count", "rows"), [(2_000, 1), (300, 30)])
def test_by_clips_reaches_the_truth_and_fadtks_way_does_not(count: int, rows: int) -> None:
  rng, truth = np.random.default_rng(6), of(np.zeros(32), np.eye(32))
  clips = clips_of(rng, count, rows=rows, width=32)
  plain = frechet_distance(Gaussian.fit(np.concatenate(clips)), truth)
  ours, fadtk = ByClips()(clips, truth, rng=rng), FadtkRows()(clips, truth, rng=rng)
  assert plain > 0.12
  assert abs(ours.value) < plain / 4
  assert fadtk.value == pytest.approx(plain, rel=0.25)
  assert ours.r_squared > 0.9


@pytest.mark.parametrize(("count", "rows"), [(5, 40), (100, 1)])
def test_too_few_to_extrapolate_give_nothing(count: int, rows: int) -> None:
  rng, truth = np.random.default_rng(6), of(np.zeros(32), np.eye(32))
  clips = clips_of(rng, count, rows=rows, width=32)
  assert ByClips()(clips, truth, rng=rng) is None
  assert FadtkRows()(clips, truth, rng=rng) is None
