"""MODEL_DIR: made, locked against a second trainer, and told what is trained in it."""

import os
from pathlib import Path

import jax

from noise2music.errors import UserError

try:
  import fcntl
except ImportError:  # Windows: no lock, the rest works.
  fcntl = None


class RunFolder:
  """Context manager; `path` is the folder. The lock dies with the process, whatever kills it."""

  def __init__(self, path: Path):
    self.path = path.expanduser().absolute()
    self._lock = None

  def __enter__(self) -> "RunFolder":
    if "://" in str(self.path) or ":/" in str(self.path):
      raise UserError(f"{self.path} is not a local path: mount the bucket and give its folder")
    try:
      self.path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
      raise UserError(f"{self.path} is not a folder: give another MODEL_DIR") from None
    if fcntl is not None and jax.process_index() == 0:
      self._lock = open(self.path / ".lock", "w")
      try:
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        self._lock.close()
        raise UserError(
          f"another process is training in {self.path}: wait for it, or give another MODEL_DIR"
        ) from None
    return self

  def __exit__(self, *_) -> None:
    if self._lock is not None:
      self._lock.close()

  def write_texts(self, *, config: str, model: str) -> None:
    """config.gin (where there is one) and model-info.txt."""
    if jax.process_index() != 0:
      return
    for name, text in (("config.gin", config), ("model-info.txt", model)):
      if text:
        temporary = self.path / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path / name)
