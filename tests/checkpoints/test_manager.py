"""Real files, really damaged: what is trusted, what is set aside, what is kept."""

import contextlib
import logging
import re
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.checkpoints import is_checkpoint, restore_params
from noise2music.checkpoints.manager import CheckpointManager, CheckpointPolicy, SaveError
from noise2music.errors import UserError

PARAMS = {"network": {"kernel": jnp.arange(4096.0).reshape(64, 64), "bias": jnp.zeros(8)}}


def items(step):
  return {"params": jax.tree.map(lambda x: x + step, PARAMS), "optimizer": (jnp.int32(step),)}


LIKE = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items(0))


def fill(folder, steps, policy=None):
  manager = CheckpointManager(folder, policy=policy or CheckpointPolicy(every=1, keep_latest=9))
  for step in steps:
    manager.save(step, items(step), info={"config": f"step = {step}"})
  manager.close()
  return folder


@pytest.fixture
def folder(tmp_path):
  """Steps 1, 2 and 3."""
  return fill(tmp_path / "checkpoints", (1, 2, 3))


def restored(folder):
  manager = CheckpointManager(folder, policy=CheckpointPolicy())
  try:
    return manager.restore(LIKE)
  finally:
    manager.close()


def test_what_was_saved_comes_back(folder):
  found = restored(folder)
  assert (found.step, found.info["config"]) == (3, "step = 3")
  jax.tree.map(np.testing.assert_array_equal, dict(found.items), items(3))


def test_a_new_folder_has_nothing(tmp_path):
  manager = CheckpointManager(tmp_path / "new", policy=CheckpointPolicy())
  assert manager.last_durable_step is None
  assert manager.restore(LIKE) is None
  manager.close()


def test_a_step_is_durable_only_once_it_is_committed(tmp_path):
  manager = CheckpointManager(tmp_path / "c", policy=CheckpointPolicy())
  manager.save(1, items(1), info={})
  assert manager.last_durable_step is None
  assert manager.steps == []
  manager.wait()
  assert manager.last_durable_step == 1
  manager.save(2, items(2), info={})
  assert manager.last_durable_step == 1
  manager.close()
  assert manager.last_durable_step == 2


def test_the_newest_stay_and_every_kth_for_good(tmp_path):
  policy = CheckpointPolicy(every=1, keep_latest=2, keep_every=4)
  folder = fill(tmp_path / "c", range(1, 11), policy)
  assert sorted(int(p.name) for p in folder.iterdir()) == [4, 8, 9, 10]


