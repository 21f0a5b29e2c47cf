"""Two real processes and jax's store; who is slow; addresses that cannot be."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from noise2music.errors import UserError
from noise2music.training import liveness, peers

ROOT = Path(__file__).resolve().parents[2]

_SCRIPT = """
import os, sys
from noise2music.training import peers as lib
index, port = int(sys.argv[1]), sys.argv[2]
peers = lib.join(address=f"127.0.0.1:{port}", count=2, index=index, heartbeat_seconds=20,
                 join_seconds=60)
peers.barrier("all here", seconds=30)
if index == 0:
  assert peers.set_first("first", "me")
peers.set(f"things/{index}", str(index))
peers.barrier("all set", seconds=30)
assert peers.all("things") == {"0": "0", "1": "1"}, peers.all("things")
assert peers.all("nothing") == {}
assert not peers.set_first("first", "another")
assert peers.live() == [0, 1]
if index == 0:
  try:
    peers.barrier("one stays away", seconds=1)
  except lib.Missing as missing:
    print("missing", missing.processes, missing)
peers.barrier("end", seconds=30)
peers.shutdown()
"""


def test_a_store_and_barriers_that_name_who_is_missing():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", _SCRIPT, str(index), port],
      env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in (0, 1)
  ]
  said = [process.communicate(timeout=120) for process in processes]
  assert [process.returncode for process in processes] == [0, 0], said
  assert said[0][0] == "missing (1,) process(es) 1 did not come to 'one stays away'\n"


@pytest.mark.parametrize(
  ("address", "count", "index", "message"),
  [
    ("here", 2, 0, "write HOST:PORT"),
    ("127.0.0.1:70000", 2, 0, "write HOST:PORT"),
    ("127.0.0.1:1234", 2, 2, "they count from 0 to 1"),
    ("127.0.0.1:1234", 0, 0, "--process_count"),
    ("192.0.2.77:1234", 2, 0, "cannot listen at 192.0.2.77:1234"),  # not an address of this host
  ],
)
def test_mistaken_addresses(address, count, index, message):
  with pytest.raises(UserError, match=message):
    peers.join(
      address=address, count=count, index=index, heartbeat_seconds=1, join_seconds=1
    )  # fmt: skip


@pytest.mark.parametrize(
  ("own", "expected"),
  [
    ([0.01, 0.05], [1]),  # of two, the slower one
    ([0.01, 0.02], []),  # not several times
    ([0.001, 0.005], []),  # nothing, in steps of 0.1 s
    ([0.05, 0.06, 0.05, 0.4], [3]),
    ([0.4, 0.4, 0.4, 0.05], []),  # one that is fast
    ([0.0, 0.0, 0.0, 0.0], []),
  ],
)
def test_slow_is_several_times_the_median_and_noticeable(own, expected):
  assert liveness.slow({i: (seconds, 0.1) for i, seconds in enumerate(own)}) == expected
