"""MODEL_DIR: made, locked against a second trainer, and told what is trained in it."""

import contextlib
import os
from pathlib import Path

import jax

from noise2music.errors import UserError
from noise2music.training.lease import Lease

try:
  import fcntl
except ImportError:  # Windows: no lock, the rest works.
  fcntl = None


class RunFolder:
  """Context manager; `path` is the folder. The lock dies with the process, whatever kills it.

  lease_seconds: see `Lease`, which guards the folder against trainers on other machines.
  """

  def __init__(self, path: Path, *, lease_seconds: float = 60.0):
    self.path = path.expanduser().absolute()
    self._lease_seconds = lease_seconds
    self._lease: Lease | None = None
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> "RunFolder":
    if "://" in str(self.path) or ":/" in str(self.path):
      raise UserError(f"{self.path} is not a local path: mount the bucket and give its folder")
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
      raise UserError(f"{self.path} is not a folder: give another MODEL_DIR") from None
    if jax.process_index() == 0:
      with contextlib.ExitStack() as stack:
        lease = Lease(self.path, seconds=self._lease_seconds, locked=self._lock(stack))
        self._lease = stack.enter_context(lease)
        self._stack = stack.pop_all()
    return self

  def __exit__(self, *_) -> None:
    self._stack.close()

  def check(self, *, now: bool = False) -> None:
    """Raises UserError where a trainer on another machine has taken over; see `Lease.check`."""
    if self._lease is not None:
      self._lease.check(now=now)

  def _lock(self, stack: contextlib.ExitStack) -> bool:
    """False where the file system has no locks. Raises UserError where another process has it."""
    if fcntl is None:
      return False
    lock = stack.enter_context((self.path / ".lock").open("w"))
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f"another process is training in {self.path}: wait for it, or give another MODEL_DIR"
      ) from None
    except OSError:
      return False
    return True

  def write_texts(self, *, config: str, model: str) -> None:
    """config.gin (where there is one) and model-info.txt."""
    if jax.process_index() != 0:
      return
    for name, text in (("config.gin", config), ("model-info.txt", model)):
      if text:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path / name)