def flip_one_bit(step_folder):
  """In the middle of the largest file of the parameters: their numbers."""
  path = max((step_folder / "params").rglob("*"), key=lambda p: p.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


def truncate(step_folder):
  path = max((step_folder / "params").rglob("*"), key=lambda p: p.stat().st_size)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_the_manifest(step_folder):
  shutil.rmtree(step_folder / "manifest")


def garble_the_manifest(step_folder):
  (step_folder / "manifest" / "metadata").write_text("{")


def change_the_config(step_folder):
  path = step_folder / "manifest" / "metadata"
  path.write_text(path.read_text().replace("step = 3", "step = 4"))


def leave_the_commit_file_only(step_folder):
  for path in step_folder.iterdir():
    if path.name != "commit_success.txt":
      shutil.rmtree(path) if path.is_dir() else path.unlink()


DAMAGES = [
  flip_one_bit,
  truncate,
  lose_the_manifest,
  garble_the_manifest,
  change_the_config,
  leave_the_commit_file_only,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_step_is_named_set_aside_and_the_one_before_is_used(folder, damage, caplog):
  damage(folder / "3")
  with caplog.at_level(logging.WARNING, logger="noise2music"):
    found = restored(folder)
  assert found.step == 2
  jax.tree.map(np.testing.assert_array_equal, dict(found.items), items(2))
  said = " ".join(r.getMessage() for r in caplog.records if r.name.startswith("noise2music"))
  assert "checkpoint 3" in said
  assert "falling back to checkpoint 2" in said
  assert not (folder / "3").exists()
  assert list(folder.glob("damaged-3-*"))
  # Step 3 can be reached and saved again.
  fill(folder, (3,))
  assert restored(folder).step == 3


def test_reading_only_falls_back_and_leaves_the_files_alone(folder):
  flip_one_bit(folder / "3")
  params, config, info = restore_params(folder.parent)
  assert (config, info["step"]) == ("step = 2", 2)
  np.testing.assert_array_equal(params["network"]["bias"], np.full(8, 2.0))
  assert (folder / "3").exists()
  with pytest.raises(UserError, match=r"checkpoint 3 .* cannot be read"):
    restore_params(folder.parent, step=3)


def test_unfinished_folders_are_no_checkpoints(folder):
  (folder / "3" / "commit_success.txt").unlink()
  (folder / "7").mkdir()
  assert restored(folder).step == 2
  assert not (folder / "7").exists()


def test_nothing_starts_from_scratch_where_all_are_damaged(folder):
  for step in ("1", "2", "3"):
    truncate(folder / step)
  with pytest.raises(UserError, match=r"none of the checkpoints \[1, 2, 3\]"):
    restored(folder)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda p: {**p, "kernel": jnp.ones((64, 32))}, r"kernel is float32\[64, 64\].*\[64, 32\]"),
    (lambda p: {**p, "bias": jnp.zeros(8, jnp.bfloat16)}, r"bias is float32\[8\].*bfloat16\[8\]"),
    (lambda p: {"kernel": p["kernel"]}, r"bias is float32\[8\] in the checkpoint, absent in"),
    (lambda p: {**p, "extra": p["bias"]}, r"extra is absent in the checkpoint, float32\[8\] in"),
  ],
)
def test_another_models_checkpoint_is_refused_and_kept(folder, change, message):
  like = {**LIKE, "params": {"network": change(LIKE["params"]["network"])}}
  like = jax.tree.map(
    lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=LIKE["optimizer"][0].sharding), like
  )
  manager = CheckpointManager(folder, policy=CheckpointPolicy())
  with pytest.raises(UserError, match=f"another model: params/network/{message}"):
    manager.restore(like)
  manager.close()
  assert (folder / "3").exists()


