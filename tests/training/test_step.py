"""One update: what changes, what does not, and that parts of a batch add up to the whole."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sine_toy import SineBatches, SineObjective

from noise2music.training import step as step_module
from noise2music.training.optimizer import Ema, Optimizer
from noise2music.training.state import initial_state, merge, split
from noise2music.training.step import make_step

OPTIMIZER = Optimizer(peak_learning_rate=1e-2, warmup_steps=0, ema=Ema(decay=0.9, warm_up=False))


def start(objective, optimizer=OPTIMIZER, **kwargs):
  """(state, jitted step, one batch)."""
  batch = SineBatches().batch(0)
  params = objective.init(jax.random.key(1), batch)
  mask = objective.trainable(params)
  settings = {"optimizer": optimizer, "mask": mask}
  state = initial_state(params, **settings)
  step = jax.jit(make_step(objective, **settings, seed=3, **kwargs))

  def update(state, batch, *, turn=None):
    return step(state, batch, 50, state.step if turn is None else turn)

  return state, update, batch


def test_the_first_update_is_adams():
  state, step, batch = start(SineObjective())
  new, metrics = step(state, batch)
  key = jax.random.fold_in(jax.random.key(3), 0)
  (loss, _), grads = jax.value_and_grad(SineObjective().loss, has_aux=True)(
    state.params, batch, key
  )
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
  norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
  np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-5)
  assert norm < 1  # so that nothing was clipped
  want = jax.tree.map(lambda p, g: p - 1e-2 * g / (jnp.abs(g) + 1e-8), state.params, grads)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), new.params, want)
  average = jax.tree.map(lambda p, q: 0.9 * p + 0.1 * q, state.params, new.params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.ema, average)
  assert int(new.step) == 1


def test_training_lowers_the_loss():
  state, step, _ = start(SineObjective())
  losses = []
  for k in range(50):
    state, metrics = step(state, SineBatches().batch(k))
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_update_of_the_whole_batch(parts):
  state, whole, batch = start(SineObjective())
  _, divided, _ = start(SineObjective(), accumulation=parts)
  (one, metrics), (other, others) = whole(state, batch), divided(state, batch)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), metrics, others)


def test_frozen_parameters_stay_and_have_no_moments_and_no_average():
  state, step, batch = start(SineObjective(frozen=True))
  new, _ = step(state, batch)
  np.testing.assert_array_equal(new.params["encoder"]["kernel"], state.params["encoder"]["kernel"])
  assert np.any(new.params["network"]["kernel"] != state.params["network"]["kernel"])
  sizes = {x.size for x in jax.tree.leaves(state.opt_state)}
  assert state.params["encoder"]["kernel"].size in {8 * 32}
  assert len(jax.tree.leaves(state.opt_state)) == 2 * 2 + 2  # two moments of two, two counters
  assert sizes == {8 * 32, 32, 1}
  assert len(jax.tree.leaves(state.ema)) == 2
  complete = new.averaged_params
  np.testing.assert_array_equal(complete["encoder"]["kernel"], new.params["encoder"]["kernel"])
  assert np.any(complete["network"]["kernel"] != new.params["network"]["kernel"])


def test_without_an_average_the_parameters_themselves_are_used():
  state, step, batch = start(SineObjective(), dataclasses.replace(OPTIMIZER, ema=None))
  new, _ = step(state, batch)
  assert new.ema is None
  assert new.averaged_params is new.params
  assert "ema" not in new.items()


def test_the_draw_depends_on_the_step_and_on_nothing_else():
  state, step, batch = start(SineObjective())
  _, first = step(state, batch)
  _, again = step(state, batch)
  _, later = step(dataclasses.replace(state, step=jnp.int32(7)), batch)
  assert float(first["loss"]) == float(again["loss"])
  assert float(first["loss"]) != float(later["loss"])


class Exploding(SineObjective):
  """Where a batch begins with clip 13, the loss is no number; with 14, its gradient."""

  def loss(self, params, batch, key):
    loss, aux = super().loss(params, batch, key)
    first = batch["clip_id"][0, 0]
    root = jnp.sqrt(jnp.where(first == 14, 0.0, 1.0) * jnp.sum(params["network"]["bias"] ** 2 + 1))
    return loss * jnp.where(first == 13, jnp.nan, 1.0) + 0 * root, aux


def clip(number, batch):
  return {**batch, "clip_id": np.full_like(batch["clip_id"], number)}


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("number", [13, 14])
def test_an_update_that_is_not_finite_is_not_made(number, platform, monkeypatch):
  monkeypatch.setattr(step_module, "platform", lambda: platform)
  state, step, batch = start(Exploding())
  same, metrics = step(state, clip(number, batch))
  assert not metrics["made"]
  assert bool(jnp.isfinite(metrics["loss"])) == (number == 14)
  jax.tree.map(np.testing.assert_array_equal, same, state)
  moved, metrics = step(same, batch)
  assert metrics["made"]
  assert int(moved.step) == 1
  assert np.any(moved.params["network"]["bias"] != state.params["network"]["bias"])


def test_an_update_waits_for_its_turn():
  state, step, batch = start(SineObjective())
  for turn in (1, 7):
    same, metrics = step(state, batch, turn=turn)
    assert not metrics["made"]
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_split_and_merge_are_inverse():
  params = {"a": {"x": jnp.ones(2), "y": jnp.zeros(3)}, "b": jnp.ones(1)}
  trained, frozen = split(params, {"a": {"x": True, "y": False}, "b": True})
  assert len(jax.tree.leaves(trained)) == 2
  assert len(jax.tree.leaves(frozen)) == 1
  jax.tree.map(np.testing.assert_array_equal, merge(trained, frozen), params)
