"""Several processes as one run: who is alive, where to stop together, who is slow.

Each process writes a line about itself into the shared store twice a second, and reads all lines:
  * a line that stands still for `heartbeat_seconds` is a process that was killed, stopped or cut
    off. The rest can only wait for it in the next collective, so they say whom they lost and leave,
    with status 75 (LOST): the same command goes on from the last checkpoint;
  * a process that ends with an error says so before it leaves, and the rest leave with 75 at once;
  * SIGTERM or Ctrl-C in one process reaches all, and they agree on the last step: the furthest that
    any has done, and one more. They hold still while they compare;
  * process 0 compares how long each works by itself for a step, and names one that is much slower.

They leave by os._exit: jax would wait at exit for those that are gone. The coordinator is in
process 0: when that dies jaxlib ends the others by abort(), in whose handler the last word is said.
"""

import contextlib
import dataclasses
import json
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from noise2music.training import exits
from noise2music.training import peers as peers_lib
from noise2music.training.exits import LOST
from noise2music.training.peers import Peers
from noise2music.training.watchdog import Watchdog

PACE_EVERY = 5  # steps between two looks at who is slow
_TICK = 0.5
_LINGER = 3.0  # seconds the coordinator waits for the others to leave before it does
_SLOWER = 3.0  # times the median
_NOTICEABLE = 0.1  # of the time of a step

log = logging.getLogger(__name__)
_current: "Liveness | None" = None


def current() -> "Liveness | None":
  """Of this process; None where it is alone."""
  return _current


def join(*, address, count, index, heartbeat_seconds: int, join_seconds: int) -> "Liveness | None":
  """`peers.join`, and the thread begins. Raises UserError."""
  global _current
  peers = peers_lib.join(
    address=address,
    count=count,
    index=index,
    heartbeat_seconds=heartbeat_seconds,
    join_seconds=join_seconds,
  )
  if peers.count > 1:
    _current = Liveness(peers, heartbeat_seconds=heartbeat_seconds)
    peers_lib.on_abort(_current.aborted)
    _current.start()
  return _current


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
  """signal: its number. after: the step after which all stop; None until they agree."""

  signal: int
  process: int
  after: int | None = None


