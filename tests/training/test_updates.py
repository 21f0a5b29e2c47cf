"""Failed updates, real ones on the device: tried again, left out, and never out of order."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sine_toy import SineBatches, SineObjective

from noise2music.errors import UserError
from noise2music.training.optimizer import Optimizer
from noise2music.training.quarantine import NAME, Quarantine
from noise2music.training.state import initial_state
from noise2music.training.step import make_step
from noise2music.training.updates import Updates

STEPS = 9


def run(fails):
  """Updates 0 to 8, of which `fails(step, try)` gives no finite loss: (state, rows, left out)."""
  objective, optimizer = SineObjective(), Optimizer(peak_learning_rate=1e-2, warmup_steps=0)
  batches = SineBatches()
  params = objective.init(jax.random.key(1), batches.batch(0))
  mask = objective.trainable(params)
  step_fn = jax.jit(make_step(objective, optimizer=optimizer, mask=mask, seed=3), donate_argnums=0)
  tries = {}

  def update(state, batch, step):
    tries[step] = tries.get(step, 0) + 1
    audio = batch["audio"].astype(jnp.float32)
    bad = fails(step, int(state.step), tries[step])
    return step_fn(state, {**batch, "audio": audio * np.nan if bad else audio}, 50, step)

  rows, left_out = [], []
  updates = Updates(
    update,
    initial_state(params, mask=mask, optimizer=optimizer),
    log=rows.append,
    left_out=lambda step, batch, metrics: left_out.append((step, float(metrics["loss"]))),
  )
  for step in range(STEPS):
    updates.add(step, jax.tree.map(jnp.asarray, batches.batch(step)))
  return updates.settle(), rows, left_out


def same(a, b):
  jax.tree.map(np.testing.assert_array_equal, dataclasses.asdict(a), dataclasses.asdict(b))


@pytest.fixture(scope="module")
def straight():
  return run(lambda step, at, tries: False)


@pytest.mark.parametrize("bad", [0, 4, STEPS - 1])
def test_a_failure_that_passes_leaves_no_trace(bad, straight, caplog):
  once = []

  def fails(step, at, tries):
    if step == at == bad and not once:
      once.append(step)
      return True
    return False

  state, rows, left_out = run(fails)
  same(state, straight[0])
  assert [float(row["loss"]) for row in rows] == [float(row["loss"]) for row in straight[1]]
  assert left_out == []
  assert f"step {bad} had no finite loss and gradient, and has when run again" in caplog.text


@pytest.mark.parametrize("bad", [(0,), (3, 4), (2, 5, STEPS - 1)])
def test_one_that_stays_is_left_out_and_the_others_are_made_in_order(bad, straight):
  state, rows, left_out = run(lambda step, at, tries: step in bad)
  assert [step for step, _ in left_out] == list(bad)
  assert all(np.isnan(loss) for _, loss in left_out)
  assert int(state.step) == STEPS
  assert [row["left_out"] for row in rows] == [float(step in bad) for step in range(STEPS)]
  losses = [float(row["loss"]) for row in rows if "loss" in row]
  assert len(losses) == STEPS - len(bad)
  assert np.isfinite(losses).all()
  assert losses[: bad[0]] == [float(row["loss"]) for row in straight[1][: bad[0]]]
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


class Names(SineBatches):
  def names(self, step):
    return [f"clip {step}"]


METRICS = {"loss": np.float32(np.nan), "gradient_norm": np.float32(np.inf)}


def test_the_quarantine_names_clips_and_is_redone_from_where_a_run_goes_on(tmp_path):
  quarantine = Quarantine(tmp_path, start_step=0, most=2, batches=Names())
  for step in (3, 8):
    told = quarantine.add(step, {}, METRICS)
    assert f"step {step} had no finite loss or gradient, twice: left out" in told
  path = tmp_path / NAME
  first, _ = path.read_text().splitlines()
  assert first == '{"step": 3, "loss": "nan", "gradient_norm": "inf", "clips": ["clip 3"]}'
  path.write_text(path.read_text() + '{"step": 9, "lo')  # killed while it wrote
  again = Quarantine(tmp_path, start_step=5, most=2, batches=Names())
  assert path.read_text() == first + "\n"
  again.add(8, {}, METRICS)
  with pytest.raises(UserError, match=r"3 batches up to step 9 .* look at the clips in .*jsonl"):
    again.add(9, {}, METRICS)


def test_clips_without_names_are_told_by_id(tmp_path):
  quarantine = Quarantine(tmp_path, start_step=0, most=2, batches=SineBatches())
  quarantine.add(1, {"clip_id": jnp.array([[1, 2**31]], jnp.uint32)}, METRICS)
  assert '"clips": ["0000000180000000"]' in (tmp_path / NAME).read_text()