@contextlib.contextmanager
def full_disk():
  """No file may grow beyond 1 MB: writing fails as on a full disk, without being root."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def too_large():
  """2.4 MB that do not compress."""
  return {"params": {"w": jax.random.normal(jax.random.key(0), (600_000,))}}


def save_and_poll(manager, step):
  """As the training loop does: the error must come out of `poll`."""
  manager.save(step, too_large(), info={})
  while True:
    manager.poll()


def test_a_full_disk_is_one_sentence_and_older_steps_are_intact(tmp_path):
  folder = fill(tmp_path / "c", (1,))
  manager = CheckpointManager(folder, policy=CheckpointPolicy())
  with full_disk(), pytest.raises(SaveError) as error:
    save_and_poll(manager, 2)
  text = str(error.value)
  assert "cannot save checkpoint 2" in text
  assert "file size limit" in text
  assert "checkpoint 1 is intact" in text
  assert "\n" not in text
  assert manager.last_durable_step == 1
  assert not (folder / "2").exists()
  # With room again, the same manager goes on.
  manager.save(2, items(2), info={})
  manager.close()
  assert restored(folder).step == 2


def test_without_an_older_step_the_sentence_says_so(tmp_path):
  manager = CheckpointManager(tmp_path / "c", policy=CheckpointPolicy())
  with full_disk(), pytest.raises(SaveError, match="there is none before it"):
    save_and_poll(manager, 1)
  manager.close()


def nearly_full(disk):
  """Leaves room to begin to save `half`, too little to end it. Returns what fills it."""
  filler = disk / "filler"
  filler.write_bytes(bytes(shutil.disk_usage(disk).free - 1_080_000))
  return filler


def half():
  """1.2 MB that do not compress."""
  return {"params": {"w": too_large()["params"]["w"][:300_000]}}


def test_what_fails_in_the_background_is_made_up_for_by_a_later_step(small_disk, caplog):
  folder = fill(small_disk / "c", (1,))
  manager = CheckpointManager(folder, policy=CheckpointPolicy(pause_seconds=0))
  filler = nearly_full(small_disk)
  manager.save(2, half(), info={})
  while not manager.due:
    manager.poll()
  said = f"cannot save checkpoint 2 in {folder}: no space left on the disk; attempts left: 4, "
  assert said in caplog.text
  assert manager.last_durable_step == 1
  filler.unlink()
  manager.save(3, half(), info={})
  manager.close()
  assert not manager.due
  assert manager.last_durable_step == 3
  step = restore_params(folder)
  assert step[2]["step"] == 3
  np.testing.assert_array_equal(step[0]["w"], half()["params"]["w"])
  assert not (folder / "2").exists()


def test_attempts_come_to_an_end_and_nothing_owed_is_forgotten(small_disk):
  folder = fill(small_disk / "c", (1,))
  manager = CheckpointManager(folder, policy=CheckpointPolicy(attempts=2, pause_seconds=0))
  filler = nearly_full(small_disk)
  manager.save(2, half(), info={})
  manager.wait()
  assert manager.due
  manager.save(3, half(), info={})
  with pytest.raises(SaveError, match=r"cannot save checkpoint 3 .*; checkpoint 1 is intact: make"):
    manager.wait()
  assert not manager.due
  manager.save(4, half(), info={})  # the attempts are counted anew
  with pytest.raises(SaveError, match="cannot save checkpoint 4"):
    manager.close()
  filler.unlink()
  assert restore_params(folder)[2]["step"] == 1


def test_a_disk_that_is_full_to_begin_with_is_tried_again_within_the_save(small_disk, caplog):
  folder = fill(small_disk / "c", (1,))
  policy = CheckpointPolicy(attempts=3, pause_seconds=0)
  manager = CheckpointManager(folder, policy=policy)
  nearly_full(small_disk)
  with pytest.raises(SaveError, match=r"cannot save checkpoint 2 .*no space left"):
    manager.save(2, too_large(), info={})
  assert re.findall(r"attempts left: (\d)", caplog.text) == ["2", "1"]
  manager.close()


def test_what_will_not_pass_is_not_tried_again(tmp_path, caplog):
  manager = CheckpointManager(tmp_path / "c", policy=CheckpointPolicy())
  with full_disk(), pytest.raises(SaveError, match="the file size limit is reached"):
    save_and_poll(manager, 1)
  assert "attempts left" not in caplog.text
  manager.close()


def test_paths_that_hold_no_checkpoint(tmp_path, folder):
  with pytest.raises(UserError, match=r"no checkpoint in .*/absent; there is no such folder"):
    restore_params(tmp_path / "absent")
  (tmp_path / "empty").mkdir()
  with pytest.raises(UserError, match=r"no checkpoint in .*/empty; give the MODEL_DIR"):
    restore_params(tmp_path / "empty")
  (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
  with pytest.raises(UserError, match=r"no checkpoint in .*/begun; train one first"):
    restore_params(tmp_path / "begun")
  with pytest.raises(UserError, match=r"no checkpoint of step 5 in .*; it has \[1, 2, 3\]"):
    restore_params(folder, step=5)
  assert not is_checkpoint(tmp_path / "empty")
  assert not is_checkpoint(tmp_path / "begun")
  assert is_checkpoint(folder)
  assert is_checkpoint(folder.parent)


@pytest.mark.parametrize("path", [".", "checkpoints", "checkpoints/2"])
def test_a_run_its_checkpoints_or_one_step_can_be_named(folder, path):
  _, _, info = restore_params(folder.parent / path)
  assert info["step"] == (2 if path.endswith("2") else 3)


@pytest.mark.parametrize(
  "settings",
  [{"every": 0}, {"keep_latest": 0}, {"keep_every": 1.5}, {"attempts": 0}, {"every": None}],
)
@pytest.mark.usefixtures("unchecked")
def test_policies_that_mean_nothing_are_refused(settings):
  with pytest.raises(UserError, match="whole number"):
    CheckpointPolicy(**settings)


@pytest.mark.parametrize("pause", [-1.0, 3600, "2", float("nan")])
@pytest.mark.usefixtures("unchecked")
def test_pauses_that_cannot_be_are_refused(pause):
  with pytest.raises(UserError, match="give seconds, less than an hour"):
    CheckpointPolicy(pause_seconds=pause)
