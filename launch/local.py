"""Several processes of one run on this machine's CPU, as many hosts would train it.

  python -m launch.local --processes=2 --devices=4 \\
      --gin_file=runs/smoke/waveform_generator.gin --gin.MODEL_DIR=\\"runs/mine\\" ...

All flags but its own are those of `launch.train`. Each line begins with the index of the process
that wrote it. Ctrl-C and SIGTERM are handed on; where one process fails, the others are ended. The
exit status is the worst: that of the process whose own fault it was, if any, rather than 75, which
says that another was lost.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import BinaryIO

from launch import gin_main
from noise2music.errors import Parser, UserError

EXAMPLE = """\
  python -m launch.local --processes=2 --gin_file=runs/smoke/waveform_generator.gin \\
      --gin.MODEL_DIR=\\"runs/mine\\" --gin.DATA=\\"runs/demo/corpus\\"
The flags of launch.train follow (see python -m launch.train --help).
"""
LOST = 75
JOIN_SECONDS = 60
_BY_THEMSELVES = 10.0  # seconds after a heartbeat: the others notice, say so and leave
_TO_SAVE = 10.0  # seconds after SIGTERM before SIGKILL
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(argv: Sequence[str]) -> int:
  flags, rest = _parser().parse_known_args(argv)
  if flags.processes < 1 or (flags.devices is not None and flags.devices < 1):
    raise UserError("--processes and --devices are whole numbers of at least 1")
  rest = [f"--heartbeat_seconds={flags.heartbeat_seconds}", *rest]
  children = _Processes(commands(flags.processes, rest), environment(flags.devices))
  return children.wait(patience=flags.heartbeat_seconds + _BY_THEMSELVES)


def _parser() -> argparse.ArgumentParser:
  out = Parser(
    prog="python -m launch.local",
    description="Train in several processes on this machine's CPU.",
    epilog=EXAMPLE,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  out.add_argument("--processes", type=int, required=True, metavar="N")
  out.add_argument("--devices", type=int, metavar="N", help="virtual devices of each process")
  out.add_argument("--heartbeat_seconds", type=int, default=10, metavar="S", help="of launch.train")
  return out


def commands(processes: int, flags: Sequence[str]) -> list[list[str]]:
  """One for each process. Flags that are given win over those that are added here."""
  train = [sys.executable, "-m", "launch.train", f"--join_seconds={JOIN_SECONDS}"]
  if processes == 1:
    return [[*train, *flags]]
  address = f"--coordinator_address=127.0.0.1:{_free_port()}"
  return [
    [*train, address, f"--process_count={processes}", f"--process_index={index}", *flags]
    for index in range(processes)
  ]


def environment(devices: int | None) -> dict[str, str]:
  """Of every process."""
  # Processes that share one accelerator would fight for its memory.
  out = {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1", **os.environ}
  if devices is not None:
    count = f"--xla_force_host_platform_device_count={devices}"
    out["XLA_FLAGS"] = f"{out.get('XLA_FLAGS', '')} {count}".strip()
  return out


class _Processes:
  """Runs the commands to their ends."""

  def __init__(self, commands: Sequence[Sequence[str]], env: dict[str, str]):
    self._lock = threading.Lock()
    # A session of its own for each: a terminal's Ctrl-C would reach them twice.
    self._children = [
      subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
      )
      for command in commands
    ]
    self._readers = [
      threading.Thread(target=self._hand_on, args=(index, source, sink), daemon=True)
      for index, child in enumerate(self._children)
      for source, sink in ((child.stdout, sys.stdout.buffer), (child.stderr, sys.stderr.buffer))
    ]
    for number in _SIGNALS:
      signal.signal(number, lambda received, _: self._send(received))
    for reader in self._readers:
      reader.start()

  def wait(self, *, patience: float) -> int:
    """Until all have ended; the worst status.

    patience: seconds that the others have to leave by themselves when one has failed.
    """
    ended: dict[int, int] = {}
    hurry = [(patience, signal.SIGTERM), (_TO_SAVE, signal.SIGKILL)]
    due: float | None = None
    last: int | None = None
    while len(ended) < len(self._children):
      for index, child in enumerate(self._children):
        if index not in ended and (status := child.poll()) is not None:
          status = 128 - status if status < 0 else status
          # What was killed here is not to blame.
          ended[index] = LOST if last is not None and status == 128 + last else status
      if due is None and any(ended.values()):
        due = time.monotonic() + hurry[0][0]
      if due is not None and time.monotonic() > due and hurry:
        _, last = hurry.pop(0)
        self._send(last)
        due = time.monotonic() + (hurry[0][0] if hurry else 0)
      time.sleep(0.05)
    for reader in self._readers:
      reader.join(5)
    return worst(list(ended.values()))

  def _send(self, number: int) -> None:
    for child in self._children:
      if child.poll() is None:
        child.send_signal(number)

  def _hand_on(self, index: int, source: BinaryIO, sink: BinaryIO) -> None:
    for line in source:
      with self._lock:
        sink.write(b"[%d] %s" % (index, line if line.endswith(b"\n") else line + b"\n"))
        sink.flush()


def worst(statuses: Sequence[int]) -> int:
  """The first, in the order in which they came, that is neither 0 nor LOST; else LOST, else 0."""
  own = [status for status in statuses if status not in (0, LOST)]
  return own[0] if own else max(statuses)


def _free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


if __name__ == "__main__":
  sys.exit(gin_main.run(main))
