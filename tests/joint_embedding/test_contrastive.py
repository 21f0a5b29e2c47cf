"""Losses against numbers computed elsewhere, and over a batch that eight devices share."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.joint_embedding.contrastive import InfoNCE, MuLan, Temperature, ranks

AUDIO = jnp.array([[1, 0], [0, 1], [0.6, 0.8]])
TEXT = jnp.array([[0.8, 0.6], [0, 1], [1, 0]])
ALL = jnp.ones(3, bool)


def test_mulans_loss_is_that_of_the_worked_example():
  terms = MuLan()(AUDIO, TEXT, temperature=jnp.float32(0.5), keep=ALL)
  np.testing.assert_allclose(terms, [1.319398140, 0.329533630, 1.803851570], rtol=1e-6)


def test_info_nce_is_the_mean_of_two_cross_entropies():
  logits = np.asarray(AUDIO @ TEXT.T, np.float64) / 0.5
  softmax = lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)  # noqa: E731
  want = -(np.log(np.diag(softmax(logits))) + np.log(np.diag(softmax(logits.T)))) / 2
  found = InfoNCE()(AUDIO, TEXT, temperature=jnp.float32(0.5), keep=ALL)
  np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.mark.parametrize("loss", [InfoNCE(), MuLan()])
def test_rows_left_out_might_not_be_there(loss):
  keep = jnp.array([True, False, True])
  left = [0, 2]
  found = loss(AUDIO, TEXT, temperature=jnp.float32(0.3), keep=keep)[np.array(left)]
  alone = loss(
    AUDIO[jnp.array(left)], TEXT[jnp.array(left)], temperature=jnp.float32(0.3), keep=keep[::2]
  )
  np.testing.assert_allclose(found, alone, rtol=1e-5)


@pytest.mark.parametrize("loss", [InfoNCE(), MuLan()])
def test_chance_is_the_loss_of_towers_that_say_always_the_same(loss):
  same = jnp.tile(jnp.array([[0.6, 0.8]]), (16, 1))
  found = loss(same, same, temperature=jnp.float32(0.07), keep=jnp.ones(16, bool))
  np.testing.assert_allclose(found, loss.chance(jnp.float32(16)), rtol=1e-5)


def test_ranks_count_nearer_clips_and_half_of_equally_near_ones():
  np.testing.assert_array_equal(ranks(AUDIO, TEXT, keep=ALL), [1, 0, 1])
  np.testing.assert_array_equal(ranks(jnp.ones((3, 2)), TEXT, keep=ALL), [1, 1, 1])


def test_the_temperature_stays_between_its_bounds_and_can_always_move():
  temperature = Temperature(initial=0.07, least=0.01)
  assert float(temperature(temperature.init())) == pytest.approx(0.07, rel=1e-5)
  for far in (-6.0, 6.0):
    assert 0.01 < float(temperature(jnp.float32(far))) < 1
    assert float(jax.grad(temperature)(jnp.float32(far))) > 1e-4
  with pytest.raises(UserError, match=r"between 0\.01 and 1"):
    Temperature(initial=1.5)


def test_a_batch_with_one_text_gives_no_loss_and_no_gradient():
  keep = jnp.array([True, False, False])
  loss = lambda audio: jnp.sum(  # noqa: E731
    jnp.where(keep, MuLan()(audio, TEXT, temperature=jnp.float32(0.5), keep=keep), 0)
  )
  assert float(loss(AUDIO)) == 0
  assert np.isfinite(jax.grad(loss)(AUDIO)).all()


def test_vectors_that_are_no_numbers_rank_last():
  found = ranks(AUDIO.at[1].set(jnp.nan), TEXT, keep=ALL)
  assert float(found[1]) == 3


_EIGHT = """
import json, jax, numpy as np
from noise2music.errors import UserError
from noise2music.joint_embedding.contrastive import InfoNCE, MuLan
from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import LogicalRules

draw = np.random.default_rng(0)
unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
audio, text = (unit(draw.normal(size=(16, 8))).astype(np.float32) for _ in range(2))
keep, rules = np.arange(16) != 3, LogicalRules()
out = {}
for count in (1, 8):
  mesh = MeshShape().build(jax.devices()[:count])
  with rules.activate(mesh):
    rows = jax.device_put((audio, text, keep), rules.batch_sharding(mesh))
    for loss in (InfoNCE(), MuLan()):
      f = jax.jit(lambda a, t, k: jax.value_and_grad(
        lambda a: loss(a, t, temperature=np.float32(0.1), keep=k)[np.arange(16) != 3].mean())(a))
      value, gradient = f(*rows)
      out[f"{type(loss).__name__} {count}"] = [float(value), *np.asarray(gradient).ravel().tolist()]
print(json.dumps(out))
"""


def test_eight_devices_compare_the_whole_batch():
  done = subprocess.run(
    [sys.executable, "-c", _EIGHT],
    env={
      **os.environ,
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": str(Path(__file__).parents[2]),
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout)
  for name in ("InfoNCE", "MuLan"):
    np.testing.assert_allclose(found[f"{name} 8"], found[f"{name} 1"], rtol=1e-4, atol=1e-6)
