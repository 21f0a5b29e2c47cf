"""What gives clips the vectors that scores are made of: many a clip, one after another, or one.

Two results can be compared only where everything here agrees: `describe` goes into each of them.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class AudioEncoder(Protocol):
  """Mono clips -> rows of vectors.

  name: of the model, as metric keys have it (`vggish`, `trill`, `joint`). protocol: how a clip is
  levelled and cut and which layer is read, in words. width: of a vector. sample_rate_hz: of the
  clips it takes. shortest_seconds: a shorter clip has no vector. fingerprint: of the weights.

  The rows of a clip depend on that clip alone.
  """

  @property
  def name(self) -> str: ...

  @property
  def protocol(self) -> str: ...

  @property
  def width(self) -> int: ...

  @property
  def sample_rate_hz(self) -> int: ...

  @property
  def shortest_seconds(self) -> float: ...

  @property
  def fingerprint(self) -> str: ...

  def embed(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """float [samples] each, of any length -> for each clip float32 [rows, width], in time's order.

    Raises UserError for a clip that is shorter than `shortest_seconds`.
    """
