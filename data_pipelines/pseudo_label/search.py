"""The nearest of millions of captions, exactly, in memory that two chunk sizes bound.

Captions stream past in chunks, from a memory map to the device. There, a chunk's scores (one
matrix product) are reduced to their best, by blocks: the best k scores lie within the k blocks
whose maxima are highest, so only maxima and k blocks are sorted.

float32 products depend on shapes and device in their last digits, and labels must not. So a few
more than needed are fetched, and these scored again: float64, one row at a time, rounded to
DIGITS; ties go to the smaller caption id. The last one fetched bounds what was left behind, with
the rounding of float32 allowed for; where that does not decide (many equal captions), the clip is
searched again in float64.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.pseudo_label.store import Store

DIGITS = 6
SPARE = 8
_BLOCK = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
  """captions, clips: in one product, so its scores take 4 * captions * clips bytes."""

  captions: int = 32_768
  clips: int = 512

  def __call__(
    self,
    clips: np.ndarray,
    store: Store,
    *,
    depth: int,
    allowed: np.ndarray | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """The `depth` best captions of each clip, best first.

    clips: float32 [clips, width], rows of length 1. allowed: bool [captions], all where left out.

    Returns:
      int64 [clips, depth] rows of the store and float64 [clips, depth] cosines; -1 and -inf where
      fewer captions are allowed.
    """
    rows = np.full((len(clips), depth), -1, np.int64)
    scores = np.full((len(clips), depth), -np.inf)
    for start in range(0, len(clips), self.clips):
      part = slice(start, start + self.clips)
      rows[part], scores[part] = self._batch(
        np.asarray(clips[part], np.float32), store, depth=depth, allowed=allowed
      )
    return rows, scores

  def _batch(self, clips, store: Store, *, depth: int, allowed) -> tuple[np.ndarray, np.ndarray]:
    fetched = depth + SPARE
    found_rows, found_scores = self._fetch(clips, store, fetched=fetched, allowed=allowed)
    rows = np.full((len(clips), depth), -1, np.int64)
    scores = np.full((len(clips), depth), -np.inf)
    # Both sums of `width` products of unit vectors may be off by this much.
    slack = 4 * clips.shape[1] * float(np.finfo(np.float32).eps) + 10.0**-DIGITS
    vectors = store.rows(np.maximum(found_rows, 0).ravel()).reshape(*found_rows.shape, -1)
    for clip in range(len(clips)):
      there = found_scores[clip] > -np.inf
      mine = found_rows[clip][there]
      best = _ranked(clips[clip], vectors[clip][there], mine, store.ids)[:depth]
      if len(mine) == fetched and found_scores[clip, -1] + slack >= best[-1][0]:
        best = self._search_again(clips[clip], store, depth=depth, allowed=allowed)
      rows[clip, : len(best)] = [row for _, _, row in best]
      scores[clip, : len(best)] = [score for score, _, _ in best]
    return rows, scores

  def _fetch(self, clips, store: Store, *, fetched: int, allowed) -> tuple[np.ndarray, np.ndarray]:
    count, width = clips.shape
    padded = np.zeros((self.clips if count > 1 else 1, width), np.float32)
    padded[:count] = clips
    on_device = jnp.asarray(padded)
    size = self._chunk(store, fetched)
    best = jnp.full((len(padded), fetched), -jnp.inf), jnp.full((len(padded), fetched), -1)
    first = 0
    for chunk in store.chunks(size):
      have, valid = len(chunk), np.zeros(size, bool)
      valid[:have] = True if allowed is None else allowed[first : first + have]
      if have < size:
        chunk = np.pad(chunk, [(0, size - have), (0, 0)])
      best = _step(best, on_device, np.asarray(chunk), valid, first)
      first += have
    scores, rows = best
    return np.asarray(rows)[:count], np.asarray(scores)[:count]

  def _chunk(self, store: Store, fetched: int) -> int:
    """Rows of a chunk: no more than there are, and whole blocks, enough to fetch from."""
    most = max((len(shard) for shard in store.shards), default=1)
    size = max(min(self.captions, most), fetched)
    return -(-size // _BLOCK) * _BLOCK

  def _search_again(self, clip, store: Store, *, depth: int, allowed) -> list:
    best, first = [], 0
    for chunk in store.chunks(self.captions):
      rows = np.arange(first, first + len(chunk))
      first += len(chunk)
      if allowed is not None:
        rows, chunk = rows[allowed[rows]], chunk[allowed[rows]]
      if len(best) == depth:
        as_good = cosines(clip, chunk) >= best[-1][0]
        rows, chunk = rows[as_good], chunk[as_good]
      best = sorted([*best, *_ranked(clip, chunk, rows, store.ids)], key=_order)[:depth]
    return best


def _order(found: tuple[float, str, int]) -> tuple[float, str]:
  return -found[0], found[1]


def cosines(clip: np.ndarray, captions: np.ndarray) -> np.ndarray:
  """float32 [width], [n, width] -> float64 [n], rounded; the same for a row wherever it stands."""
  products = captions.astype(np.float64) * clip.astype(np.float64)
  return np.round(np.ascontiguousarray(products).sum(axis=1), DIGITS) + 0.0  # no minus zero


def _ranked(
  clip: np.ndarray, captions: np.ndarray, rows: np.ndarray, ids: Sequence[str]
) -> list[tuple[float, str, int]]:
  scores = cosines(clip, captions)
  found = [(float(s), ids[row], int(row)) for s, row in zip(scores, rows, strict=True)]
  return sorted(found, key=_order)


@functools.partial(jax.jit, donate_argnums=0)
def _step(best, clips, captions, valid, first):
  """Merges the best of a chunk of captions into the best so far."""
  best_scores, best_rows = best
  count, fetched = best_scores.shape
  scores = jnp.matmul(clips, captions.T, precision="highest")
  scores = jnp.where(valid, scores, -jnp.inf).reshape(count, -1, _BLOCK)
  blocks = min(fetched, scores.shape[1])
  _, chosen = jax.lax.top_k(scores.max(axis=-1), blocks)
  scores = jnp.take_along_axis(scores, chosen[:, :, None], axis=1).reshape(count, -1)
  rows = (chosen[:, :, None] * _BLOCK + jnp.arange(_BLOCK)).reshape(count, -1) + first
  scores, places = jax.lax.top_k(scores, min(fetched, scores.shape[1]))
  rows = jnp.take_along_axis(rows, places, axis=1)
  scores = jnp.concatenate([best_scores, scores], axis=1)
  rows = jnp.concatenate([best_rows, rows], axis=1)
  scores, places = jax.lax.top_k(scores, fetched)
  return scores, jnp.take_along_axis(rows, places, axis=1)
