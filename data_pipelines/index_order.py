"""Which example is the g-th of a training run: a pure function of (seed, g), numpy alone.

A run reads global indices g = 0, 1, 2, ...; step s with batch size B reads g = s B ... s B + B - 1,
whatever the number of hosts. So a position in the data is one integer, jumping to it costs
nothing, and no state but the step has to be saved.

*One source of n clips.* Epoch e = g // n. Inside it, k = P(g mod n), where P is a permutation of
0 ... n-1 drawn for (seed, e): every clip comes exactly once an epoch, and each epoch has an order
of its own.

*The permutation* is a Feistel network. Take the smallest h >= 1 with 4^h >= n and write an index as
two halves (L, R) of h bits. ROUNDS times: (L, R) <- (R, L xor F(R)), where F(R) is the low h bits
of mix(R xor key_i) and key_i = draw(seed, "order", source, e, i). That permutes 0 ... 4^h - 1
whatever F is. A result of n or more goes through the network again until it is below n; since
4^h < 4 n, fewer than four passes are expected on average. `mix` is the finaliser of splitmix64
(Steele et al. 2014, "Fast splittable pseudorandom number generators").

*Several sources with weights.* Weights become whole numbers c_i that add up to a block of M
indices (the smallest M <= 4096 that states them exactly, else the nearest of 4096). In block
b = g // M a permutation of its own drawn for (seed, b) hands out the M places, c_i of them to
source i, so source i is asked for its position b c_i + rank: again no state, again every clip of a
source exactly once per epoch of that source, and the proportions hold in every block.

The order is part of what a checkpoint means. Changing anything here needs a new ORDER_VERSION.
"""

import dataclasses
import functools
import hashlib

import numpy as np

from noise2music.errors import UserError

ORDER_VERSION = 1
ROUNDS = 6
_LONGEST_BLOCK = 4096
_64_BITS = (1 << 64) - 1


def draw(seed: int, *names: str | int) -> int:
  """A uniform integer in [0, 2^64) named by (seed, *names), equal on every machine."""
  text = "/".join(str(part) for part in (seed, *names))
  return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def draw_below(bound: int, seed: int, *names: str | int) -> int:
  """A uniform integer in [0, bound) named by (seed, *names)."""
  return draw(seed, *names) * bound >> 64


def permute(index: int, *, size: int, keys: tuple[int, ...]) -> int:
  """Where `index` in [0, size) goes in a permutation of 0 ... size-1 chosen by `keys`."""
  half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
  mask = (1 << half_bits) - 1
  while True:
    left, right = index >> half_bits, index & mask
    for key in keys:
      left, right = right, left ^ (_mix(right ^ key) & mask)
    index = left << half_bits | right
    if index < size:
      return index


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexOrder:
  """The order of one source, or of several mixed by weight (see the module's text).

  sizes: clips of each source. weights: how often each is drawn, in any unit; by default as often
  as it has clips. seed: names the order. shuffle: False goes through each source front to back.
  Raises UserError for an empty source or a weight that could never be drawn.
  """

  sizes: tuple[int, ...]
  weights: tuple[float, ...] | None = None
  seed: int = 0
  shuffle: bool = True

  def __post_init__(self):
    if not self.sizes or min(self.sizes) < 1:
      raise UserError(
        f"each source needs at least one clip, these have {list(self.sizes)}; check the split"
      )
    if self.weights is not None and len(self.weights) != len(self.sizes):
      raise UserError(
        f"{len(self.weights)} weights for {len(self.sizes)} sources; give one weight a source"
      )
    _ = self._counts  # refuses weights that cannot be honoured

  def __len__(self) -> int:
    return sum(self.sizes)

  def at(self, global_index: int) -> tuple[int, int]:
    """(which source, which of its clips) the `global_index`-th example of a run is."""
    which, position = self._slot(global_index)
    size = self.sizes[which]
    epoch, place = divmod(position, size)
    if not self.shuffle:
      return which, place
    keys = _keys(self.seed, "order", which, epoch)
    return which, permute(place, size=size, keys=keys)

  def _slot(self, global_index: int) -> tuple[int, int]:
    """(which source, how many examples of that source came before)."""
    if len(self.sizes) == 1:
      return 0, global_index
    ends = np.cumsum(self._counts)
    block, place = divmod(global_index, int(ends[-1]))
    if self.shuffle:
      keys = _keys(self.seed, "mix", 0, block)
      place = permute(place, size=int(ends[-1]), keys=keys)
    which = int(np.searchsorted(ends, place, side="right"))
    count = int(self._counts[which])
    return which, block * count + place - int(ends[which] - count)

  @functools.cached_property
  def _counts(self) -> np.ndarray:
    return block_counts(self.sizes if self.weights is None else self.weights)


def block_counts(weights: tuple[float, ...]) -> np.ndarray:
  """Whole numbers in the proportion of `weights`, int64 [sources], adding up to 4096 or less."""
  share = np.asarray(weights, np.float64)
  if not (np.isfinite(share).all() and (share > 0).all()):
    raise UserError(f"the weights {list(weights)} must all be above 0; leave a source out instead")
  share = share / share.sum()
  lengths = np.arange(1, _LONGEST_BLOCK + 1)[:, None]
  counts = np.round(lengths * share)
  exact = (np.abs(counts - lengths * share) < 1e-9 * lengths).all(axis=1) & (counts > 0).all(axis=1)
  if exact.any():
    return counts[int(np.argmax(exact))].astype(np.int64)
  counts = np.floor(_LONGEST_BLOCK * share).astype(np.int64)
  left_over = _LONGEST_BLOCK * share - counts
  counts[np.argsort(-left_over, kind="stable")[: _LONGEST_BLOCK - counts.sum()]] += 1
  if (counts == 0).any():
    raise UserError(
      f"a share of {share.min():.2g} is too small to be drawn; give each source at least "
      f"1/{_LONGEST_BLOCK} of the whole or leave it out"
    )
  return counts


@functools.lru_cache(maxsize=1024)
def _keys(seed: int, kind: str, which: int, number: int) -> tuple[int, ...]:
  """One key a round; cached because a whole epoch shares them."""
  return tuple(draw(seed, kind, which, number, i) for i in range(ROUNDS))


def _mix(x: int) -> int:
  """64 bits in, 64 well-stirred bits out."""
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _64_BITS
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _64_BITS
  return x ^ (x >> 31)
