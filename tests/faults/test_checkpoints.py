"""Checkpoints that are torn, flipped, lost or in the way, of runs that are killed at any moment."""

import logging
import os
import random
import re
import shutil
import signal
import time

import jax
import pytest
from harness import SLOW

from noise2music.checkpoints.leaves import nested
from noise2music.checkpoints.manager import COMMIT_FILE, CheckpointManager, CheckpointPolicy
from noise2music.checkpoints.restore import restore_params

EVERY = 10


@pytest.fixture
def copy(straight, tmp_path):
  """Of the finished run, with its cache of programs."""
  run = straight.beside(f"copy-{tmp_path.name}")
  shutil.copytree(straight.folder, run.folder)
  return run


def fresh(straight, tmp_path):
  return straight.beside(f"run-{tmp_path.name}")


def files(folder):
  return sorted(p for p in folder.rglob("*") if p.is_file())


def flip(path, position):
  """The bit at `position`, counted from the first one of the file."""
  content = bytearray(path.read_bytes())
  content[position // 8] ^= 1 << position % 8
  path.write_bytes(content)


def kill_at_random(run, process, seed):
  """SIGKILL at a random time after the first step, or, with an odd seed, during the next save.

  Returns the folders of saves that it left unfinished.
  """
  draw = random.Random(seed)
  process.wait_for(r"step \d+/60")
  if seed % 2:
    before = set(run.checkpoints.iterdir())
    while process.running() and not set(run.checkpoints.iterdir()) - before:
      time.sleep(0.0005)
    time.sleep(draw.uniform(0, 0.05))
  else:
    time.sleep(draw.uniform(0, 1.5))
  process.send(signal.SIGKILL)
  process.end()
  steps = [p for p in run.checkpoints.iterdir() if p.is_dir() and p.name.isdigit()]
  return [int(p.name) for p in steps if not (p / COMMIT_FILE).exists()]


def last_traced(run):
  return max((row["step"] for row in run._rows(0)), default=0)


def kill_rounds(run, seeds, *, slow=SLOW):
  """Kills and starts again; returns how many of the kills tore a save."""
  torn_saves, torn, reached = 0, [], 0
  for seed in [*seeds, None]:
    (process,) = run.start(*([slow] if seed is not None else []))
    if seed is None:
      assert process.end() == 0, process.said
    else:
      left, at = kill_at_random(run, process, seed), last_traced(run)
    if reached:
      lost = reached - process.went_on_from
      # What was being written when it was killed does not count; all before it does.
      assert lost <= EVERY + (reached - min(torn) if torn else 0), (lost, torn, process.said)
    if seed is not None:
      torn, reached = left, at
      torn_saves += bool(left)
  return torn_saves


def test_killed_at_random_times_it_ends_like_the_undisturbed_run(straight, tmp_path):
  run = fresh(straight, tmp_path)
  kill_rounds(run, seeds=(1,))
  assert run.trace() == straight.trace()


@pytest.mark.slow
def test_killed_ten_times_often_during_a_save(straight, tmp_path):
  run = fresh(straight, tmp_path)
  torn = kill_rounds(run, range(10), slow="--gin.faulty.Batches.delay_seconds=0.3")
  assert run.trace() == straight.trace()
  assert torn >= 1  # the delays find one at least


def like_of(folder, step):
  """The form of a step, as a trainer of the same config has it."""
  manager = CheckpointManager(folder)
  leaves = manager.manifest(step)["leaves"]
  manager.close()
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return {
    item: nested(
      {
        path: jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=place)
        for path, (dtype, shape) in table.items()
      }
    )
    for item, table in leaves.items()
  }


