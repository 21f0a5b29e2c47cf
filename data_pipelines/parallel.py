"""The local runner: a bounded pool of threads, and progress with time to go.

Threads, because decoding, resampling and hashing run outside Python's global lock; nothing is
pickled, and Ctrl-C reaches one process only. For many machines see `ingest_beam`.
"""

import collections
import concurrent.futures
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

# progress(label, total, already done) -> context with advance(amount); a total of 0 is unknown.
Advance: TypeAlias = Callable[[float], None]
Progress: TypeAlias = Callable[[str, float, float], AbstractContextManager[Advance]]


def default_workers() -> int:
  """Cores that this process may use."""
  usable = getattr(os, "sched_getaffinity", None)
  return len(usable(0)) if usable else os.cpu_count() or 1


def ordered_map(
  function: Callable[[In], Out],
  items: Iterable[In],
  *,
  workers: int | None = None,
  on_stop: Callable[[], object] = lambda: None,
) -> Iterator[Out]:
  """`map` on threads: results in the order of `items`, at most four items a thread in flight.

  When the consumer stops, an item raises, or Ctrl-C arrives, items not begun are dropped, `on_stop`
  is called, and items that run are waited for, so that nothing is half done afterwards.
  """
  workers = workers or default_workers()
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    waiting = collections.deque()
    try:
      for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= 4 * workers:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      on_stop()
      pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def no_progress(label: str, total: float, done: float = 0.0) -> Iterator[Advance]:
  """Says nothing."""
  yield lambda amount: None


@contextmanager
def terminal_progress(label: str, total: float, done: float = 0.0) -> Iterator[Advance]:
  """A bar with time to go on a terminal, else a line every ten seconds, both on stderr.

  Time to go comes from the pace of this run alone: what an earlier run had `done` does not count.
  """
  if not sys.stderr.isatty():
    yield _lines(label, total, done)
    return
  from rich.console import Console
  from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

  columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
  with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
    task = bar.add_task(label, total=total or None, completed=done)
    yield lambda amount: bar.advance(task, amount)


def _lines(label: str, total: float, done: float, *, every_seconds: float = 10.0) -> Advance:
  begin = said = time.monotonic()
  now_done = done

  def advance(amount: float) -> None:
    nonlocal now_done, said
    now_done += amount
    now = time.monotonic()
    if now - said >= every_seconds and now_done > done:
      said = now
      pace = (now_done - done) / (now - begin)
      left = f"{now_done / total:.0%}, {(total - now_done) / pace:.0f} s to go" if total else ""
      print(f"{label}: {left or f'{now_done:.0f} done'}", file=sys.stderr, flush=True)

  return advance
