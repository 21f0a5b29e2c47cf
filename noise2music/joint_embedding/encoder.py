"""What gives music and texts their vectors, and the rules that all encoders share.

The paper (section 3.5): the vector of a clip is the mean of the vectors of its non-overlapping
windows of 10 s; clips and texts are compared by cosine.

numpy alone: an encoder may run in another process, or may have run on another day.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from noise2music.errors import UserError

WINDOW_SECONDS = 10.0
_UNIT_TOLERANCE = 1e-3  # float16 on the way is forgiven, a forgotten normalisation is not


class EncoderError(UserError):
  """An encoder gave nothing, or what cannot be vectors; the text names the encoder."""


@runtime_checkable
class AudioTextEncoder(Protocol):
  """Clips and texts -> vectors of length 1 in one space.

  width: of a vector. sample_rate_hz: of the clips it takes. fingerprint: differs where the same
  clip or text gets another vector, so whenever weights or windows change.

  A vector depends on its own clip or text alone, to the bit: whoever computes in batches keeps
  their shape fixed. Labels are the same for any number of workers only where this holds.
  """

  @property
  def width(self) -> int: ...

  @property
  def sample_rate_hz(self) -> int: ...

  @property
  def fingerprint(self) -> str: ...

  def embed_audio(self, clips: Sequence[np.ndarray]) -> np.ndarray:
    """Mono float [samples], each of any length -> float32 [clips, width], rows of length 1."""

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    """-> float32 [texts, width], rows of length 1."""


def split_windows(
  clip: np.ndarray, *, sample_rate_hz: int, seconds: float = WINDOW_SECONDS
) -> np.ndarray:
  """float [samples] -> float32 [windows, samples of a window], one after another.

  An incomplete last window is dropped; where it is the only one, silence fills it. Raises
  ValueError without samples.
  """
  clip = np.asarray(clip, np.float32)
  if clip.ndim != 1 or not clip.size:
    raise ValueError(f"a clip must be mono and hold samples, its shape is {list(clip.shape)}")
  length = round(seconds * sample_rate_hz)
  windows = max(1, len(clip) // length)
  clip = clip[: windows * length]
  return np.pad(clip, (0, windows * length - len(clip))).reshape(windows, length)


def pool_windows(vectors: np.ndarray) -> np.ndarray:
  """[windows, width] of one clip -> float32 [width] of length 1: their mean, normalised.

  Raises EncoderError where the mean has no direction.
  """
  mean = np.asarray(vectors, np.float64).mean(axis=0)
  length = math.sqrt(float(np.sum(mean * mean)))
  if not (math.isfinite(length) and length > 0):
    raise EncoderError("the vectors of a clip cancel out or are not finite: mend the encoder")
  return (mean / length).astype(np.float32)


def check_vectors(vectors: np.ndarray, *, rows: int, width: int, name: str) -> np.ndarray:
  """float32 [rows, width] of length 1, as they came; raises EncoderError for anything else.

  name: of the encoder, for the sentence.
  """
  vectors = np.asarray(vectors)
  if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
    raise EncoderError(
      f"{name} gave {vectors.dtype}{list(vectors.shape)}: let it give floats [rows, width]"
    )
  if vectors.shape[0] != rows:
    raise EncoderError(
      f"{name} gave {vectors.shape[0]} vectors for {rows} requests: let it answer each, in order"
    )
  if vectors.shape[1] != width:
    raise EncoderError(
      f"{name} gave vectors of width {vectors.shape[1]} in place of {width}: use one model"
    )
  vectors = np.ascontiguousarray(vectors, np.float32)
  if not np.isfinite(vectors).all():
    raise EncoderError(f"{name} gave vectors that are NaN or infinite: mend the encoder")
  lengths = np.sqrt(np.sum(vectors.astype(np.float64) ** 2, axis=1))
  off = np.flatnonzero(np.abs(lengths - 1) > _UNIT_TOLERANCE)
  if len(off):
    raise EncoderError(
      f"{name} gave a vector of length {lengths[off[0]]:.4g} (row {off[0]}): divide by the length"
    )
  return vectors
