"""How a process of a run ends otherwise than by returning: at once, with a status and a sentence.

  2    an error that the message says how to mend    124  a phase hung (`watchdog`)
  75   another process was lost (`liveness`)         130  Ctrl-C        143  SIGTERM

By os._exit, since the main thread may be held by what is the matter, and jax waits at exit for
processes that are gone. Nothing on disk is torn: a checkpoint counts once its commit file is there.
"""

import os
from collections.abc import Callable
from pathlib import Path

from noise2music.checkpoints.manager import COMMIT_FILE

LOST = 75  # EX_TEMPFAIL of sysexits.h: try again
HUNG = 124  # as of timeout(1)

Leave = Callable[[int, str], None]  # (status, cause) -> never


def alone(checkpoints: Path) -> Leave:
  """The way out of a process that has no others."""

  def leave(status: int, cause: str) -> None:
    say(go_on(cause, checkpoints))
    os._exit(status)

  return leave


def say(sentence: str) -> None:
  """On stderr, past Python's buffers and their locks."""
  os.write(2, f"\nerror: {sentence}\n".encode())


def go_on(cause: str, checkpoints: Path | None) -> str:
  """The cause, and the mend."""
  step = newest(checkpoints)
  where = "from the beginning" if step is None else f"from checkpoint {step}"
  return f"{cause}: run the same command again to go on {where}"


def newest(checkpoints: Path | None) -> int | None:
  """The newest step on disk that is whole."""
  return max((step for step, whole in _steps(checkpoints) if whole), default=None)


def under_way(checkpoints: Path | None) -> bool:
  """Whether a step is being written."""
  return not all(whole for _, whole in _steps(checkpoints))


def _steps(checkpoints: Path | None) -> list[tuple[int, bool]]:
  try:
    found = [p for p in checkpoints.iterdir() if p.name.isdigit()] if checkpoints else []
  except OSError:
    return []
  return [(int(p.name), (p / COMMIT_FILE).exists()) for p in found]
