"""What gives clips the vectors that scores are made of: many a clip, one after another, or one.

Two results can be compared only where everything here agrees: `describe` goes into each of them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from noise2music.errors import UserError


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


def checked(clips: Sequence[np.ndarray], encoder: Any) -> list[np.ndarray]:
  """The clips as float32 [samples]; raises UserError for one that `encoder` cannot take.

  encoder: an `AudioEncoder`. It is not declared as one, since to check that would ask it for all
  that it is, its weights' fingerprint too.
  """
  out = []
  for number, clip in enumerate(clips):
    clip = np.asarray(clip)
    if clip.ndim != 1 or not np.issubdtype(clip.dtype, np.floating):
      raise UserError(
        f"clip {number} is {clip.dtype}{list(clip.shape)}: give {encoder.name} mono floats"
      )
    seconds = len(clip) / encoder.sample_rate_hz
    if len(clip) < max(1, round(encoder.shortest_seconds * encoder.sample_rate_hz)):
      raise UserError(
        f"clip {number} lasts {seconds:.3f} s, shorter than the window of {encoder.name}"
        f" ({encoder.shortest_seconds:g} s): leave it out or give a longer one"
      )
    if not np.isfinite(clip).all():
      raise UserError(f"clip {number} holds NaN or infinity: mend its source")
    out.append(np.ascontiguousarray(clip, np.float32))
  return out


def check_rows(
  vectors: np.ndarray, counts: np.ndarray, *, clips: int, name: str
) -> list[np.ndarray]:
  """What came from outside, [rows, width] with the rows of each clip, taken apart as float32.

  name: of what gave it, for the sentence. Raises UserError for anything else than finite vectors of
  which each clip has at least one.
  """
  vectors, counts = np.asarray(vectors), np.asarray(counts)
  if vectors.ndim != 2 or not vectors.shape[1] or not np.issubdtype(vectors.dtype, np.floating):
    raise UserError(
      f"{name} holds vectors {vectors.dtype}{list(vectors.shape)}: let it hold floats [rows, width]"
    )
  if not np.issubdtype(counts.dtype, np.integer) or counts.shape != (clips,):
    raise UserError(
      f"{name} holds counts {counts.dtype}{list(counts.shape)} for {clips} clips: let it hold one"
      " whole number a clip, in order"
    )
  if clips and counts.min() < 1:
    raise UserError(f"{name} has no vector for clip {int(counts.argmin())}: leave the clip out")
  if counts.sum() != len(vectors):
    raise UserError(
      f"{name} holds {len(vectors)} vectors, its counts sum to {counts.sum()}: let them agree"
    )
  vectors = np.ascontiguousarray(vectors, np.float32)
  if not np.isfinite(vectors).all():
    raise UserError(f"{name} holds vectors that are NaN or infinite: mend the encoder")
  return np.split(vectors, np.cumsum(counts)[:-1]) if clips else []


def check_said(said: Mapping[str, str], *, name: str) -> None:
  """Raises UserError where an encoder's name cannot be part of a metric's, or another word lacks.

  said: name, protocol and fingerprint. name: of who said it, for the sentence.
  """
  if not re.fullmatch(r"[a-z][a-z0-9_]*", said["name"]):
    raise UserError(
      f"{name} calls its encoder {said['name']!r}: give it a name of small letters, digits and _"
    )
  for key in ("protocol", "fingerprint"):
    if not said[key].strip():
      raise UserError(f"{name} has an empty {key}: say how the vectors were made")
