"""Captions that say the same: equal but for spelling, or alike in nearly all pairs of words.

Likeness is the Jaccard index of the sets of adjacent word pairs. MinHash signatures (Broder 1997)
of 60 values in 10 bands of 6 find the candidates: two texts of likeness s share a band with
probability 1 - (1 - s^6)^10, which is 0.999 at 0.9. The first few texts of a band are compared
exactly: no pair below the threshold is ever taken for one, a few above it are overlooked. Work and
memory grow with the number of texts kept, one or two kilobytes each. Nothing is drawn at random:
the same texts in the same order lose the same.
"""

import hashlib
import itertools
import zlib

import numpy as np

from data_pipelines.captions.cleaning import normal_form
from noise2music.errors import UserError

_BANDS, _ROWS = 10, 6
_MOST_COMPARED = 4  # of a band, or texts of one pattern would make the work quadratic
_LEAST_WORDS = 5  # of shorter texts a single other word is another meaning

_CONSTANTS = np.frombuffer(
  hashlib.shake_256(b"noise2music captions").digest(2 * 8 * _BANDS * _ROWS), "<u8"
)
_FACTORS, _OFFSETS = _CONSTANTS[: _BANDS * _ROWS] | np.uint64(1), _CONSTANTS[_BANDS * _ROWS :]


class Duplicates:
  """Remembers texts; see the module. similarity: above 0; at 1 only spelling is overlooked."""

  def __init__(self, *, similarity: float):
    if not 0 < similarity <= 1:
      raise UserError(f"similarity must be above 0 and at most 1, not {similarity:g}")
    self._similarity = similarity
    self._exact: set[bytes] = set()
    self._pairs: list[np.ndarray] = []
    self._bands: list[dict[bytes, tuple[int, ...]]] = [{} for _ in range(_BANDS)]

  def add(self, text: str) -> str | None:
    """Why the text is a duplicate of one before it, or None where it is new and now remembered."""
    normal = normal_form(text) or text  # of symbols alone nothing is left to compare
    digest = hashlib.blake2b(normal.encode(), digest_size=16).digest()
    if digest in self._exact:
      return "a duplicate"
    words = normal.split()
    if self._similarity < 1 and len(words) >= _LEAST_WORDS and self._near(words):
      return "a near-duplicate"
    self._exact.add(digest)
    return None

  def _near(self, words: list[str]) -> bool:
    """Whether a text with nearly these words is known; if not, it is from now on."""
    joined = (f"{one} {two}".encode() for one, two in itertools.pairwise(words))
    pairs = np.unique(np.fromiter(map(zlib.crc32, joined), np.uint32))
    hashes = (pairs[:, None].astype(np.uint64) * _FACTORS + _OFFSETS) >> np.uint64(32)
    signature = hashes.min(axis=0).astype(np.uint32).reshape(_BANDS, _ROWS)
    keys = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in signature]
    slots = list(zip(self._bands, keys, strict=True))
    candidates = sorted({index for band, key in slots for index in band.get(key, ())})
    if any(_jaccard(pairs, self._pairs[index]) >= self._similarity for index in candidates):
      return True
    for band, key in slots:
      known = band.get(key, ())
      if len(known) < _MOST_COMPARED:
        band[key] = (*known, len(self._pairs))
    self._pairs.append(pairs)
    return False


def _jaccard(one: np.ndarray, two: np.ndarray) -> float:
  shared = len(np.intersect1d(one, two, assume_unique=True))
  return shared / (len(one) + len(two) - shared)
