"""Faults at random, round after round, each against the run that nothing disturbed.

  python -m tests.faults.soak --rounds=100 --out=soak.jsonl

A round trains from scratch, does one fault at a random time, starts again until the run is done,
and compares every step's state and batch with the undisturbed run's. Each round is a line of
`--out`, so that it can be stopped at any time and gone on with; `--seed=N --rounds=1` repeats round
N alone. The faults have the numbers of the programme: 1 SIGKILL of all, 2 SIGKILL of worker 1 of 2,
4 SIGTERM of one of two, 11 a flipped bit in the newest checkpoint, 14 a disk that fills up (as
root).
"""

import argparse
import contextlib
import dataclasses
import json
import math
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from harness import Process, Run, make_clips

STEPS = 60
SLOW = "--gin.faulty.Batches.delay_seconds=0.05"
_DISK_BYTES = "2m"
_MOST_STARTS = 6
_LONGEST_SECONDS = 120.0  # for a start to end by itself, or after the fault


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
  """what: for the table. processes: of the run. strike: does it, and returns once it has worked."""

  number: int
  what: str
  processes: int
  strike: Callable[[Run, Sequence[Process], random.Random], None]
  disk: bool = False


@dataclasses.dataclass(kw_only=True)
class Round:
  """lost_steps: done before the fault, and once more after it. away_seconds: from the fault until
  the next update is reported.
  """

  seed: int
  fault: int
  exact: bool
  starts: int
  lost_steps: int
  away_seconds: float
  note: str = ""


def kill_all(run: Run, processes: Sequence[Process], draw: random.Random) -> None:
  _at_random(processes, draw)
  for process in processes:
    process.send(signal.SIGKILL)


def kill_worker(run: Run, processes: Sequence[Process], draw: random.Random) -> None:
  _at_random(processes, draw)
  processes[1].send(signal.SIGKILL)


def terminate_one(run: Run, processes: Sequence[Process], draw: random.Random) -> None:
  _at_random(processes, draw)
  draw.choice(processes).send(signal.SIGTERM)


def flip_bit(run: Run, processes: Sequence[Process], draw: random.Random) -> None:
  """Of any file of the newest checkpoint, between two starts."""
  processes[0].wait_for(rf"step (1[1-9]|[2-5]\d)/{STEPS}")
  kill_all(run, processes, draw)
  processes[0].end()
  steps = run.steps()
  if not steps:
    return
  path = draw.choice(
    sorted(p for p in (run.checkpoints / str(steps[-1])).rglob("*") if p.is_file())
  )
  content = bytearray(path.read_bytes())
  content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
  path.write_bytes(content)


def fill_disk(run: Run, processes: Sequence[Process], draw: random.Random) -> None:
  _at_random(processes, draw)
  filler = run.folder.parent / "filler"
  with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
    while True:
      out.write(bytes(4096))
  with contextlib.suppress(AssertionError):  # a stuck one is killed
    processes[0].end(seconds=_LONGEST_SECONDS)
  filler.unlink()


FAULTS = (
  Fault(number=1, what="SIGKILL of all", processes=1, strike=kill_all),
  Fault(number=2, what="SIGKILL of worker 1 of 2", processes=2, strike=kill_worker),
  Fault(number=4, what="SIGTERM of one of two", processes=2, strike=terminate_one),
  Fault(number=11, what="a flipped bit", processes=1, strike=flip_bit),
  Fault(number=14, what="disk full", processes=1, strike=fill_disk, disk=True),
)


def _at_random(processes: Sequence[Process], draw: random.Random) -> None:
  """From the first update that is reported to shortly after the last one."""
  processes[0].wait_for(rf"step \d+/{STEPS}")
  time.sleep(draw.uniform(0, 3))


class Soak:
  """work: the folder of all runs; what they share in it is made once."""

  def __init__(self, work: Path):
    self._work = work
    self._data = make_clips(work / "data")
    self._straight: dict[int, dict] = {}

  def straight(self, processes: int) -> dict:
    """The trace of a run that nothing disturbs."""
    if processes not in self._straight:
      run = Run(folder=self._work / f"straight-{processes}", data=self._data, processes=processes)
      run.complete()
      self._straight[processes] = run.trace()
    return self._straight[processes]

  def round(self, seed: int, fault: Fault) -> Round:
    expected = self.straight(fault.processes)
    place = self._work / f"round-{seed}"
    place.mkdir()
    with _disk(place) if fault.disk else contextlib.nullcontext():
      run = Run(folder=place / "run", data=self._data, processes=fault.processes)
      try:
        return self._disturbed(run, seed=seed, fault=fault, expected=expected)
      finally:
        shutil.rmtree(run.folder, ignore_errors=True)

  def _disturbed(self, run: Run, *, seed: int, fault: Fault, expected: dict) -> Round:
    env = {"JAX_COMPILATION_CACHE_DIR": str(self._work / "xla")}
    processes, notes = run.start(SLOW, env=env), []
    fault.strike(run, processes, random.Random(seed))
    struck, away = time.monotonic(), None
    _end(processes, notes)
    reached = _reached(run)
    starts = 1
    while starts < _MOST_STARTS:
      starts += 1
      processes = run.start(env=env)
      if away is None:
        with contextlib.suppress(AssertionError):
          processes[0].wait_for(rf"step \d+/{STEPS}|already at step", seconds=_LONGEST_SECONDS)
          away = time.monotonic() - struck
          begun = re.search(r"going on from step (\d+)|already at step (\d+)", processes[0].said)
          lost = reached - int(begun[1] or begun[2]) if begun else reached
      if _end(processes, notes) == {0}:
        break
    try:
      exact = run.trace() == expected
    except (AssertionError, OSError) as error:
      exact = False
      notes.append(str(error)[:200])
    return Round(
      seed=seed, fault=fault.number, exact=exact, starts=starts, note="; ".join(notes),
      lost_steps=-1 if away is None else lost, away_seconds=-1 if away is None else round(away, 2),
    )  # fmt: skip


