"""Notices a run that hangs: says in which phase, shows all stacks, and ends it with status 124.

jax notices a process that died, never one that waits for ever (for a disk, a lock, a download): its
peers simply wait with it. All go through the same phases in the same order, so the one that has
begun the fewest is to blame, and it is to speak: whoever waits for it has a deadline a quarter
longer, and leaves as soon as it hears why.
"""

import collections
import contextlib
import faulthandler
import threading
import time
from collections.abc import Callable
from pathlib import Path

from noise2music.training import exits

PHASES = ("setup", "compile", "input", "step", "save", "hooks", "end")
_TEXTS = {
  "input": "waiting for the next batch",
  "step": "an update",
  "save": "saving a checkpoint",
  "hooks": "a hook",
  "end": "closing the run",
}
_UNWATCHED = ("setup", "compile")  # minutes for a large model, and nothing is lost with them
_WAITING = 1.25  # deadlines, for a process that waits for another one


class Watchdog:
  """Context manager. `phase` is what the main thread does; `now(phase)` tells.

  deadline_seconds: what a phase may take, None for ever. folder: of `hang-<process>.txt`.
  leave: called with (status, cause). behind: names the processes that this one waits for, if any.
  begun: phases so far. laps: of the last two, seconds a step that this process worked
  by itself, and seconds a step.
  """

  def __init__(
    self,
    *,
    deadline_seconds: float | None,
    folder: Path,
    process: int,
    leave: exits.Leave,
    behind: Callable[[], str | None] | None = None,
  ):
    self.phase = "setup"
    self.begun = 0
    self.since = time.monotonic()
    self.laps: collections.deque[tuple[float, float]] = collections.deque(maxlen=2)
    self._steps, self._own, self._lap_began = 0, 0.0, self.since
    self._cpu = time.thread_time()
    self._deadline, self._process = deadline_seconds, process
    self._leave, self._behind = leave, behind or (lambda: None)
    self._file = folder / f"hang-{process}.txt"
    self._closed = threading.Event()

  def now(self, phase: str) -> None:
    """The main thread begins with `phase`. Microseconds: it is called a few times in every step.

    Counts this process's own time besides: that of input, and processor time of this thread in all
    else, so that waiting for the other processes is none.
    """
    now, cpu = time.monotonic(), time.thread_time()
    self._own += now - self.since if self.phase == "input" else cpu - self._cpu
    self._steps += phase == "step"
    self.phase, self.since, self._cpu = phase, now, cpu
    self.begun += 1

  def lap(self) -> None:
    """Ends a lap, of the steps since the one before it."""
    now = time.monotonic()
    if self._steps:
      self.laps.append((self._own / self._steps, (now - self._lap_began) / self._steps))
    self._steps, self._own, self._lap_began = 0, 0.0, now

  def __enter__(self) -> "Watchdog":
    if self._deadline is not None:
      threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
    return self

  def __exit__(self, *_) -> None:
    self._closed.set()
    if self._deadline is not None:
      with contextlib.suppress(RuntimeError, ValueError):
        faulthandler.cancel_dump_traceback_later()

  def _watch(self) -> None:
    tick = min(1.0, self._deadline / 10)
    while not self._closed.wait(tick):
      begun, phase, seconds = self.begun, self.phase, time.monotonic() - self.since
      if phase in _UNWATCHED:
        faulthandler.cancel_dump_traceback_later()
        continue
      # For a main thread that never lets go of Python's lock: C code, which this thread has to put
      # off again and again. It can but show the stacks, and exits with status 1.
      faulthandler.dump_traceback_later(2 * self._deadline, exit=True, file=2)
      late = seconds > self._deadline and begun == self.begun
      if late and (seconds > _WAITING * self._deadline or self._behind() is None):
        self._hung(phase, seconds)

  def _hung(self, phase: str, seconds: float) -> None:
    where = f"stacks of all threads are in {self._file}"
    try:
      with open(self._file, "w") as out:
        out.write(f"process {self._process}, in {phase} for {seconds:.1f} s\n")
        out.flush()
        faulthandler.dump_traceback(out, all_threads=True)
    except OSError as error:
      where = f"no stacks could be written to {self._file} ({error.strerror})"
    faulthandler.dump_traceback(2, all_threads=True)
    behind = self._behind()
    self._leave(
      exits.HUNG,
      f"process {self._process} hangs in {phase}: {_TEXTS[phase]} takes longer than"
      f" {self._deadline:g} s (Training.deadline_seconds){f', with {behind}' if behind else ''};"
      f" {where}",
    )
