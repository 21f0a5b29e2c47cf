"""The watchdog by itself: whom it reports, whom it leaves alone, what it counts as own time."""

import threading
import time

import pytest

from noise2music.training import exits
from noise2music.training.watchdog import Watchdog


class Left(Exception):
  """In place of the end of the process."""


def watch(folder, *, deadline=0.2, behind=None):
  """(watchdog, event that it left, what it said)."""
  left, said = threading.Event(), []

  def leave(status, cause):
    said.append((status, cause))
    left.set()
    raise SystemExit  # of the watchdog's thread

  dog = Watchdog(
    deadline_seconds=deadline, folder=folder, process=3, leave=leave, behind=behind
  )  # fmt: skip
  return dog, left, said


@pytest.mark.parametrize("phase", ["input", "step", "save", "hooks", "end"])
def test_each_phase_has_a_deadline(tmp_path, phase, capfd):
  dog, left, said = watch(tmp_path)
  with dog:
    dog.now(phase)
    assert left.wait(30)
  ((status, cause),) = said
  assert status == exits.HUNG == 124
  assert cause.startswith(f"process 3 hangs in {phase}: ")
  assert "takes longer than 0.2 s (Training.deadline_seconds)" in cause
  stacks = (tmp_path / "hang-3.txt").read_text()
  assert "test_watchdog.py" in stacks
  assert "most recent call first" in capfd.readouterr().err


def test_nothing_happens_while_it_compiles_or_gets_on(tmp_path):
  dog, left, _ = watch(tmp_path, deadline=1.0)
  with dog:
    dog.now("compile")
    assert not left.wait(1.5)
    for _ in range(4):
      dog.now("input")
      time.sleep(0.2)
      dog.now("step")
      time.sleep(0.2)
  assert not left.is_set()
  assert not list(tmp_path.iterdir())


def test_who_waits_for_another_waits_longer(tmp_path):
  began = time.monotonic()
  dog, left, said = watch(
    tmp_path, deadline=2.0, behind=lambda: "process 1 in input further behind"
  )
  with dog:
    dog.now("step")
    assert left.wait(30)
  assert time.monotonic() - began > 2.5
  assert "with process 1 in input further behind" in said[0][1]


def test_without_a_deadline_no_thread(tmp_path):
  before = threading.active_count()
  dog, _, _ = watch(tmp_path, deadline=None)
  with dog:
    assert threading.active_count() == before


def test_own_time_is_input_and_work_but_not_waiting(tmp_path):
  dog, _, _ = watch(tmp_path, deadline=None)
  dog.now("input")
  dog.lap()
  for _ in range(2):
    dog.now("input")
    time.sleep(0.05)
    dog.now("step")
    time.sleep(0.2)
    dog.now("hooks")
    end = time.thread_time() + 0.03
    while time.thread_time() < end:
      pass
  dog.now("input")
  dog.lap()
  ((own, whole),) = dog.laps
  assert 0.08 <= own < 0.2
  assert whole >= 0.28
