"""The table of parameters that goes into MODEL_DIR/model-info.txt."""

from collections.abc import Mapping

import numpy as np

from noise2music.checkpoints.leaves import named_leaves
from noise2music.training.setup import Setup


def parameter_counts(setup: Setup) -> dict[str, int]:
  """{"trained": n, "frozen": n} in numbers, not bytes."""
  counts = {"trained": 0, "frozen": 0}
  mask = named_leaves(setup.mask)
  for path, leaf in named_leaves(setup.shapes.params).items():
    counts["trained" if mask[path] else "frozen"] += int(np.prod(leaf.shape))
  return counts


def describe(setup: Setup) -> str:
  """One line a parameter: path, shape, dtype, how it is split, whether it trains; then sums."""
  mask = named_leaves(setup.mask)
  rows = [("parameter", "shape", "dtype", "count", "split", "trained")]
  for path, leaf in named_leaves(setup.shapes.params).items():
    split = ", ".join(str(a) for a in leaf.sharding.spec) or "-"
    shape, count = "x".join(map(str, leaf.shape)) or "1", f"{int(np.prod(leaf.shape)):,}"
    rows.append((path, shape, str(leaf.dtype), count, split, "yes" if mask[path] else "no"))
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
  inputs = [f"batch[{k!r}]  {s.dtype}{list(s.shape)}" for k, s in setup.batch.items()]
  mesh = " ".join(f"{axis}={n}" for axis, n in setup.mesh.shape.items())
  return "\n".join([*lines, "", summary(parameter_counts(setup)), f"mesh: {mesh}", *inputs, ""])


def summary(counts: Mapping[str, int]) -> str:
  total = sum(counts.values())
  return f"{total:,} parameters, {counts['trained']:,} of them trained"
