"""Windowed joint denoising: a network runs on overlapping windows of a clip, never on all of it.

What is sampled stays the clip: x_t, its noise, guidance, clipping and the solver are those of the
whole, and every step's eps is put together from the windows' (MultiDiffusion, Bar-Tal et al.,
2023, with the weights of a cross-fade in place of equal ones). From left to right, with r the
raised cosine that rises from 0 to 1 in the middle of what a window shares with the one before it,

  eps <- eps + r (eps_window - eps)    where the window lies,

so that the weights sum to 1 at every step of the clip, and where windows agree eps is theirs bit
for bit. The network's memory is that of `at_once` windows, however long the clip is.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from noise2music.typing import Array, EpsFn, Level, OtherSignal, Signal

Signals: TypeAlias = Mapping[str, OtherSignal]  # what a network listens to, [batch, _, _] each
# (x_t, t, signals) -> eps, each of the same stretch of time
HearingEpsFn: TypeAlias = Callable[[Signal, Level, Signals], Signal]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
  """Where the windows lie on a clip of `steps`, all in steps.

  length: of each window. overlap: of two neighbours, at least. multiple: every window starts at a
  multiple of it, so that what is so much slower than the clip can be cut along with it; it divides
  `length` and `steps`. at_once: windows in one call of the network.

  Raises ValueError, when built, where no windows lie so.
  """

  steps: int
  length: int
  overlap: int
  multiple: int = 1
  at_once: int = 1

  def __post_init__(self):
    if self.length % self.multiple or self.steps % self.multiple or self.multiple < 1:
      raise ValueError(f"multiple must divide length and steps, got {self}")
    if not self.multiple <= self.length <= self.steps or self.at_once < 1:
      raise ValueError(f"windows are no longer than the clip, and at least one runs, got {self}")
    if not 0 <= self.overlap <= self.length - self.multiple:
      raise ValueError(f"overlap must be at least 0 and leave a window a step on, got {self}")

  @property
  def starts(self) -> tuple[int, ...]:
    """Evenly spread: the first window starts the clip, the last one ends it."""
    multiple = self.multiple
    hop = (self.length - self.overlap) // multiple  # in multiples, as all below
    last = (self.steps - self.length) // multiple
    count = -(-last // hop)
    return tuple(multiple * (index * last // max(1, count)) for index in range(count + 1))

  @property
  def fades(self) -> tuple[int, ...]:
    """Where in each window its cross-fade begins; `overlap` before the first, which fades in
    nowhere."""
    pairs = zip(self.starts, self.starts[1:], strict=False)
    shared = (before + self.length - start for before, start in pairs)
    return (-self.overlap, *((both - self.overlap) // 2 for both in shared))

  @property
  def calls(self) -> int:
    """Of the network, each with `at_once` windows."""
    return -(-len(self.starts) // self.at_once)


def windowed(eps_fn: HearingEpsFn, *, windows: Windows, signals: Signals) -> EpsFn:
  """eps of whole clips from a network that sees windows of them.

  signals: of the whole clips, as long as they are or so many times shorter as `windows.multiple`
  allows; each window is given its own stretch.
  """
  table = _table(windows)
  ramp = jnp.asarray(_ramp(length=windows.length, overlap=windows.overlap))

  def whole(x_t: Signal, t: Level) -> Signal:
    if x_t.shape[1] != windows.steps:
      raise ValueError(f"the windows lie on {windows.steps} steps, x_t has {x_t.shape[1]}")

    def of_window(start: jax.Array) -> jax.Array:
      cut = lambda s: _cut(s, start, windows=windows)  # noqa: E731
      return jnp.asarray(eps_fn(cut(x_t), t, jax.tree.map(cut, dict(signals))), jnp.float32)

    def turn(eps: jax.Array, row: dict[str, jax.Array]) -> tuple[jax.Array, None]:
      if windows.at_once == 1:
        made = of_window(row["start"][0])[None]
      else:
        made = jax.vmap(of_window)(row["start"])
      for index in range(windows.at_once):
        rise = jax.lax.dynamic_slice(ramp, (row["rise"][index],), (windows.length,))
        eps = _faded_in(eps, made[index], start=row["start"][index], rise=rise)
      return eps, None

    return jax.lax.scan(turn, jnp.zeros(x_t.shape, jnp.float32), table)[0]

  return whole


def _table(windows: Windows) -> dict[str, jax.Array]:
  """[calls, at_once] of where each window starts, and where on the ramp.

  The last call is filled up with the last window, with a rise of zero throughout.
  """
  starts, fades = (np.asarray(row, np.int32) for row in (windows.starts, windows.fades))
  missing = windows.calls * windows.at_once - len(starts)
  starts = np.pad(starts, (0, missing), mode="edge")
  fades = np.pad(fades, (0, missing), constant_values=windows.length)
  by_call = lambda row: jnp.asarray(row.reshape(-1, windows.at_once))  # noqa: E731
  return {"start": by_call(starts), "rise": by_call(windows.length - fades)}


def _ramp(*, length: int, overlap: int) -> Float[np.ndarray, "steps"]:
  """`length` zeros, the raised cosine, ones: a window is given `length` of them, from where its
  fade begins at the right place."""
  rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / max(1, overlap))
  return np.concatenate([np.zeros(length), rise, np.ones(length)]).astype(np.float32)


def _cut(signal: OtherSignal, start: jax.Array, *, windows: Windows) -> Float[Array, "batch _ _"]:
  """A window's stretch of what is as long as the clip, or a whole number of times shorter."""
  ratio, rest = divmod(windows.steps, signal.shape[1])
  if rest or windows.multiple % ratio:
    raise ValueError(f"{signal.shape[1]} steps cannot be cut along with {windows}")
  return jax.lax.dynamic_slice_in_dim(signal, start // ratio, windows.length // ratio, axis=1)


def _faded_in(eps: jax.Array, made: jax.Array, *, start: jax.Array, rise: jax.Array) -> jax.Array:
  before = jax.lax.dynamic_slice_in_dim(eps, start, len(rise), axis=1)
  rise = rise[:, None]
  # Not by arithmetic where a window stands alone: before + 1 (made - before) would round.
  after = jnp.where(rise == 1, made, before + rise * (made - before))
  return jax.lax.dynamic_update_slice_in_dim(eps, after, start, axis=1)
