"""Batches that had no finite loss or gradient, twice: their clips are written down."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from noise2music.batch import CLIP_ID
from noise2music.errors import UserError
from noise2music.typing import BatchSource

NAME = "quarantine.jsonl"


class Quarantine:
  """MODEL_DIR/quarantine.jsonl: a line for each batch, with its step and its clips.

  start_step: where the run goes on; what it did after that, before it was killed, is done anew and
  written anew. most: batches that a run may leave out.
  """

  def __init__(self, folder: Path, *, start_step: int, most: int, batches: BatchSource):
    self._path = folder / NAME
    self._most = most
    self._batches = batches
    # Counted by the first process, since another may not see its file.
    self._count = int(multihost_utils.broadcast_one_to_all(np.int32(self._forget(start_step))))

  def add(self, step: int, batch: Mapping[str, jax.Array], metrics: Mapping[str, Any]) -> str:
    """Writes it down; a sentence on it. All processes call it, the first one writes.

    Raises UserError where these are too many.
    """
    self._count += 1
    clips = self._clips(step, batch)
    norm = float(metrics["gradient_norm"])
    row = {"step": step, "loss": str(float(metrics["loss"])), "gradient_norm": str(norm)}
    if jax.process_index() == 0:
      with open(self._path, "a", encoding="utf-8") as out:
        out.write(json.dumps({**row, "clips": clips}) + "\n")
    if self._count > self._most:
      raise UserError(
        f"{self._count} batch{'es' * (self._count > 1)} up to step {step} had no finite loss or"
        " gradient, twice each: "
        f"look at the clips in {self._path}, or lower the learning rate"
      )
    return f"step {step} had no finite loss or gradient, twice: left out, its clips in {self._path}"

  def _clips(self, step: int, batch: Mapping[str, jax.Array]) -> Sequence[str]:
    """Names where the source knows them, else ids; of the global batch."""
    if hasattr(self._batches, "names"):
      return self._batches.names(step)
    if CLIP_ID not in batch:
      return ()
    ids = np.asarray(multihost_utils.process_allgather(batch[CLIP_ID], tiled=True))
    return [f"{first:08x}{second:08x}" for first, second in ids.tolist()]

  def _forget(self, start_step: int) -> int:
    """How many rows are of earlier steps; the others leave the file."""
    if not self._path.exists():
      return 0
    rows = [json.loads(line) for line in self._path.read_text().splitlines() if line.endswith("}")]
    kept = [row for row in rows if row["step"] < start_step]
    if jax.process_index() == 0 and kept != rows:
      temporary = self._path.with_suffix(".tmp")
      temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
      os.replace(temporary, self._path)
    return len(kept)
