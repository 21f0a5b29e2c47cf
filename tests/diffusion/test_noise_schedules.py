import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.diffusion.noise_schedules import CosineSchedule, LinearSchedule
from noise2music.typing import NoiseSchedule

SCHEDULES = [CosineSchedule(), LinearSchedule(), CosineSchedule(logsnr_min=-12.0, logsnr_max=9.0)]


def test_cosine_is_equation_6_of_the_paper():
  a = math.atan(math.e**10) - math.atan(math.e**-10)
  b = math.atan(math.e**-10)
  t = np.linspace(0, 1, 11)
  np.testing.assert_allclose(CosineSchedule().alpha(t), np.cos(a * t + b), rtol=1e-9)
  np.testing.assert_allclose(
    CosineSchedule().logsnr(np.array([0, 0.5, 1])), [20, 0, -20], atol=1e-9
  )


def test_linear_is_the_continuous_limit_of_ho_et_al():
  t = np.linspace(0.01, 1, 12)
  np.testing.assert_allclose(
    LinearSchedule().alpha(t) ** 2, np.exp(-(0.1 * t + 9.95 * t**2)), rtol=1e-12
  )
  discrete = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  steps = np.arange(100, 1001, 100)
  alpha_squared = LinearSchedule().alpha(steps / 1000) ** 2
  np.testing.assert_allclose(np.log(alpha_squared), np.log(discrete[steps - 1]), rtol=0.011)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_float32_agrees_with_float64_up_to_both_ends(schedule):
  assert isinstance(schedule, NoiseSchedule)
  near = np.concatenate([[0.0], 10.0 ** np.arange(-6, -1)])
  t = np.concatenate([near, np.linspace(0.1, 0.9, 9), 1 - near]).astype(np.float32)
  for name in ("alpha", "sigma", "logsnr"):
    exact = getattr(schedule, name)(t.astype(np.float64))
    single = jax.jit(getattr(schedule, name))(t)
    assert exact.dtype == np.float64
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, exact, rtol=3e-6, atol=1e-5 if name == "logsnr" else 0)
  alpha, sigma = schedule.alpha(t.astype(np.float64)), schedule.sigma(t.astype(np.float64))
  np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-12)
  np.testing.assert_allclose(schedule.logsnr(t), 2 * np.log(alpha / sigma), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_falls_and_has_finite_gradients_on_all_of_0_to_1(schedule):
  t = np.linspace(0, 1, 1001)
  assert np.isfinite(schedule.logsnr(t)).all()
  assert schedule.logsnr(np.zeros(1))[0] == pytest.approx(schedule.logsnr_max, rel=1e-3)
  assert (np.diff(schedule.logsnr(t)) < 0).all()
  for name in ("alpha", "sigma", "logsnr"):
    gradient = jax.vmap(jax.grad(getattr(schedule, name)))(jnp.linspace(0, 1, 1001))
    assert np.isfinite(gradient).all(), name


def test_the_linear_schedule_ends_in_noise_and_equation_5_read_literally_does_not():
  assert LinearSchedule().alpha(np.ones(1))[0] ** 2 == pytest.approx(np.exp(-10.05))
  # sigma^2 from 1e-4 to 0.02, as printed: at its end the signal is still seven times the noise.
  literal = np.linspace(1e-4, 0.02, 1001)
  assert np.sqrt((1 - literal[-1]) / literal[-1]) == pytest.approx(7)


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4)])
def test_any_shape(shape):
  for schedule in SCHEDULES:
    assert schedule.sigma(jnp.full(shape, 0.3)).shape == shape


def test_refuses_ranges_it_cannot_compute():
  with pytest.raises(ValueError, match="logsnr_min < logsnr_max"):
    CosineSchedule(logsnr_min=5.0, logsnr_max=5.0)
  with pytest.raises(ValueError, match="logsnr_max"):
    LinearSchedule(logsnr_max=0.0)