class Liveness:
  """The thread, and what the main thread asks of it."""

  def __init__(self, peers: Peers, *, heartbeat_seconds: float):
    self.peers, self.heartbeat_seconds = peers, heartbeat_seconds
    self.stop: Stop | None = None
    self.checkpoints: Path | None = None  # folder, once there is one
    self.watchdog: Watchdog | None = None  # once there is one
    self.say: Callable[[str], None] = log.warning
    self.on_stop: Callable[[int], None] = lambda number: None
    self._first = self._step = 0
    self._holding = threading.Lock()  # the main thread may not begin another step
    self._done = False
    self._closed = threading.Event()
    self._leaving = threading.Lock()
    self._wanted: int | None = None  # signal to be told to all
    self._lines: Mapping[int, Any] = {}
    self._status: int | None = None
    self._wake = threading.Event()
    self._ages = _Ages(peers.index)
    self._answered = time.monotonic()
    self._beat = 0
    self._named: set[int] = set()
    self._tick = max(_TICK, peers.count / 128)  # a pod's coordinator answers 256 calls a second
    self._threads = [
      threading.Thread(target=target, name=name, daemon=True)
      for target, name in ((self._look_after, "liveness"), (self._guard, "coordinator"))
    ]

  def start(self) -> None:
    for thread in self._threads:
      thread.start()

  # What the main thread calls.

  def begin(self, step: int) -> None:
    """Training goes on from `step`."""
    with self._holding:
      self._first = self._step = step

  def stop_after(self, step: int) -> bool:
    """True if `step` is the last one for all processes. Each must ask after every step."""
    with self._holding:
      self._step = step
      return self.stop is not None and self.stop.after is not None and step >= self.stop.after

  def behind(self) -> str | None:
    """Names the processes that have not come as far as this one, and what they are doing."""
    begun = self.watchdog.begun
    found = [(i, line) for i, line in sorted(self._lines.items()) if line.get("begun", 0) < begun]
    late = [f"process {i} in {line.get('phase', 'setup')}" for i, line in found]
    return f"{', '.join(late)} further behind" if late else None

  def send_stop(self, signal: int) -> None:
    """All stop together. Returns at once."""
    self._wanted = signal
    self._wake.set()

  def leave(self, status: int, cause: str, *, mend: bool = False, says: str | None = None) -> None:
    """Says why, tells the others, and ends the process.

    mend: the cause says itself what to do. says: to the others, who leave as well; with LOST, or
    where a signal was for all of them with its status.
    """
    self._leaving.acquire()  # for good: the first thread that comes ends the process
    self._status = status
    exits.say(cause if mend else exits.go_on(cause, self.checkpoints))
    stopped = self.stop is not None and status == 128 + self.stop.signal
    self._tell({"says": says or cause, "status": status if stopped else LOST})
    if self.peers.index == 0:
      self._linger()
    os._exit(status)

  def lost(self) -> None:
    """Where something went wrong that may be another process's end: waits until that is known.

    The thread leaves where it is so; returns where it is not.
    """
    time.sleep(self.heartbeat_seconds + 2 * self._tick)

  def close(self) -> None:
    """Waits until all processes have come this far, then leaves jax's service with them."""
    self._done = True
    self._wake.set()
    self._closed.wait()
    for thread in self._threads:
      thread.join()
    peers_lib.on_abort(lambda: None)
    self.peers.shutdown()

  def aborted(self) -> None:
    """In abort(): jaxlib has lost the coordinator, or a peer; returns where it is neither."""
    if self._status is not None:
      os._exit(self._status)
    if self.peers.index != 0 and not peers_lib.answers(self.peers.address):
      cause = "process 0, the coordinator, has died"
    elif late := self._ages.late(self.heartbeat_seconds / 2):
      cause = _silent(late, self.heartbeat_seconds)
    else:
      return
    exits.say(exits.go_on(cause, self.checkpoints))
    os._exit(LOST)

  # The thread.

  def _look_after(self) -> None:
    while not self._closed.is_set():
      try:
        self._round()
      except jax.errors.JaxRuntimeError as error:
        log.debug("the coordinator did not answer: %s", error)  # `_guard` counts the seconds
      self._wake.wait(0.02 if self._holding_still() or self._done else self._tick)
      self._wake.clear()
    if self._holding_still():
      self._holding.release()

  def _round(self) -> None:
    self._beat += 1
    mine = {"beat": self._beat, "done": self._done, "laps": []}
    if (watchdog := self.watchdog) is not None:
      mine |= {"laps": list(watchdog.laps), "begun": watchdog.begun, "phase": watchdog.phase}
    self.peers.set(f"run/line/{self.peers.index}", json.dumps(mine))
    if self._wanted is not None and self.stop is None:
      self.peers.set_first("run/stop", json.dumps([self._wanted, self.peers.index]))
    table = self.peers.all("run")
    self._answered = time.monotonic()
    lines = {int(k.removeprefix("line/")): json.loads(v) for k, v in table.items() if "line/" in k}
    self._lines = lines
    self._look_for_the_gone(table, lines)
    if "stop" in table:
      self._agree(json.loads(table["stop"]), table)
    if self.peers.index == 0:
      self._look_for_the_slow(lines)
    if len(lines) == self.peers.count and all(line["done"] for line in lines.values()):
      self._closed.set()

  def _look_for_the_gone(self, table: Mapping[str, str], lines: Mapping[int, Any]) -> None:
    for key, value in table.items():
      if key.startswith("gone/") and key != f"gone/{self.peers.index}":
        gone = json.loads(value)
        self.leave(gone["status"], gone["says"])
    self._ages.update({i: line["beat"] for i, line in lines.items()}, patience=2 * self._tick)
    if late := self._ages.late(self.heartbeat_seconds):
      self.leave(LOST, _silent(late, self.heartbeat_seconds))

  def _holding_still(self) -> bool:
    return self.stop is not None and self.stop.after is None

  def _agree(self, stop: list[int], table: Mapping[str, str]) -> None:
    """On the last step: all hold still, say how far they are, and take the furthest and one more.

    The furthest may be inside its next update, where the others must follow.
    """
    if self.stop is None:
      self._holding.acquire()
      self.stop = Stop(signal=stop[0], process=stop[1])
      self.peers.set(f"run/at/{self.peers.index}", json.dumps([self._step, self._first]))
      self.on_stop(stop[0])
    if self.stop.after is not None:
      return
    at = [json.loads(v) for k, v in table.items() if k.startswith("at/")]
    if len(at) < self.peers.count:
      return
    if all(step == first for step, first in at):
      # No update has been done since the checkpoint: nothing is lost, whatever is being compiled.
      name = "Ctrl-C" if self.stop.signal == 2 else "SIGTERM"
      self.leave(128 + self.stop.signal, f"stopped by {name} before the first update")
    self.stop = dataclasses.replace(self.stop, after=max(step for step, _ in at) + 1)
    self._holding.release()

  def _look_for_the_slow(self, lines: Mapping[int, Any]) -> None:
    laps = {i: line["laps"] for i, line in lines.items() if len(line["laps"]) == 2}
    if len(laps) < self.peers.count:
      return
    # One slow lap is a hiccup.
    found = set.intersection(*(set(slow({i: laps[i][n] for i in laps})) for n in (0, 1)))
    for i in sorted(found - self._named):
      self._named.add(i)
      usual = statistics.median_low(own for (own, _), _ in laps.values())
      self.say(
        f"process {i} of {self.peers.count} is slow: {1000 * laps[i][1][0]:.0f} ms of its own in"
        f" a step (input and Python), {1000 * usual:.0f} ms is usual, and all wait for it"
      )

  def _guard(self) -> None:
    """The other thread's calls wait for ever where the coordinator is stopped."""
    tick, before = self._tick, time.monotonic()
    while not self._closed.wait(tick):
      now = time.monotonic()
      if now - before > 4 * tick:
        self._answered = now  # this process itself was stopped, or starved
      before = now
      if now - self._answered > self.heartbeat_seconds:
        self.leave(LOST, _silent([0], self.heartbeat_seconds))

  def _tell(self, gone: Mapping[str, Any]) -> None:
    """Does not wait for a coordinator that does not answer."""

    def tell() -> None:
      with contextlib.suppress(jax.errors.JaxRuntimeError):
        self.peers.set(f"run/gone/{self.peers.index}", json.dumps(gone))

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    thread.join(1.0)

  def _linger(self) -> None:
    """When process 0 leaves the store goes, and jaxlib aborts whoever has not left yet."""
    end = time.monotonic() + _LINGER
    late = set(self._ages.late(self.heartbeat_seconds / 2))
    while time.monotonic() < end:
      gone = {int(key) for key in self.peers.all("run/gone")}
      if len(gone | late) >= self.peers.count:
        return
      time.sleep(0.05)


