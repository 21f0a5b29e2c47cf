"""Two trainers on one folder, on one machine and on two; and clocks that jump."""

import dataclasses
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from noise2music.training.lease import FILE

SLOW = "--gin.faulty.Batches.delay_seconds=0.1"
SLOWER = "--gin.faulty.Batches.delay_seconds=0.5"
SHORT = "--gin.Training.lease_seconds=3.0"


def fresh(straight, tmp_path):
  return straight.beside(f"run-{tmp_path.name}")


def said_in_one_sentence(process, *parts):
  assert process.end(seconds=150) == 2, process.said
  assert "Traceback" not in process.said
  (line,) = [line for line in process.said.splitlines() if line.startswith("error:")]
  for part in parts:
    assert part in line


def elsewhere(run, tmp_path):
  """The run as started on another machine: a kernel of another name, locks that do not reach."""
  if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
    pytest.skip("only root may make another machine of this one")
  (tmp_path / "boot_id").write_text("another-machine\n")
  (tmp_path / "lock").touch()
  mounts = (
    f"mount --bind {tmp_path / 'boot_id'} /proc/sys/kernel/random/boot_id && "
    f'mount --bind {tmp_path / "lock"} {run.folder / ".lock"} && exec "$@"'
  )
  return dataclasses.replace(run, prefix=("unshare", "-m", "sh", "-c", mounts, "sh"))


def test_a_second_trainer_on_this_machine_is_refused_at_once(straight, tmp_path):
  run = fresh(straight, tmp_path)
  (first,) = run.start(SLOWER)
  first.wait_for("step 5/60")
  (second,) = run.start()
  said_in_one_sentence(second, "another process is training in", "or give another MODEL_DIR")
  first.send(signal.SIGKILL)
  first.end()
  # What a kill leaves behind holds nobody up.
  assert (run.folder / FILE).exists()
  (third,) = run.complete()
  assert "sign of life" not in third.said
  assert run.trace() == straight.trace()
  assert not (run.folder / FILE).exists()


@pytest.mark.slow
def test_a_trainer_on_another_machine_waits_refuses_and_takes_over(straight, tmp_path, request):
  run = fresh(straight, tmp_path)
  # It waits for its data meanwhile; the lease is renewed all the same.
  stall = ("--gin.faulty.Batches.stall_at=12", "--gin.faulty.Batches.stall_seconds=90.0")
  (first,) = run.start(SHORT, *stall)
  request.addfinalizer(lambda: first.send(signal.SIGKILL))  # a suspended one ends by nothing else
  first.wait_for("step 10/60")
  other = elsewhere(run, tmp_path)
  (second,) = other.start(SHORT)
  said_in_one_sentence(second, f"process {first.pid} on", "is training in", "wait for it")
  # One that is suspended for longer than its lease has lost it, and finds out before it writes.
  first.send(signal.SIGSTOP)
  (second,) = other.complete(SHORT)
  assert "gave no sign of life: going on in its place" in second.said
  first.send(signal.SIGCONT)
  said_in_one_sentence(first, "has taken over")
  assert run.trace() == straight.trace()
  assert run.steps() == straight.steps()


@pytest.fixture(scope="module")
def clock(tmp_path_factory):
  """A library that moves the time of day for whoever loads it."""
  compiler = shutil.which("cc")
  if compiler is None:
    pytest.skip("no C compiler")
  library = tmp_path_factory.mktemp("clock") / "clock.so"
  source = Path(__file__).with_name("clock.c")
  subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
  return library


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(straight, tmp_path, clock):
  """A day on, then an hour back: the same saves are made and kept."""
  run, shift = fresh(straight, tmp_path), tmp_path / "shift"
  shift.write_text("0")
  (process,) = run.start(SLOW, env={"LD_PRELOAD": str(clock), "CLOCK_FILE": str(shift)})
  process.wait_for("step 15/60")
  shift.write_text("86400")
  process.wait_for("step 35/60")
  shift.write_text("-3600")
  assert process.end() == 0, process.said
  assert run.steps() == straight.steps() == [40, 50, 60]
  text = (run.checkpoints / "60" / "manifest" / "metadata").read_text()
  # The library did its work.
  assert time.strftime('"%Y-%m-%dT%H', time.gmtime(time.time() - 3600)) in text
  assert run.trace() == straight.trace()
