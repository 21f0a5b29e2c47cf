"""The grids of the paper's Table 7, and the exact noise predictor of a Gaussian."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from noise2music.diffusion import gaussian, noise_schedules, time_steps

FRONT_800 = ((0.05, 400), (0.15, 200), (0.3, 150), (0.5, 50))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """One list of Table 7 with the schedule of the model that uses it."""

  segments: tuple
  schedule: object
  back_heavy: bool = False

  @property
  def times(self) -> np.ndarray:
    steps = time_steps.SegmentedSteps(segments=self.segments, back_heavy=self.back_heavy)
    return steps.times(self.schedule)


COSINE, LINEAR = noise_schedules.CosineSchedule(), noise_schedules.LinearSchedule()
WAVEFORM = ((0.01, 200), (0.04, 400), (0.15, 200), (0.3, 150), (0.5, 50))
GRIDS = {
  "waveform": Grid(segments=WAVEFORM, schedule=COSINE),
  "cascader": Grid(segments=FRONT_800, schedule=LINEAR),
  "spectrogram": Grid(
    segments=((0.3, 50), (0.3, 150), (0.2, 300), (0.2, 500)), schedule=LINEAR
  ),
  "vocoder": Grid(segments=((0.05, 50), (0.15, 30), (0.3, 15), (0.5, 5)), schedule=LINEAR),
  "waveform_reversed": Grid(segments=WAVEFORM, schedule=COSINE, back_heavy=True),
}  # fmt: skip


def gaussian_eps(schedule, mean: float, variance: float):
  """eps = sigma (x_t - alpha m) / (alpha^2 v + sigma^2): what a perfect network would say."""

  def eps_fn(x_t, t):
    alpha, sigma = gaussian.expand(schedule.alpha(t), x_t), gaussian.expand(schedule.sigma(t), x_t)
    return sigma * (x_t - alpha * mean) / (alpha**2 * variance + sigma**2)

  return eps_fn


def noise_pixels():
  """Noise [16, 2048, 1] whose sample mean is 0 and sample variance 1."""
  x = np.random.default_rng(0).normal(size=(16, 2048, 1))
  return jnp.asarray((x - x.mean()) / x.std(), jnp.float32)
