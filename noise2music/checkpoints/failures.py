"""Saves that fail: what is wrong, whether it may pass, and how long to wait until it has."""

import errno
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from noise2music.typing import PyTree

_INCOMPRESSIBLE = 0.8  # orbax packs arrays, but never to less than this share of their size
_STOPPING_SECONDS = 4.0  # that a run which was told to stop waits in all
_BLINK_SECONDS = 0.05
_TOO_LARGE = "File too large"  # a limit of the process itself: it stays
_TROUBLES = (  # a sign in the message, what is wrong, what mends it
  ("No space left", "no space left on the disk", "make room"),
  ("RESOURCE_EXHAUSTED", "no space left on the disk", "make room"),
  (_TOO_LARGE, "the file size limit is reached", "raise it by `ulimit -f unlimited`"),
  ("Permission denied", "no permission to write there", "grant it"),
  ("Read-only file system", "the file system is read only", "mount it to be written"),
  ("No such file or directory", "the folder is gone", "bring it back"),
  ("NOT_FOUND", "the folder is gone", "bring it back"),
)


class SaveError(OSError):
  """A checkpoint could not be written; the ones before it are intact."""


class Patience:
  """Counts failures in a row, and pauses between them.

  attempts: in all. pause_seconds: between two of them. stopping: whether the run has been told to
  end; from then on the pauses together last a few seconds at most.
  """

  def __init__(self, *, attempts: int, pause_seconds: float, stopping: Callable[[], bool]):
    self.pause_seconds = pause_seconds
    self._attempts, self._stopping = attempts, stopping
    self.failures, self._told = 0, None

  @property
  def left(self) -> int:
    return self._attempts - self.failures

  def again(self, error: Exception) -> bool:
    """Counts this failure. True where another attempt is due, on all processes or on none."""
    self.failures += 1
    return not agree(self.left < 1 or self._out_of_time() or not may_pass(error))

  def pause(self) -> None:
    """Before an attempt that is not the first."""
    end = time.monotonic() + self.pause_seconds * (self.failures > 0)
    while time.monotonic() < end and not self._out_of_time():
      time.sleep(_BLINK_SECONDS)

  def forget(self) -> None:
    """What failed is over: saved, or given up."""
    self.failures, self._told = 0, None

  def _out_of_time(self) -> bool:
    if not self._stopping():
      return False
    self._told = self._told or time.monotonic()
    return time.monotonic() > self._told + _STOPPING_SECONDS


def agree(here: bool) -> bool:
  """Whether it is so in any of the processes, all of which must ask."""
  if jax.process_count() == 1:
    return here
  return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def may_pass(error: Exception) -> bool:
  """Whether a disk, a mount or a right is what is missing, rather than the code being wrong."""
  text = str(error)
  known = isinstance(error, OSError) or any(sign in text for sign, _, _ in _TROUBLES)
  return known and _TOO_LARGE not in text


def reason(error: Exception) -> tuple[str, str]:
  """What is wrong, and what mends it."""
  text = str(error)
  for sign, what, mend in _TROUBLES:
    if sign in text:
      return what, mend
  return (text.splitlines()[0] if text else type(error).__name__), "mend that"


def check_place(folder: Path, items: Mapping[str, PyTree]) -> None:
  """Before orbax begins: a disk that fills under its threads makes it print without end, and a
  folder that it cannot make keeps the process from ending for many minutes. Raises OSError.
  """
  with tempfile.TemporaryFile(dir=folder):
    pass
  needed = sum(
    shard.data.nbytes
    for leaf in jax.tree.leaves(dict(items))
    for shard in getattr(leaf, "addressable_shards", ())
    if shard.replica_id == 0
  )
  free = shutil.disk_usage(folder).free
  if free < _INCOMPRESSIBLE * needed:
    raise OSError(
      errno.ENOSPC, f"No space left: {needed / 1e6:,.0f} MB needed, {free / 1e6:,.0f} MB free"
    )
