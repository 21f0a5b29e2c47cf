import threading
import time

import pytest

from data_pipelines.parallel import ordered_map


def test_results_keep_the_order_of_their_items() -> None:
  def slow_first(n: int) -> int:
    time.sleep(0.05 if n == 0 else 0)
    return n * n

  assert list(ordered_map(slow_first, range(20), workers=4)) == [n * n for n in range(20)]


def test_no_more_than_four_items_a_thread_are_taken_ahead() -> None:
  taken = []

  def items():
    for n in range(1_000):
      taken.append(n)
      yield n

  results = ordered_map(lambda n: n, items(), workers=2)
  assert next(results) == 0
  assert len(taken) <= 8
  results.close()


def test_an_error_stops_the_rest_and_is_raised() -> None:
  begun, stopped = [], threading.Event()

  def fails(n: int) -> int:
    begun.append(n)
    if n == 3:
      raise ValueError("three")
    return n

  with pytest.raises(ValueError, match="three"):
    list(ordered_map(fails, range(1_000), workers=2, on_stop=stopped.set))
  assert stopped.is_set()
  assert len(begun) < 50
