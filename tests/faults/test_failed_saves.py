"""Checkpoints that cannot be written, for a moment or for good."""

import contextlib
import dataclasses
import math
import shutil
import signal
import subprocess

import jax.numpy as jnp
import pytest
from harness import SLOW, Run

from noise2music.checkpoints.manager import CheckpointManager

BRISK = "--gin.CheckpointPolicy.pause_seconds=0.2"
AGAIN = r"cannot save checkpoint 20 in \S+: {}; attempts left: 4, the next in 2 s"


def said_in_one_sentence(process, *parts, seconds=60):
  assert process.end(seconds=seconds) == 2, process.said
  assert "Traceback" not in process.said
  (line,) = [line for line in process.said.splitlines() if line.startswith("error:")]
  for part in parts:
    assert part in line


def test_a_folder_that_is_removed_ends_the_run_in_one_sentence(straight, tmp_path):
  run = straight.beside(f"run-{tmp_path.name}")
  (process,) = run.start(SLOW)
  process.wait_for("step 15/60")
  shutil.rmtree(run.checkpoints)
  said_in_one_sentence(process, "cannot save checkpoint 20", "the folder is gone", "none before it")


@pytest.fixture
def read_only():
  """read_only(folder): from then on nothing can be written under its path, root or not."""
  with contextlib.ExitStack() as stack:

    def mount(folder):
      for options in (["--bind", folder, folder], ["-o", "remount,bind,ro", folder]):
        if subprocess.run(["mount", *options], capture_output=True).returncode:
          pytest.skip("only root may mount")
        if options[0] == "--bind":
          stack.callback(subprocess.run, ["umount", folder], check=True)
      return stack.pop_all().close

    yield mount


@pytest.mark.slow
def test_a_folder_that_turns_read_only(straight, tmp_path, read_only):
  run = straight.beside(f"run-{tmp_path.name}")
  (process,) = run.start(SLOW, BRISK)
  process.wait_for("step 15/60")
  restore_it = read_only(run.checkpoints)
  try:
    said_in_one_sentence(process, "cannot save checkpoint 20", "read only", "checkpoint 10 is")
    (process,) = run.start()
    said_in_one_sentence(process, "cannot write into", "the file system is read only")
  finally:
    restore_it()
  (process,) = run.complete()
  assert process.went_on_from == 10
  assert run.trace() == straight.trace()


def test_a_full_disk_during_a_save(straight, tmp_path, small_disk):
  """Two megabytes, filled while the third checkpoint is written."""
  run = Run(folder=small_disk / "run", data=straight.data)
  cache = {"JAX_COMPILATION_CACHE_DIR": str(straight.folder.parent / "xla")}
  (process,) = run.start(SLOW, BRISK, env=cache)
  process.wait_for("step 25/60")
  filler = small_disk / "filler"
  with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
    while True:
      out.write(bytes(4096))
  said_in_one_sentence(process, "no space left", "checkpoint 20 is intact")
  assert run.steps() == [10, 20]
  assert not list(run.checkpoints.glob("*tmp*"))
  filler.unlink()
  (process,) = run.start(env=cache)
  assert process.end() == 0, process.said
  assert process.went_on_from == 20
  assert run.trace() == straight.trace()


def test_a_folder_that_is_read_only_for_a_moment(straight, tmp_path, read_only):
  run = straight.beside(f"run-{tmp_path.name}")
  (process,) = run.start(SLOW)
  process.wait_for("step 15/60")
  restore_it = read_only(run.checkpoints)
  try:
    process.wait_for(AGAIN.format("the file system is read only"))
  finally:
    restore_it()
  assert process.end() == 0, process.said
  assert run.trace() == straight.trace()
  assert run.steps() == straight.steps()


def test_a_folder_that_is_gone_and_comes_back(straight, tmp_path):
  """As a network's disk. Nothing is made in its place meanwhile."""
  run = straight.beside(f"run-{tmp_path.name}")
  (process,) = run.start(SLOW)
  process.wait_for("step 15/60")
  run.checkpoints.rename(run.folder / "elsewhere")
  process.wait_for(AGAIN.format("the folder is gone"))
  assert not run.checkpoints.exists()
  (run.folder / "elsewhere").rename(run.checkpoints)
  assert process.end() == 0, process.said
  assert run.trace() == straight.trace()
  assert run.steps() == straight.steps()


def bytes_of(run, step):
  """Of all arrays of a checkpoint."""
  manager = CheckpointManager(run.checkpoints)
  leaves = [leaf for table in manager.manifest(step)["leaves"].values() for leaf in table.values()]
  manager.close()
  return sum(math.prod(shape) * jnp.dtype(dtype).itemsize for dtype, shape in leaves)


@pytest.mark.slow
def test_a_disk_that_fills_under_the_save_and_has_room_again(data, small_disk):
  """Room enough to begin, too little to end: it fails while the run goes on, which then saves the
  step that it has come to."""
  wide = ("--gin.faulty.Denoiser.width=300", "--gin.CheckpointPolicy.keep_latest=1")
  straight = Run(folder=data.with_name("wide"), data=data, flags=wide)
  straight.complete()
  run = dataclasses.replace(straight, folder=small_disk / "run")
  (process,) = run.start(SLOW, env={"JAX_COMPILATION_CACHE_DIR": str(data.with_name("xla"))})
  process.wait_for("step 15/60")
  room = round(0.85 * bytes_of(run, 10))
  filler = small_disk / "filler"
  filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
  process.wait_for(AGAIN.format("no space left on the disk"))
  filler.unlink()
  assert process.end() == 0, process.said
  assert run.trace() == straight.trace()
  assert run.steps() == [60]


def test_told_to_stop_it_does_not_try_for_long(straight, tmp_path, read_only):
  run = straight.beside(f"run-{tmp_path.name}")
  patient = ("--gin.CheckpointPolicy.attempts=1000", "--gin.CheckpointPolicy.pause_seconds=60.")
  (process,) = run.start(SLOW, *patient)
  process.wait_for("step 15/60")
  restore_it = read_only(run.checkpoints)
  try:
    process.wait_for("attempts left: 999")
    process.send(signal.SIGTERM)
    said_in_one_sentence(process, "cannot save checkpoint 20", "checkpoint 10 is", seconds=10)
  finally:
    restore_it()
  assert run.steps() == [10]


@pytest.mark.slow
@pytest.mark.parametrize("for_good", [False, True])
def test_several_processes_wait_and_leave_together(straight, tmp_path, read_only, for_good):
  run = straight.beside(f"run-{tmp_path.name}", processes=2, flags=("--join_seconds=60",))
  processes = run.start(SLOW, *([BRISK] if for_good else []))
  for process in processes:
    process.wait_for("step 15/60")
  restore_it = read_only(run.checkpoints)
  try:
    for process in processes:
      process.wait_for("cannot save checkpoint 20 in .* attempts left: 4")
    if for_good:
      for process in processes:
        said_in_one_sentence(process, "cannot save checkpoint 20", "checkpoint 10 is")
  finally:
    restore_it()
  if not for_good:
    assert [process.end() for process in processes] == [0, 0], processes[0].said
    assert run.steps() == straight.steps()
  assert set(run.trace()) == set(range(1, 20 if for_good else 61))
