"""Whole runs of the toy: resume, hooks, what is written, what is refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sine_toy import SineBatches, SineObjective

from noise2music.checkpoints.leaves import fingerprint
from noise2music.checkpoints.manager import CheckpointManager
from noise2music.checkpoints.restore import restore_params
from noise2music.errors import UserError
from noise2music.training import (
  CheckpointPolicy,
  Ema,
  Optimizer,
  SampleHook,
  Samples,
  Training,
  inspect,
  train,
)


def toy(folder, **changes):
  settings = {
    "model_dir": str(folder),
    "objective": SineObjective(),
    "batches": SineBatches(),
    "total_steps": 6,
    "optimizer": Optimizer(peak_learning_rate=1e-2, warmup_steps=2),
    "log_every": 2,
    "checkpoints": CheckpointPolicy(every=3),
  }
  return Training(**{**settings, **changes})


def newest(folder):
  manager = CheckpointManager(folder / "checkpoints")
  manifest = manager.manifest(manager.last_durable_step)
  manager.close()
  return manifest


def rows(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  """A run of six steps in one go."""
  folder = tmp_path_factory.mktemp("straight")
  outcome = train(toy(folder), config_text="x = 1\n")
  assert (outcome.step, outcome.signal) == (6, None)
  return folder


def test_what_a_run_leaves_behind(straight):
  assert (straight / "config.gin").read_text() == "x = 1\n"
  info = (straight / "model-info.txt").read_text()
  assert "network/kernel" in info
  assert "544 parameters, 544 of them trained" in info
  logged = rows(straight)
  assert [row["step"] for row in logged] == [2, 4, 6]
  assert {"loss", "loss/loud", "gradient_norm", "learning_rate", "power"} <= set(logged[0])
  assert "loss/never" not in logged[0]
  manifest = newest(straight)
  assert (manifest["step"], manifest["config"], manifest["dataset"]) == (6, "x = 1\n", "sines")
  assert set(manifest["fingerprints"]) == {"params", "ema", "optimizer"}


def test_three_steps_and_three_more_are_six_to_the_bit(straight, tmp_path):
  # Stopping is a matter of the loop, not of the schedule: the cosine ends at step 6 in both.
  class Stop(Exception):
    pass

  def stop(moment):
    if moment.step == 4:
      raise Stop

  with pytest.raises(Stop):
    train(toy(tmp_path, hooks=(stop,)))
  assert newest(tmp_path)["step"] == 3
  assert [row["step"] for row in rows(tmp_path)] == [2, 4]
  assert train(toy(tmp_path)).step == 6
  assert newest(tmp_path)["fingerprints"] == newest(straight)["fingerprints"]
  losses = [row["loss"] for row in rows(tmp_path)]
  # The window before step 4 begins at 3 in the second run; the last one is the same.
  assert losses[-1] == rows(straight)[-1]["loss"]


def test_a_finished_run_says_so_and_writes_nothing(straight, capsys):
  before = (straight / "metrics.jsonl").read_bytes()
  assert train(toy(straight)).step == 6
  assert "already at step 6" in capsys.readouterr().out
  assert (straight / "metrics.jsonl").read_bytes() == before


def test_restored_parameters_need_no_training_code(straight):
  plain, config, info = restore_params(straight, ema=False)
  average, _, _ = restore_params(straight)
  assert config == "x = 1\n"
  assert info["step"] == 6
  assert fingerprint(plain) == info["fingerprints"]["params"]
  assert fingerprint(average) == info["fingerprints"]["ema"]
  assert info["fingerprints"]["params"] != info["fingerprints"]["ema"]


def test_frozen_parameters_come_back_with_the_average(tmp_path):
  train(toy(tmp_path, objective=SineObjective(frozen=True), total_steps=3))
  plain, _, _ = restore_params(tmp_path, ema=False)
  average, _, _ = restore_params(tmp_path)
  np.testing.assert_array_equal(average["encoder"]["kernel"], plain["encoder"]["kernel"])
  assert np.any(np.asarray(average["network"]["kernel"]) != plain["network"]["kernel"])


def test_hooks_see_every_step_and_samples_reach_the_writers(tmp_path):
  seen = []

  def sample(state, step):
    assert int(state.step) == step
    kernel = np.asarray(state.averaged_params["network"]["kernel"])
    return Samples(images={"kernel": kernel}, scalars={"sampled": float(step)})

  hooks = (SampleHook(function=sample, every=4), lambda m: seen.append((m.step, m.row, m.last)))
  train(toy(tmp_path, hooks=hooks))
  assert [(step, row is not None, last) for step, row, last in seen] == [
    (1, False, False),
    (2, True, False),
    (3, False, False),
    (4, True, False),
    (5, False, False),
    (6, True, True),
  ]
  assert [row["step"] for row in rows(tmp_path) if "sampled" in row] == [4, 6]
  assert len(list(tmp_path.glob("samples/*/kernel.png"))) == 2


def test_pretrained_parameters_replace_the_random_ones_once(tmp_path):
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Pretrained(SineObjective):
    def pretrained(self, params):
      return {**params, "encoder": {"kernel": jnp.full((32, 8), 0.5)}}

  train(toy(tmp_path, objective=Pretrained(frozen=True), total_steps=3))
  params, _, _ = restore_params(tmp_path)
  np.testing.assert_array_equal(params["encoder"]["kernel"], 0.5)


def test_pretrained_parameters_that_do_not_fit_are_named(tmp_path):
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Pretrained(SineObjective):
    def pretrained(self, params):
      return {**params, "encoder": {"kernel": jnp.ones((32, 4))}}

  with pytest.raises(UserError, match=r"pretrained/encoder/kernel is float32\[32, 4\]"):
    train(toy(tmp_path, objective=Pretrained()))


def test_the_checkpoint_of_another_model_is_refused_by_name(straight):
  with pytest.raises(UserError, match=r"params/encoder/kernel is float32\[32, 8\].*\[32, 4\]"):
    train(toy(straight, objective=SineObjective(width=4)))
  with pytest.raises(UserError, match="checkpoint of another model: optimizer"):
    train(toy(straight, objective=SineObjective(frozen=True)))
  without = Optimizer(peak_learning_rate=1e-2, warmup_steps=2, ema=None)
  assert train(toy(straight, optimizer=without)).step == 6


def test_another_data_set_is_refused_unless_allowed(straight):
  other = SineBatches(name="noise")
  with pytest.raises(UserError, match=r"wrote checkpoint 6 \(data.set was sines, is noise\)"):
    train(toy(straight, batches=other))
  assert train(toy(straight, batches=other, allow_drift=("data",))).step == 6


def test_a_loss_that_is_never_finite_ends_the_run(tmp_path):
  class Exploding(SineObjective):
    def loss(self, params, batch, key):
      loss, aux = super().loss(params, batch, key)
      return loss * jnp.nan, aux

  with pytest.raises(UserError, match="not a finite number in all of the last 2 steps up to 2"):
    train(toy(tmp_path, objective=Exploding()))
  assert not list(tmp_path.glob("checkpoints/*/commit_success.txt"))


def test_data_that_end_too_early_are_named(tmp_path):
  with pytest.raises(UserError, match="data ended after 4 batches"):
    train(toy(tmp_path, batches=SineBatches(last=4)))


def test_two_trainers_on_one_folder(tmp_path):
  def second(moment):
    with pytest.raises(UserError, match="another process is training"):
      train(toy(tmp_path))

  train(toy(tmp_path, total_steps=3, hooks=(second,)))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"total_steps": 1e3}, "total_steps"),
    ({"total_steps": 0}, "total_steps"),
    ({"seed": -1}, "seed"),
    ({"model_dir": ""}, "model_dir"),
    ({"accumulation": 0}, "accumulation"),
    ({"optimizer": Optimizer(warmup_steps=10)}, "shorten the warm-up"),
  ],
)
@pytest.mark.usefixtures("unchecked")
def test_settings_that_cannot_be_honoured(tmp_path, changes, message):
  with pytest.raises(UserError, match=message):
    toy(tmp_path, **changes)


def test_a_batch_that_does_not_divide(tmp_path):
  with pytest.raises(UserError, match="choose a multiple of 3"):
    inspect(toy(tmp_path, accumulation=3))


def test_an_average_with_warm_up_follows_a_short_run(tmp_path):
  far = {}
  for warm_up in (True, False):
    optimizer = Optimizer(peak_learning_rate=1e-2, warmup_steps=2, ema=Ema(warm_up=warm_up))
    folder = tmp_path / str(warm_up)
    train(toy(folder, total_steps=30, optimizer=optimizer, checkpoints=CheckpointPolicy(every=30)))
    plain, average = restore_params(folder, ema=False)[0], restore_params(folder)[0]
    gaps = jax.tree.map(lambda p, a: float(jnp.linalg.norm(p - a)), plain, average)
    far[warm_up] = sum(jax.tree.leaves(gaps))
  assert far[True] < 0.3 * far[False]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uneven(SineBatches):
  """Forgets a row of one of its arrays."""

  def batch(self, step):
    batch = super().batch(step)
    return {**batch, "clip_id": batch["clip_id"][1:]}


def test_arrays_of_different_rows_are_refused(tmp_path):
  with pytest.raises(UserError, match=r"'audio': 8, 'clip_id': 7} rows"):
    inspect(toy(tmp_path, batches=Uneven()))
