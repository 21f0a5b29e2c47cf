"""What a person at the terminal sees: a bar where there is a terminal, plain lines elsewhere.

Speed and time to go count from the end of the first step, so compilation is in neither; the time
to go includes saving and sampling, because the person waits for those too.
"""

import sys
import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
  def say(self, line: str) -> None:
    """One line that stays."""

  def update(self, step: int, row: dict[str, float] | None) -> None:
    """After each step; `row` when metrics were just logged."""

  def close(self) -> None: ...


class Clock:
  """Steps a second and seconds to go.

  `pause` takes time out of the speed (not out of the time to go): saving and sampling.
  """

  def __init__(
    self, *, start_step: int, total_steps: int, now: Callable[[], float] = time.monotonic
  ):
    self._now = now
    self._total = total_steps
    self._first: tuple[float, int] | None = None
    self._mark = (now(), start_step)
    self._paused = 0.0

  def tick(self, step: int) -> None:
    """After each step."""
    if self._first is None:
      self._first = self._mark = (self._now(), step)
      self._paused = 0.0

  def pause(self, seconds: float) -> None:
    self._paused += seconds

  def speed(self, step: int) -> float | None:
    """Steps a second since the last call, None before there is one to speak of."""
    since, then = self._mark
    seconds = self._now() - since - self._paused
    if step <= then or seconds <= 0:
      return None
    self._mark, self._paused = (self._now(), step), 0.0
    return (step - then) / seconds

  def seconds_to_go(self, step: int) -> float | None:
    if self._first is None or step <= self._first[1]:
      return None
    since, then = self._first
    return (self._now() - since) / (step - then) * (self._total - step)


def duration(seconds: float | None) -> str:
  """65 -> "1:05", 3700 -> "1:01:40", None -> "-"."""
  if seconds is None:
    return "-"
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class PlainProgress:
  """One line for every row of metrics."""

  def __init__(self, clock: Clock, *, total_steps: int, stream=None):
    self._clock, self._total = clock, total_steps
    self._stream = stream or sys.stderr

  def say(self, line: str) -> None:
    print(line, file=self._stream, flush=True)

  def update(self, step: int, row: dict[str, float] | None) -> None:
    if row is not None:
      togo = duration(self._clock.seconds_to_go(step))
      self.say(f"step {step}/{self._total}  {describe_row(row)}  {togo} to go")

  def close(self) -> None:
    pass


class RichProgress:
  """A bar that stays at the bottom of the terminal."""

  def __init__(self, clock: Clock, *, start_step: int, total_steps: int):
    from rich import progress

    self._clock = clock
    self._bar = progress.Progress(
      progress.TextColumn("step"),
      progress.MofNCompleteColumn(),
      progress.BarColumn(),
      progress.TextColumn("{task.fields[row]}  {task.fields[togo]} to go"),
    )
    self._bar.start()
    self._task = self._bar.add_task(
      "train", total=total_steps, completed=start_step, row="compiling", togo="-"
    )

  def say(self, line: str) -> None:
    self._bar.console.print(line, markup=False, highlight=False)

  def update(self, step: int, row: dict[str, float] | None) -> None:
    fields = {"togo": duration(self._clock.seconds_to_go(step))}
    if row is not None:
      fields["row"] = describe_row(row)
    self._bar.update(self._task, completed=step, **fields)

  def close(self) -> None:
    self._bar.stop()


def describe_row(row: dict[str, float]) -> str:
  parts = [f"loss {row['loss']:.4f}"] if "loss" in row else []
  if "steps_per_second" in row:
    parts.append(f"{row['steps_per_second']:.3g} steps/s")
  if row.get("left_out"):
    parts.append(f"{row['left_out']:.0%} of updates left out (not finite)")
  return "  ".join(parts)


def make_progress(clock: Clock, *, start_step: int, total_steps: int) -> Progress:
  if sys.stderr.isatty() and sys.stdout.isatty():
    return RichProgress(clock, start_step=start_step, total_steps=total_steps)
  return PlainProgress(clock, total_steps=total_steps)
