"""Ctrl-C and SIGTERM: finish the step, save, leave. A second one leaves at once.

Python runs signal handlers between bytecodes only, so a compilation of minutes would swallow a
second Ctrl-C. The C level writes every signal into a pipe as it comes; a thread reads it there.

With several processes the signal of one must stop all at the same step: there jax's own notifier
takes SIGTERM (as a preemption sends it) and the processes agree on a step; Ctrl-C is left alone.
"""

import os
import signal
import socket
import threading

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
  """Context manager; `received` is the first signal's number, or None.

  Outside the main thread it does nothing: whoever started the thread owns the signals.
  """

  def __init__(self):
    self.received: int | None = None
    self._old: dict[int, object] = {}

  @property
  def name(self) -> str:
    return "Ctrl-C" if self.received == signal.SIGINT else "SIGTERM"

  def __enter__(self) -> "Interrupts":
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
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
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
      self.received = int(signal.SIGTERM)
    return self.received is not None

  def __exit__(self, *_) -> None:
    if self._old:
      for number, handler in self._old.items():
        signal.signal(number, handler)
      signal.set_wakeup_fd(self._old_fd)
      self._writer.close()
      self._old = {}

  def _listen(self) -> None:
    while data := self._reader.recv(1):
      if data[0] not in SIGNALS:
        continue
      if self.received is not None:
        # An unfinished save has no commit file, so leaving here cannot tear one.
        os._exit(128 + data[0])
      self.received = data[0]
      os.write(2, b"\nfinishing this step, then saving; once more to leave at once\n")
    self._reader.close()
