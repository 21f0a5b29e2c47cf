"""Readers of a run whose trainer saves and deletes meanwhile: each reads a whole step, and the
trainer does not notice."""

import concurrent.futures
import itertools
import shutil
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from harness import Run

from noise2music.checkpoints.leaves import fingerprint
from noise2music.checkpoints.manager import COMMIT_FILE, CheckpointManager, CheckpointPolicy
from noise2music.checkpoints.restore import is_checkpoint, newest_step, restore_params
from noise2music.errors import UserError

READERS = 3

# Where an array's file goes while orbax reads others, it leaves those coroutines to be collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def read_while(busy, read):
  """What `read` gives again and again while `busy()`, in several threads."""

  def one(_):
    found = []
    while busy():
      found.append(read())
    return found

  with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
    return list(pool.map(one, range(READERS)))


def saving_often(straight: Run, name: str, *, keep: int) -> Run:
  often = ("--gin.SAVE_EVERY=1", f"--gin.CheckpointPolicy.keep_latest={keep}")
  return straight.beside(name, flags=(*straight.flags, *often))


@pytest.fixture(scope="module")
def truth(straight):
  """{step: its parameters}, of an undisturbed run that keeps them all."""
  run = saving_often(straight, "keeps-all", keep=60)
  run.complete()
  return {step: restore_params(run.folder, step=step, ema=False)[0] for step in run.steps()}


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, 2])
def test_every_read_is_a_whole_step(straight, truth, tmp_path, keep):
  run = saving_often(straight, f"run-{tmp_path.name}", keep=keep)
  (process,) = run.start("--gin.faulty.Batches.delay_seconds=0.02")
  process.wait_for(r"step \d+/60")
  read = read_while(process.running, lambda: restore_params(run.folder, ema=False))
  assert process.end() == 0, process.said
  assert run.trace() == straight.trace()
  for mine in read:
    steps = [info["step"] for _, _, info in mine]
    assert steps == sorted(steps)
    for params, _, info in mine:
      assert fingerprint(params) == info["fingerprints"]["params"]
      jax.tree.map(np.testing.assert_array_equal, params, truth[info["step"]])
  assert len({info["step"] for mine in read for _, _, info in mine}) >= 5


@pytest.fixture
def come_and_go(tmp_path):
  """A run's folder, and a function that puts its next step there and deletes the one before.

  As fast as can be, and in the trainer's order: the commit file last, then the one before goes.
  """
  shelf, run = tmp_path / "shelf", tmp_path / "run" / "checkpoints"
  manager = CheckpointManager(shelf, policy=CheckpointPolicy(keep_latest=8))
  for step in range(1, 9):
    manager.save(step, {"params": {"w": jax.numpy.full((50, 50), step)}}, info={"config": ""})
  manager.close()

  def place(step: int) -> None:
    whole = shelf / str(step % 8 + 1)  # what is in it serves again
    late = {COMMIT_FILE, "files.json"}
    shutil.copytree(
      whole,
      run / str(step),
      ignore=lambda folder, names: late & set(names) if Path(folder) == whole else set(),
    )
    shutil.copy(whole / COMMIT_FILE, run / str(step))
    shutil.rmtree(run / str(step - 1), ignore_errors=True)

  place(1)
  return run, place


def test_a_step_that_goes_while_one_looks_is_not_missed(come_and_go):
  run, place = come_and_go

  def read():
    params, _, info = restore_params(run)
    assert is_checkpoint(run.parent)
    assert newest_step(run.parent) is not None
    return float(params["w"][0, 0]) == info["step"] and np.unique(params["w"]).size == 1

  done = threading.Event()

  def train():
    for step in itertools.takewhile(lambda _: not done.is_set(), itertools.count(2)):
      place(step)

  with concurrent.futures.ThreadPoolExecutor(READERS + 1) as pool:
    trainer = pool.submit(train)
    try:
      read = list(pool.map(lambda _: read(), range(24)))
    finally:
      done.set()
    trainer.result()
  assert all(read)


def test_a_step_that_was_asked_for_and_goes_while_it_is_read_is_named(come_and_go, monkeypatch):
  run, place = come_and_go
  manifest = CheckpointManager.manifest

  def and_goes(self, step):
    try:
      return manifest(self, step)
    finally:
      place(2)

  monkeypatch.setattr(CheckpointManager, "manifest", and_goes)
  with pytest.raises(UserError, match=r"no checkpoint of step 1 in .*; it was deleted meanwhile"):
    restore_params(run, step=1)
