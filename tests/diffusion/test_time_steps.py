import numpy as np
import pytest
from diffusion_grids import COSINE, GRIDS, LINEAR

from noise2music.diffusion.time_steps import (
  EDMSteps,
  SegmentedSteps,
  UniformLogSnrSteps,
  UniformSteps,
)


def check_grid(times, count):
  assert times.dtype == np.float64
  assert times.shape == (count + 1,)
  assert times[0] == 1.0
  assert times[-1] == 0.0
  assert (np.diff(times) < 0).all()


@pytest.mark.parametrize(("name", "count"), [
  ("waveform", 1000), ("cascader", 800), ("spectrogram", 1000), ("vocoder", 100),
])  # fmt: skip
def test_lists_of_table_7(name, count):
  grid = GRIDS[name]
  check_grid(grid.times, count)
  sizes = [total / n for total, n in grid.segments for _ in range(n)]
  np.testing.assert_allclose(-np.diff(grid.times)[::-1], sizes, rtol=1e-6, atol=1e-12)


def test_front_heavy_is_fine_near_0_and_back_heavy_is_its_mirror():
  front = SegmentedSteps(segments=GRIDS["waveform"].segments).times(COSINE)
  back = SegmentedSteps(segments=GRIDS["waveform"].segments, back_heavy=True).times(COSINE)
  assert (front < 0.5).sum() == 950
  np.testing.assert_allclose(back, 1 - front[::-1], atol=1e-12)
  assert (GRIDS["spectrogram"].times > 0.6 + 1e-9).sum() == 800  # the "eval" list as printed


@pytest.mark.parametrize("schedule", [COSINE, LINEAR])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_uniform_grids(schedule, count):
  check_grid(UniformSteps(count=count).times(schedule), count)
  times = UniformLogSnrSteps(count=count).times(schedule)
  check_grid(times, count)
  logsnr = schedule.logsnr(times)
  np.testing.assert_allclose(np.diff(logsnr), (logsnr[-1] - logsnr[0]) / count, rtol=1e-5)


def test_log_snr_grid_within_inner_limits():
  times = UniformLogSnrSteps(count=6, inner=(-9.0, 11.0)).times(LINEAR)
  check_grid(times, 6)
  np.testing.assert_allclose(LINEAR.logsnr(times[1:-1]), [-9, -4, 1, 6, 11], atol=1e-6)
  with pytest.raises(ValueError, match="must lie within"):
    UniformLogSnrSteps(count=6, inner=(-12.0, 11.0)).times(LINEAR)


@pytest.mark.parametrize(
  "make",
  [
    lambda: SegmentedSteps(segments=((0.5, 10), (0.4, 10))),
    lambda: SegmentedSteps(segments=((1.5, 10), (-0.5, 10))),
    lambda: SegmentedSteps(segments=((1.0, 2.5),)),
    lambda: UniformSteps(count=0),
    lambda: UniformLogSnrSteps(count=2.5),
    lambda: UniformLogSnrSteps(count=2, inner=(-5.0, 5.0)),
    lambda: UniformLogSnrSteps(count=9, inner=(5.0, -5.0)),
  ],
)
def test_refuses_what_is_no_grid(make):
  with pytest.raises((ValueError, TypeError)):
    make()


def test_lists_from_a_config_file_are_hashable():
  steps = SegmentedSteps(segments=[[0.25, 1], [0.75, 3]])
  assert hash(steps) == hash(SegmentedSteps(segments=((0.25, 1), (0.75, 3))))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 20, 100, 1_000])
@pytest.mark.parametrize("name", GRIDS)
def test_a_list_of_segments_in_fewer_steps_keeps_its_shape(name, count):
  grid = GRIDS[name]
  steps = SegmentedSteps(segments=grid.segments, back_heavy=grid.back_heavy)
  fewer = steps.of(count)
  times = fewer.times(grid.schedule)
  assert fewer.count == count == len(times) - 1
  assert (times[0], times[-1]) == (1.0, 0.0)
  if steps.count % count == 0 and count >= 100:
    # Every k-th time of the whole list, to within a step of the coarser one.
    whole = steps.times(grid.schedule)[:: steps.count // count]
    assert np.abs(times - whole).max() < np.abs(np.diff(times)).max()


def test_edm_steps_by_hand():
  grid = EDMSteps(count=5, rho=2.0, sigma_max=16.0, sigma_min=1.0)
  times = grid.times(COSINE)
  sigmas = COSINE.sigma(times) / COSINE.alpha(times)
  np.testing.assert_allclose(sigmas[1:-1], [16.0, 9.0, 4.0, 1.0], rtol=1e-6)
  assert (times[0], times[-1]) == (1.0, 0.0)
  assert len(grid.of(9).times(COSINE)) == 10
  for wrong in ({"count": 2}, {"rho": 0.0}, {"sigma_min": 20.0}):
    with pytest.raises(ValueError, match="EDMSteps needs"):
      EDMSteps(**{"count": 5, "sigma_max": 16.0, **wrong})
  with pytest.raises(ValueError, match="must lie within the schedule"):
    EDMSteps(count=5, sigma_max=1e6).times(COSINE)
