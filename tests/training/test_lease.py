"""Two machines on one folder: who may train, who waits, who has been overtaken."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from noise2music.errors import UserError
from noise2music.training import lease as lease_lib
from noise2music.training.lease import FILE, Lease

SECONDS = 1.2  # renewed each 0.2 s
_HOLDER = """
import importlib.util, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("lease", sys.argv[3])  # by itself, without jax
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
with module.Lease(folder, seconds=seconds, machine="far", locked=False) as lease:
  print("held", flush=True)
  while True:
    time.sleep(0.05)
    lease.check()
"""


@pytest.fixture
def holder(tmp_path):
  """A process that holds the lease as another machine would."""
  process = subprocess.Popen(
    [sys.executable, "-c", _HOLDER, tmp_path, str(SECONDS), lease_lib.__file__],
    cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout.readline() == "held\n"
  yield process
  process.kill()
  process.communicate()


def lease(folder, **changes):
  return Lease(folder, **{"seconds": SECONDS, "machine": "near", "locked": True, **changes})


def test_a_newcomer_is_refused_as_soon_as_the_holder_has_renewed(holder, tmp_path):
  began = time.monotonic()
  with (
    pytest.raises(UserError, match=rf"process {holder.pid} on .* is training in .*: wait for it"),
    lease(tmp_path, seconds=60.0),
  ):
    pass
  assert time.monotonic() - began < 30  # it need not wait for the end
  assert holder.poll() is None


def test_a_dead_holder_is_replaced_after_its_time_and_not_before(holder, tmp_path, caplog):
  holder.kill()
  holder.wait()
  began = time.monotonic()
  with caplog.at_level(logging.WARNING, logger="noise2music"), lease(tmp_path):
    assert time.monotonic() - began >= SECONDS
  assert "gave no sign of life: going on in its place" in caplog.text
  assert list(tmp_path.iterdir()) == []  # nothing stays behind


def test_the_same_machine_need_not_wait(holder, tmp_path):
  holder.kill()
  holder.wait()
  began = time.monotonic()
  with lease(tmp_path, machine="far", seconds=600.0):
    assert time.monotonic() - began < 60
  # Without a lock nothing is known of the other process.
  holder_file(tmp_path, machine="near")
  began = time.monotonic()
  with lease(tmp_path, locked=False):
    assert time.monotonic() - began >= SECONDS


def holder_file(folder, **changes):
  """What a holder leaves that was killed."""
  with lease(folder, **changes):
    left = (folder / FILE).read_bytes()
  (folder / FILE).write_bytes(left)


def test_no_time_of_day_matters(holder, tmp_path):
  """However old the file claims to be, and whatever the clock says."""
  os.utime(tmp_path / FILE, (0, 0))
  with pytest.raises(UserError, match="is training in"), lease(tmp_path):
    pass
  os.utime(tmp_path / FILE, (2**32, 2**32))
  holder.kill()
  holder.wait()
  with lease(tmp_path):
    pass


def test_a_holder_that_was_suspended_finds_itself_overtaken(holder, tmp_path):
  holder.send_signal(signal.SIGSTOP)
  with lease(tmp_path) as mine:
    holder.send_signal(signal.SIGCONT)
    _, said = holder.communicate(timeout=60)
    assert "has taken over" in said.splitlines()[-1]
    mine.check(now=True)  # and ours is untouched
    assert b'"near"' in (tmp_path / FILE).read_bytes()


def test_of_two_that_wait_for_the_same_dead_one_stays(holder, tmp_path):
  holder.kill()
  holder.wait()
  outcomes, both_in = [], threading.Barrier(2)

  def newcomer(machine):
    try:
      with lease(tmp_path, machine=machine) as mine:
        outcomes.append("in")
        both_in.wait(timeout=3 * SECONDS)
        mine.check(now=True)
    except threading.BrokenBarrierError:
      pass
    except UserError:
      outcomes.append("refused")

  threads = [threading.Thread(target=newcomer, args=(name,)) for name in ("a", "b")]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(outcomes) == ["in", "refused"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\0" * 512, b'{"token": 1}', b"x" * 10**6])
def test_whatever_the_file_holds(tmp_path, content):
  (tmp_path / FILE).write_bytes(content)
  with lease(tmp_path) as mine:
    mine.check(now=True)


def test_who_took_over_may_have_ended_since(tmp_path):
  with lease(tmp_path, seconds=600.0) as mine:
    mine.check(now=True)
    (tmp_path / FILE).unlink()
    with pytest.raises(UserError, match="another trainer has taken over"):
      mine.check(now=True)


def test_a_folder_that_is_gone_is_not_the_matter_of_the_lease(tmp_path):
  (tmp_path / "run").mkdir()
  with lease(tmp_path / "run", seconds=600.0) as mine:
    shutil.rmtree(tmp_path / "run")
    mine.check(now=True)
