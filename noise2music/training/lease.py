"""A sign of life in MODEL_DIR, for trainers on other machines that share the folder.

The lock of `run_folder` decides between processes of one machine, at once. Across machines it may
reach no further than the mount, so the holder also keeps a file with a counter that it renews. A
newcomer that finds another machine's lease watches the counter by its own monotonic clock, and
takes over once it has stood still for as long as a lease lasts. No time of day is ever compared: a
clock that is wrong, or jumps, steals nothing.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from noise2music.errors import UserError

FILE = ".lease"
_RENEWALS = 6  # in the time that a lease lasts
# Always as many bytes, so that a renewal needs no new space on a disk that is full.
_BYTES = 512

log = logging.getLogger(__name__)


class Lease:
  """Context manager; raises UserError where another trainer holds the lease.

  seconds: without a renewal after which the holder counts as dead. machine: this one. locked: a
  lock has shown that no other process of this machine trains here.
  """

  def __init__(self, folder: Path, *, seconds: float, machine: str | None = None, locked: bool):
    self._path = folder / FILE
    self._seconds = seconds
    self._machine = machine_id() if machine is None else machine
    self._locked = locked
    self._token = secrets.token_hex(8)
    self._count = 0
    self._lost_to: str | None = None
    self._end = threading.Event()
    self._renewing = threading.Lock()

  def __enter__(self) -> "Lease":
    self._acquire()
    self._thread = threading.Thread(target=self._renew_for_ever, name="lease", daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._end.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      if self._is_ours(self._read()):
        self._path.unlink()

  def check(self, *, now: bool = False) -> None:
    """Raises UserError where another trainer has taken over, as when this one was long suspended.

    now: look at the file, before something is written; else what the last renewal has seen.
    """
    if now:
      with contextlib.suppress(OSError):
        self._renew()
    if self._lost_to is not None:
      raise UserError(
        f"{self._lost_to} has taken over {self._path.parent} while this trainer gave no sign of "
        f"life for {self._seconds:.0f} s: let that one go on, or end it and run this command again"
      )

  def _acquire(self) -> None:
    found = self._read()
    if found is not None and not self._may_replace(found):
      self._watch(found)
    waited = found is not None and not self._may_replace(found)
    if found is None and not self._claim():
      return self._acquire()  # another was quicker
    if found is not None:
      self._replace()
    if waited:
      # Two newcomers may have waited for the same one: the last to write is the one that stays.
      time.sleep(self._seconds / _RENEWALS)
      if not self._is_ours(now := self._read()):
        raise self._refusal(now)

  def _may_replace(self, found: bytes) -> bool:
    """The lock is ours, so a holder on this machine is dead."""
    return self._locked and _parsed(found).get("machine") == self._machine

  def _watch(self, found: bytes) -> None:
    """Returns once the lease has stood still for as long as it lasts; UserError if it moves."""
    log.warning(
      "%s may be training in %s: watching its lease for up to %.0f s",
      _holder(found), self._path.parent, self._seconds,
    )  # fmt: skip
    deadline = time.monotonic() + self._seconds
    while time.monotonic() < deadline:
      time.sleep(self._seconds / _RENEWALS / 4)
      if (now := self._read()) is None:
        return  # it has ended
      if now != found:
        raise self._refusal(now)
    log.warning("%s gave no sign of life: going on in its place", _holder(found))

  def _refusal(self, now: bytes | None) -> UserError:
    return UserError(
      f"{_holder(now)} is training in {self._path.parent}: wait for it, or give another MODEL_DIR"
    )

  def _renew_for_ever(self) -> None:
    while not self._end.wait(self._seconds / _RENEWALS):
      try:
        self._renew()
      except OSError as error:  # a network file system that hangs, a folder that was removed
        log.debug("cannot renew %s: %s", self._path, error)
      if self._lost_to is not None:
        return

  def _renew(self) -> None:
    """In place, so that the file of whoever took over meanwhile is never touched."""
    with self._renewing:
      try:
        with open(self._path, "r+b") as file:
          found = file.read(_BYTES)
          if not self._is_ours(found):
            self._lost_to = _holder(found)
            return
          self._count += 1
          file.seek(0)
          file.write(self._content())
      except FileNotFoundError:
        # Whoever took over may have ended since. Where the folder itself is gone, saving says so.
        if self._path.parent.is_dir():
          self._lost_to = "another trainer"

  def _read(self) -> bytes | None:
    try:
      with open(self._path, "rb") as file:
        return file.read(_BYTES)
    except FileNotFoundError:
      return None

  def _is_ours(self, found: bytes | None) -> bool:
    return found is not None and _parsed(found).get("token") == self._token

  def _claim(self) -> bool:
    """Makes the file; False where there is one meanwhile."""
    with self._written() as mine:
      try:
        os.link(mine, self._path)
      except FileExistsError:
        return False
      except OSError:  # a file system without hard links
        os.replace(mine, self._path)
    return True

  def _replace(self) -> None:
    with self._written() as mine:
      os.replace(mine, self._path)

  @contextlib.contextmanager
  def _written(self) -> Iterator[Path]:
    path = self._path.with_name(f"{FILE}-{self._token}")
    try:
      path.write_bytes(self._content())
      yield path
    finally:
      path.unlink(missing_ok=True)

  def _content(self) -> bytes:
    lease = {
      "host": socket.gethostname()[:100],
      "pid": os.getpid(),
      "count": self._count,
      "token": self._token,
      "machine": self._machine,
    }
    return json.dumps(lease).encode().ljust(_BYTES)


def machine_id() -> str:
  """Of the running kernel, whose processes a lock can tell apart; host names may be shared."""
  try:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
  except OSError:
    return socket.gethostname()


def _parsed(found: bytes) -> dict:
  """Empty where it is torn or foreign."""
  try:
    lease = json.loads(found)
  except ValueError:
    return {}
  return lease if isinstance(lease, dict) else {}


def _holder(found: bytes | None) -> str:
  lease = _parsed(found or b"")
  return f"process {lease.get('pid', '?')} on {str(lease.get('host', 'another machine'))[:100]}"
