"""Clips cut into pieces along time, which lie in the batch as rows of their own.

A TPU lays eight rows of a signal side by side; with fewer it computes on padding, several times
slower. So a network may cut each clip into pieces: [batch, time, channels] -> [batch * pieces,
time / pieces, channels], the pieces of a clip one after the other. Layers that look along time take
`pieces` and give what they give of the whole clip: convolutions fetch the edges of the neighbouring
pieces, norms take the statistics of all pieces, attention joins them.
"""

from typing import NamedTuple

import jax.numpy as jnp

from noise2music.nn import axes
from noise2music.nn.platform import platform
from noise2music.typing import Array, Pieces, Signal

ROWS = 8  # that a TPU computes at once
MOST_PIECES = 2 * ROWS
# Below these, what the edges of pieces cost is more than what cutting saves.
SHORTEST = 256  # steps of a piece
LEAST_SHARE = 0.75  # of the rows, which are then not padding


class Edged(NamedTuple):
  """Pieces, and their edges computed on their own, at least as long as convolutions reach.

  XLA computes what has several readers once and puts it away. Edges of their own leave `whole` one
  reader, the convolution that it is then computed in.
  """

  whole: Pieces
  head: Pieces
  tail: Pieces


def reach(kernel_size: int) -> tuple[int, int]:
  """How far a centred kernel reaches back and forth."""
  return (kernel_size - 1) // 2, kernel_size // 2


def cut(x: Signal, pieces: int) -> Pieces:
  """[batch, time, c] -> [batch * pieces, time / pieces, c]; time must divide."""
  return x.reshape(x.shape[0] * pieces, x.shape[1] // pieces, x.shape[2])


def join(x: Pieces, pieces: int) -> Signal:
  """The inverse of `cut`."""
  return x.reshape(x.shape[0] // pieces, x.shape[1] * pieces, x.shape[2])


def before(edge: Pieces, pieces: int) -> Pieces:
  """For each piece that of the piece before it, zeros for the first of a clip."""
  of_clips = edge.reshape(-1, pieces, *edge.shape[1:])
  return jnp.pad(of_clips[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0))).reshape(edge.shape)


def after(edge: Pieces, pieces: int) -> Pieces:
  """For each piece that of the piece after it, zeros for the last of a clip."""
  of_clips = edge.reshape(-1, pieces, *edge.shape[1:])
  return jnp.pad(of_clips[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0))).reshape(edge.shape)


def recut(x: Pieces, pieces: int, into: int) -> Array:
  """From pieces of one number to pieces of another."""
  return x if pieces == into else cut(join(x, pieces), into)


def best_count(*, clips: int, length: int) -> int:
  """Into how many pieces the platform at hand wants a batch of clips to be cut.

  Args:
    clips: of all devices.
    length: of each.
  """
  if platform() != "tpu" or axes.shards(axes.TIME) > 1:
    return 1
  return _fullest(rows=max(1, clips // axes.shards(axes.BATCH)), length=length)


def _fullest(*, rows: int, length: int) -> int:
  """The smallest number of pieces with which the least of a chip's rows are padding; 1 where too
  many would be.

  rows: of a device.
  """
  fits = [
    n for n in range(1, MOST_PIECES + 1) if length % n == 0 and (n == 1 or length // n >= SHORTEST)
  ]
  share = lambda n: rows * n / (-(-rows * n // ROWS) * ROWS)  # noqa: E731
  best = max(fits, key=lambda n: (share(n), -n))
  return best if share(best) >= LEAST_SHARE else 1
