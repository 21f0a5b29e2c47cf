import numpy as np
import pytest
from diffusion_grids import COSINE, GRIDS, LINEAR

from noise2music.diffusion.time_steps import SegmentedSteps, UniformLogSnrSteps, UniformSteps


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
