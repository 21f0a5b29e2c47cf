"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once.

Python runs signal handlers between bytecodes only, so a compilation of minutes would swallow a
second Ctrl-C. The C level writes every signal into a pipe as it comes; a thread reads it there.

  * While compiling there is nothing to save, and the first one leaves at once.
  * While a checkpoint is being written a second one waits for it, for a few seconds.
  * Input and hooks that go on for `grace_seconds` after the first are left; where they are, the
    state of the last step cannot be saved, and the last checkpoint is the one to go on from.
  * With several processes, one that was told tells all (`liveness`): they stop after the same step.
"""

import os
import signal
import socket
import threading
import time
from pathlib import Path

from noise2music.training import exits
from noise2music.training.liveness import Liveness
from noise2music.training.watchdog import Watchdog

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAVE_SECONDS = 8.0  # that a second signal waits for a save
_BEFORE = ("setup", "compile")


class Interrupts:
  """Context manager; `received` is the first signal's number, or None.

  Outside the main thread it does nothing: whoever started the thread owns the signals.
  watchdog: knows what the main thread is doing. together: with other processes. checkpoints: their
  folder.
  """

  def __init__(
    self,
    *,
    watchdog: Watchdog,
    together: Liveness | None,
    grace_seconds: float,
    checkpoints: Path,
    leave: exits.Leave,
  ):
    self._received: int | None = None
    self._watchdog, self._together, self._leave = watchdog, together, leave
    self._grace, self._checkpoints = grace_seconds, checkpoints
    self._closed = threading.Event()
    self._old: dict[int, object] = {}

  @property
  def received(self) -> int | None:
    if self._together is not None:
      return None if self._together.stop is None else self._together.stop.signal
    return self._received

  @property
  def name(self) -> str:
    return "Ctrl-C" if self.received == signal.SIGINT else "SIGTERM"

  def __enter__(self) -> "Interrupts":
    if self._together is not None:
      self._together.on_stop = self._told
    if threading.current_thread() is not threading.main_thread():
      return self
    self._reader, self._writer = socket.socketpair()
    self._writer.setblocking(False)
    self._old_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
    # The handlers themselves do nothing; they keep Python from raising KeyboardInterrupt.
    self._old = {s: signal.signal(s, lambda *_: None) for s in SIGNALS}
    threading.Thread(target=self._listen, name="interrupts", daemon=True).start()
    return self

  def stop_after(self, step: int) -> bool:
    """True if `step` is to be the last one. Every process must ask after every step."""
    if self._together is not None:
      return self._together.stop_after(step)
    return self._received is not None

  def __exit__(self, *_) -> None:
    self._closed.set()
    if self._old:
      for number, handler in self._old.items():
        signal.signal(number, handler)
      signal.set_wakeup_fd(self._old_fd)
      self._writer.close()
      self._old = {}

  def _listen(self) -> None:
    own = 0
    while data := self._reader.recv(1):
      if data[0] not in SIGNALS:
        continue
      own += 1
      if own > 1:
        threading.Thread(target=self._hurry, args=(data[0],), daemon=True).start()
      elif self._together is not None:
        self._together.send_stop(data[0])
      else:
        self._told(data[0])
    self._reader.close()

  def _told(self, number: int) -> None:
    """The first signal, here or in another process."""
    self._received = number
    if self._together is None and self._watchdog.phase in _BEFORE:
      self._leave(128 + number, f"stopped by {self.name} before the first update")
    os.write(2, b"\nfinishing this step, then saving; once more to leave at once\n")
    threading.Thread(target=self._enough, args=(number,), name="grace", daemon=True).start()

  def _enough(self, number: int) -> None:
    """Leaves when input or a hook has taken too long."""
    end = time.monotonic() + self._grace
    while not self._closed.wait(max(0.1, end - time.monotonic())):
      phase = self._watchdog.phase
      if phase not in ("input", "hooks") or exits.under_way(self._checkpoints):
        continue
      # A hook may wait for another process, which is then the one to say what takes so long.
      waits = self._together is not None and self._together.behind() is not None
      if waits and time.monotonic() < end + 2:
        continue
      self._leave(
        128 + number,
        f"stopped by {self.name} while {phase} took longer than {self._grace:g} s"
        " (Training.grace_seconds)",
      )

  def _hurry(self, number: int) -> None:
    """A second signal. What is not committed does not count, so leaving cannot tear a save; but it
    would cost the steps since the last one, so a save that has begun may end.
    """
    end = time.monotonic() + _SAVE_SECONDS
    while self._saving() and time.monotonic() < end:
      if self._closed.wait(0.05):
        return  # all is saved, and the process is about to leave
    self._leave(128 + number, f"stopped by {self.name}, at once")

  def _saving(self) -> bool:
    return self._watchdog.phase in ("save", "end") or exits.under_way(self._checkpoints)
