"""Learning rate, clipping and the moving average, against numbers worked out by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.training.optimizer import Ema, Optimizer


def test_the_defaults_are_the_papers():
  optimizer = Optimizer()
  assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.999)
  assert (optimizer.peak_learning_rate, optimizer.warmup_steps) == (1e-4, 10_000)
  assert optimizer.ema.decay == 0.9999


def test_learning_rate_rises_linearly_and_falls_as_a_cosine_to_the_last_step():
  rate = Optimizer(peak_learning_rate=1.0, warmup_steps=10, final_learning_rate=0.2).schedule(110)
  assert rate(0) == 0.0
  np.testing.assert_allclose(rate(5), 0.5, rtol=1e-6)
  np.testing.assert_allclose(rate(10), 1.0, rtol=1e-6)
  np.testing.assert_allclose(rate(60), 0.6, rtol=1e-6)  # half way: the mean of both ends
  np.testing.assert_allclose(rate(110), 0.2, rtol=1e-6)


def test_decay_steps_may_lie_beyond_the_run():
  rate = Optimizer(peak_learning_rate=1.0, warmup_steps=0, decay_steps=200).schedule(100)
  np.testing.assert_allclose(rate(0), 1.0)
  np.testing.assert_allclose(rate(100), 0.5, rtol=1e-6)


def test_the_gradient_is_scaled_down_to_the_norm_and_never_up():
  # Adam's first update is -rate * g / (|g| + epsilon): with epsilon 1 it shows the clipped size.
  optimizer = Optimizer(peak_learning_rate=1.0, warmup_steps=0, clip_norm=0.5, epsilon=1.0)
  transformation = optimizer.transformation(10)

  def first_update(gradient, transformation=transformation):
    g = jnp.float32([gradient])
    return float(transformation.update(g, transformation.init(g), g)[0][0])

  np.testing.assert_allclose(first_update(3.0), -0.5 / 1.5, rtol=1e-5)
  np.testing.assert_allclose(first_update(0.25), -0.25 / 1.25, rtol=1e-5)
  free = dataclasses.replace(optimizer, clip_norm=None).transformation(10)
  np.testing.assert_allclose(first_update(3.0, free), -3.0 / 4.0, rtol=1e-5)


def test_the_average_follows_a_short_run_and_ends_at_its_decay():
  ema = Ema(decay=0.9)
  np.testing.assert_allclose(ema.rate(0), 0.1, rtol=1e-6)
  np.testing.assert_allclose(ema.rate(10), 11 / 20, rtol=1e-6)
  np.testing.assert_allclose(ema.rate(10_000), 0.9, rtol=1e-6)
  np.testing.assert_allclose(Ema(decay=0.9, warm_up=False).rate(0), 0.9, rtol=1e-6)
  updated = ema.update({"w": jnp.float32(0)}, {"w": jnp.float32(1)}, step=0)
  np.testing.assert_allclose(updated["w"], 0.9, rtol=1e-6)


@pytest.mark.parametrize(
  "settings",
  [
    {"peak_learning_rate": 0.0},
    {"final_learning_rate": 1.0},
    {"clip_norm": 0.0},
    {"warmup_steps": 1.5},
    {"warmup_steps": -1},
  ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_that_cannot_be_honoured_are_refused(settings):
  with pytest.raises(UserError):
    Optimizer(**settings)


def test_a_warm_up_longer_than_the_run_is_refused():
  with pytest.raises(UserError, match="shorten the warm-up"):
    Optimizer(warmup_steps=100).check(100)
  with pytest.raises(UserError, match="EMA decay"):
    Ema(decay=1.0)
