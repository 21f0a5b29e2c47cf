"""Real training processes that are killed, starved and lied to, and what they leave behind.

A run is the launcher on `fault.gin`: a tiny network, or (`stage.gin`) a stage of the cascade, on a
few clips. Each process writes `<run>-trace-<index>.jsonl` beside the run: of every update its step,
a fingerprint of the parameters and their average after it, and of each row that it was given. Two
runs are the same, to the bit, where their traces are.
"""

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from data_pipelines.manifest import Clip, write_manifest
from noise2music.checkpoints.manager import FOLDER, CheckpointManager

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GIN = HERE / "fault.gin"
SLOW = "--gin.faulty.Batches.delay_seconds=0.05"  # so that there is time to do something to it


class Process:
  """One launcher, and all that it has said so far."""

  def __init__(self, command: Sequence[str], *, env: dict[str, str], cwd: Path):
    self._popen = subprocess.Popen(
      command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    self.pid = self._popen.pid
    self._lines: list[str] = []
    self._news = threading.Condition()
    self._reader = threading.Thread(target=self._read, daemon=True)
    self._reader.start()

  def _read(self) -> None:
    for line in self._popen.stdout:
      with self._news:
        self._lines.append(line)
        self._news.notify_all()
    with self._news:
      self._lines.append("")  # the end
      self._news.notify_all()

  @property
  def said(self) -> str:
    return "".join(self._lines)

  def wait_for(self, pattern: str, *, seconds: float = 120) -> re.Match:
    """Until it has said `pattern`; raises AssertionError where it ends or keeps silent first."""
    deadline = time.monotonic() + seconds
    with self._news:
      while True:
        if found := re.search(pattern, self.said):
          return found
        ended = self._lines and not self._lines[-1]
        left = deadline - time.monotonic()
        if ended or left <= 0:
          raise AssertionError(f"{pattern!r} never came:\n{self.said}")
        self._news.wait(left)

  def send(self, number: signal.Signals) -> None:
    self._popen.send_signal(number)

  def running(self) -> bool:
    return self._popen.poll() is None

  @property
  def went_on_from(self) -> int:
    """The step of the checkpoint that it began with, 0 where there was none."""
    found = re.search(r"going on from step (\d+)", self.said)
    return int(found[1]) if found else 0

  def end(self, *, seconds: float = 180) -> int:
    """Its exit status; killed, and an AssertionError, where it takes longer."""
    try:
      status = self._popen.wait(seconds)
    except subprocess.TimeoutExpired:
      self._popen.kill()
      raise AssertionError(f"still running after {seconds} s:\n{self.said}") from None
    self._reader.join(10)
    return status


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """folder: MODEL_DIR. data: a folder of clips. flags: of every start. processes: how many, each
  with so many devices. prefix: command that the launcher is handed to.
  """

  folder: Path
  data: Path
  flags: Sequence[str] = ()
  processes: int = 1
  devices: int = 1
  prefix: Sequence[str] = ()

  def beside(self, name: str, **changes: Any) -> "Run":
    """Another run on the same clips, which finds compiled programs where this one left them."""
    return dataclasses.replace(self, folder=self.folder.with_name(name), **changes)

  def start(self, *flags: str, env: dict[str, str] | None = None) -> list[Process]:
    """The launchers, one for each process, in their order."""
    together = []
    if self.processes > 1:
      together = [f"--coordinator_address=127.0.0.1:{free_port()}"]
      together.append(f"--process_count={self.processes}")
    return [
      self.launch(*flags, *together, *([f"--process_index={i}"] if together else []), env=env)
      for i in range(self.processes)
    ]

  def launch(
    self, *flags: str, module: str = "launch.train", env: dict[str, str] | None = None
  ) -> Process:
    """One launcher, with these flags besides the run's own."""
    self.folder.parent.mkdir(parents=True, exist_ok=True)
    return Process(
      [
        *self.prefix, sys.executable, "-m", module, f"--gin_file={GIN}",
        f'--gin.MODEL_DIR="{self.folder}"', f'--gin.DATA="{self.data}"', "--allow_drift=faulty",
        *self.flags, *flags,
      ],
      env=self._environment(env or {}),
      cwd=self.folder.parent,
    )  # fmt: skip

  def _environment(self, more: dict[str, str]) -> dict[str, str]:
    cache = self.folder.parent / "xla"
    return {
      **os.environ,
      "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]),
      "PYTHONUNBUFFERED": "1",
      "TRACED": str(self.folder),
      "JAX_PLATFORMS": "cpu",
      "JAX_COMPILATION_CACHE_DIR": str(cache),
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={self.devices}"
      " --xla_cpu_multi_thread_eigen=false",
      **more,
    }

  def complete(self, *flags: str) -> list[Process]:
    """Starts and waits; every process must end with status 0."""
    processes = self.start(*flags)
    for process in processes:
      assert process.end() == 0, process.said
    return processes

  @property
  def checkpoints(self) -> Path:
    return self.folder / FOLDER

  def steps(self) -> list[int]:
    """Of the checkpoints that are whole."""
    manager = CheckpointManager(self.checkpoints)
    try:
      return manager.steps
    finally:
      manager.close()

  def trace(self) -> dict[int, tuple]:
    """{step: (fingerprint of the state after it, of each row of its global batch)}.

    Raises AssertionError where two tries at a step, or two processes, differ.
    """
    out: dict[int, tuple] = {}
    parts = [self._trace(index) for index in range(self.processes)]
    for step in sorted(set.intersection(*(set(part) for part in parts))):
      states = {part[step][0] for part in parts}
      assert len(states) == 1, f"processes differ after step {step}: {states}"
      out[step] = (states.pop(), [row for part in parts for row in part[step][1]])
    return out

  def _trace(self, process: int) -> dict[int, tuple]:
    out: dict[int, tuple] = {}
    for row in self._rows(process):
      found = (row["state"], row["rows"])
      assert out.setdefault(row["step"], found) == found, f"step {row['step']} came out differently"
    return out

  def _rows(self, process: int) -> Iterator[dict]:
    path = self.folder.with_name(f"{self.folder.name}-trace-{process}.jsonl")
    for line in path.read_text().splitlines():
      try:
        yield json.loads(line)
      except json.JSONDecodeError:  # torn by a kill
        continue


def make_clips(folder: Path, *, count: int = 8, seconds: float = 0.3) -> Path:
  """Chirps, each of its own pitch."""
  folder.mkdir(parents=True)
  t = np.arange(round(24_000 * seconds)) / 24_000
  clips = []
  for number in range(count):
    audio = 0.3 * np.sin(2 * np.pi * (200 + 90 * number + 800 * t) * t)
    soundfile.write(folder / f"{number}.wav", audio, 24_000)
    clips.append(Clip(path=f"{number}.wav", duration=seconds, sample_rate=24_000, split="train"))
  write_manifest(folder / "manifest.jsonl", clips)
  return folder


def free_port() -> int:
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


def listens(pid: int) -> list[str]:
  """Addresses, in the kernel's hexadecimal, at which a process takes connections."""
  mine = set()
  for entry in Path(f"/proc/{pid}/fd").iterdir():
    with contextlib.suppress(OSError):
      mine.add(os.readlink(entry))
  out = []
  for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
      _, local, _, state, *_, inode = line.split()[:10]
      if state == "0A" and f"socket:[{inode}]" in mine:
        out.append(local)
  return out
