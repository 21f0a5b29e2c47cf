"""An ordered map over a few processes."""

import collections
import concurrent.futures
import itertools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from noise2music.errors import UserError


class Runner:
  """Calls a function on items in `workers` processes, or in this one when `workers` is 1.

  A context manager. Results come in the order of the items, and only a few items are taken ahead
  of the result that is asked for, so an endless iterable is fine.
  """

  def __init__(self, workers: int):
    self._executor = None
    self._ahead = 4 * workers
    if workers > 1:
      # A fork is cheap, but not safe once another library has started threads of its own.
      threaded = {"jax", "tensorflow", "torch"} & set(sys.modules)
      kind = "fork" if sys.platform == "linux" and not threaded else "spawn"
      self._executor = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context(kind),
        initializer=_attend,
        initargs=(os.getpid(),),
      )

  def __call__(self, function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """function(item) of each item, in order.

    Raises:
      UserError: the system stopped a process.
    """
    if self._executor is None:
      yield from map(function, items)
      return
    items = iter(items)
    waiting = collections.deque(
      self._executor.submit(function, item) for item in itertools.islice(items, self._ahead)
    )
    try:
      while waiting:
        result = waiting.popleft().result()
        waiting.extend(self._executor.submit(function, item) for item in itertools.islice(items, 1))
        yield result
    except concurrent.futures.process.BrokenProcessPool as error:
      raise UserError(
        "The system stopped a rendering process, perhaps for want of memory: run the same again "
        "with fewer workers, what is finished is kept."
      ) from error

  def __enter__(self) -> "Runner":
    return self

  def __exit__(self, *_) -> None:
    if self._executor is not None:
      self._executor.shutdown(wait=True, cancel_futures=True)


def _attend(parent: int) -> None:
  """Leaves Ctrl-C to the parent, and ends when the parent is gone, however that was killed."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(1.0)
    os._exit(1)

  threading.Thread(target=watch, name="parent-watch", daemon=True).start()