class _Ages:
  """Since when the number of each process has stood still."""

  def __init__(self, index: int):
    self._index = index
    self._seen: dict[int, tuple[int, float]] = {}
    self._updated = time.monotonic()

  def update(self, numbers: Mapping[int, int], *, patience: float) -> None:
    now = time.monotonic()
    # Where this process was itself stopped, or starved, it cannot tell how old the others are.
    starved = max(0.0, now - self._updated - patience)
    self._updated = now
    for i, number in numbers.items():
      seen, since = self._seen.get(i, (None, now))
      self._seen[i] = (number, now) if number != seen else (seen, min(now, since + starved))

  def late(self, seconds: float) -> list[int]:
    now = self._updated
    return [i for i, (_, t) in sorted(self._seen.items()) if now - t > seconds and i != self._index]


def slow(laps: Mapping[int, tuple[float, float]]) -> list[int]:
  """Processes whose own seconds a step are several times the (lower) median, and matter.

  laps: process -> (own seconds a step, seconds a step). A process that is slow on its accelerator
  does not show: all wait for it in the same collective.
  """
  usual = statistics.median_low(own for own, _ in laps.values())
  return [
    i
    for i, (own, seconds) in sorted(laps.items())
    if own > _SLOWER * usual and own - usual > _NOTICEABLE * seconds
  ]


def _silent(processes: list[int], seconds: float) -> str:
  names = "process " if len(processes) == 1 else "processes "
  return (
    f"{names}{', '.join(map(str, processes))} has not been heard of for {seconds:g} s"
    " (killed, stopped or cut off)"
  )