def test_a_flipped_bit_anywhere_is_seen_and_its_file_named(copy, caplog):
  newest, before = copy.steps()[-1], copy.steps()[-2]
  like, draw = like_of(copy.checkpoints, newest), random.Random(0)
  whole = copy.folder.with_name("whole")
  shutil.rmtree(whole, ignore_errors=True)
  shutil.copytree(copy.checkpoints / str(newest), whole)
  for _ in range(20):
    path = draw.choice(files(copy.checkpoints / str(newest)))
    position = draw.randrange(8 * path.stat().st_size)
    name = str(path.relative_to(copy.checkpoints / str(newest)))
    flip(path, position)
    caplog.clear()
    manager = CheckpointManager(copy.checkpoints, policy=CheckpointPolicy())
    with caplog.at_level(logging.WARNING, logger="noise2music"):
      assert manager.restore(like).step == before, (name, position)
    manager.close()
    assert name in caplog.text
    assert f"falling back to checkpoint {before}" in caplog.text
    (aside,) = copy.checkpoints.glob(f"damaged-{newest}-*")
    shutil.rmtree(aside)
    shutil.copytree(whole, copy.checkpoints / str(newest))


def test_without_the_list_of_files_a_flipped_bit_never_changes_a_number(copy, caplog):
  """As it is of large files, and where a kill came between the commit and the list."""
  newest, before = copy.steps()[-1], copy.steps()[-2]
  like, draw = like_of(copy.checkpoints, newest), random.Random(1)
  manager = CheckpointManager(copy.checkpoints)
  expected = manager.restore(like)
  (copy.checkpoints / str(newest) / "files.json").unlink()
  refused = 0
  for _ in range(20):
    path = draw.choice(files(copy.checkpoints / str(newest)))
    content = path.read_bytes()
    flip(path, draw.randrange(8 * len(content)))
    with caplog.at_level(logging.CRITICAL):
      found = manager.restore(like)
    assert found.step in (newest, before)
    if found.step == newest:  # what nobody reads may change
      assert found.info["fingerprints"] == expected.info["fingerprints"]
    refused += found.step == before
    path.write_bytes(content)
  manager.close()
  assert refused >= 5


def largest(folder):
  return max(files(folder), key=lambda p: p.stat().st_size)


def cut(step):
  path = largest(step / "params")
  os.truncate(path, path.stat().st_size // 2)


def lose_data(step):
  largest(step / "params").unlink()


def lose_commit_file(step):
  (step / COMMIT_FILE).unlink()


def lose_metadata(step):
  (step / "params" / "_METADATA").unlink()


def only_the_commit_file(step):
  for path in step.iterdir():
    if path.name != COMMIT_FILE:
      shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty_folder(step):
  shutil.rmtree(step)
  step.mkdir()


DAMAGES = [cut, lose_data, lose_commit_file, lose_metadata, only_the_commit_file, empty_folder]


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_torn_is_not_gone_on_from(copy, damage):
  newest, before = copy.steps()[-1], copy.steps()[-2]
  like = like_of(copy.checkpoints, newest)
  damage(copy.checkpoints / str(newest))
  manager = CheckpointManager(copy.checkpoints, policy=CheckpointPolicy())
  assert manager.restore(like).step == before
  manager.close()
  assert restore_params(copy.folder)[2]["step"] == before


def test_the_launcher_falls_back_says_which_file_and_ends_like_the_undisturbed_run(copy, straight):
  newest, before = copy.steps()[-1], copy.steps()[-2]
  cut(copy.checkpoints / str(newest))
  (process,) = copy.complete()
  named = rf"checkpoint {newest} in .* is damaged: params/\S+ has [\d,]+ bytes"
  assert re.search(named, process.said)
  assert f"falling back to checkpoint {before}" in process.said
  assert process.went_on_from == before
  assert copy.steps()[-1] == newest
  after = {step: seen for step, seen in straight.trace().items() if step > before}
  assert copy.trace() == after


def test_where_all_are_damaged_the_launcher_does_not_start_over(copy):
  for step in copy.steps():
    cut(copy.checkpoints / str(step))
  (process,) = copy.start()
  assert process.end() == 2
  assert "none of the checkpoints [40, 50, 60]" in process.said
  assert "Traceback" not in process.said
  assert len(list(copy.checkpoints.glob("damaged-*"))) == 3  # nothing is thrown away
  assert "restore a backup" in process.said