def _end(processes: Sequence[Process], notes: list[str]) -> set[int]:
  """Their exit statuses; who does not end is killed and noted."""
  statuses = set()
  for index, process in enumerate(processes):
    try:
      statuses.add(process.end(seconds=_LONGEST_SECONDS))
    except AssertionError:
      notes.append(f"process {index} did not end in {_LONGEST_SECONDS:.0f} s")
      statuses.add(-9)
  return statuses


def _reached(run: Run) -> int:
  try:
    return max(run.trace(), default=0)
  except (OSError, AssertionError):
    return 0


@contextlib.contextmanager
def _disk(place: Path):
  subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", place], check=True)
  try:
    yield
  finally:
    subprocess.run(["umount", "-l", place], check=True)


def may_mount() -> bool:
  with tempfile.TemporaryDirectory() as name:
    try:
      with _disk(Path(name)):
        return True
    except (subprocess.CalledProcessError, OSError):
      return False


def wilson(good: int, count: int, *, z: float = 1.96) -> tuple[float, float]:
  """The interval of a share in which its true value lies 95 times of 100 (E. B. Wilson, 1927)."""
  share, scale = good / count, 1 + z * z / count
  middle = (share + z * z / (2 * count)) / scale
  half = z / scale * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
  return max(0.0, middle - half), min(1.0, middle + half)


def table(rounds: Sequence[Round]) -> str:
  lines = ["fault  what was done              times  exact  away (median)  lost steps (most)"]
  for fault in FAULTS:
    mine = [r for r in rounds if r.fault == fault.number]
    if mine:
      away = [r.away_seconds for r in mine if r.away_seconds >= 0]
      median = f"{statistics.median(away):.1f} s" if away else "never"
      most = max(r.lost_steps for r in mine)
      lines.append(
        f"{fault.number:>5}  {fault.what:<25}  {len(mine):>5}  {sum(r.exact for r in mine):>5}  "
        f"{median:>13}  {most:>17}"
      )
  good = sum(r.exact for r in rounds)
  low, high = wilson(good, len(rounds))
  lines.append(
    f"recovered exactly: {good} of {len(rounds)} ({good / len(rounds):.1%}; "
    f"95 % interval {low:.1%} to {high:.1%})"
  )
  return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", allow_abbrev=False)
  parser.add_argument("--rounds", type=int, default=100)
  parser.add_argument("--seed", type=int, default=0, help="of the first round")
  parser.add_argument("--faults", default="1,2,4,11,14", help="which of them")
  parser.add_argument("--out", type=Path, default=Path("soak.jsonl"))
  flags = parser.parse_args(argv)
  wanted = {int(number) for number in flags.faults.split(",")}
  if 14 in wanted and not may_mount():
    print("only root may mount a small disk: fault 14 is left out")
    wanted.remove(14)
  faults = [fault for fault in FAULTS if fault.number in wanted]
  done: dict[int, Round] = {}
  if flags.out.exists():
    for line in flags.out.read_text().splitlines():
      with contextlib.suppress(ValueError, TypeError):  # torn by a stop
        found = Round(**json.loads(line))
        done[found.seed] = found
  with tempfile.TemporaryDirectory(prefix="soak-") as name:
    soak = Soak(Path(name))
    for seed in range(flags.seed, flags.seed + flags.rounds):
      if seed not in done:
        done[seed] = soak.round(seed, random.Random(f"fault {seed}").choice(faults))
        with flags.out.open("a") as out:
          out.write(json.dumps(dataclasses.asdict(done[seed])) + "\n")
      print(f"round {seed}: {dataclasses.asdict(done[seed])}", flush=True)
  rounds = [done[seed] for seed in range(flags.seed, flags.seed + flags.rounds)]
  print(table(rounds))
  return 0 if all(r.exact for r in rounds) else 1


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
