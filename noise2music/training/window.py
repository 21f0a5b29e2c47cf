"""What happened since the last log line: metrics stay on the device until the line is written."""

from collections.abc import Mapping
from typing import Any

import jax


class Window:
  """Collects the metrics of steps and folds them into one row of floats."""

  def __init__(self):
    self._steps: list[Mapping[str, Any]] = []

  def __len__(self) -> int:
    return len(self._steps)

  def add(self, metrics: Mapping[str, Any]) -> None:
    """Adds one step."""
    self._steps.append(metrics)

  def flush(self) -> dict[str, float]:
    """The window's row, and an empty window.

    A scalar becomes its mean over the window's steps. A pair (sum, count) becomes
    sum of sums / sum of counts, and is left out of the row where nothing was counted.
    """
    rows = jax.device_get(self._steps)
    self._steps = []
    totals: dict[str, list[float]] = {}
    for row in rows:
      for name, value in row.items():
        amount, count = value if isinstance(value, tuple) else (value, 1)
        total = totals.setdefault(name, [0.0, 0.0])
        total[0] += float(amount)
        total[1] += float(count)
    return {name: amount / count for name, (amount, count) in totals.items() if count}
