"""The contract between `data_pipelines` and training: what a batch holds.

The host ships little. Resampling, log-mel, up-sampling, blur, conditioning noise and the text
encoder run inside the jitted step; the last of them may have run ahead of training, and then the
batch brings what it gave.
"""

import dataclasses
import hashlib
import math
from collections.abc import Mapping

import numpy as np

AUDIO = "audio"  # int16 [batch, samples], mono, at the data set's sample rate; 32768 is 1.0
AUDIO_LENGTH = "audio_length"  # int32 [batch], samples that are real; the rest is padding
TOKENS = "tokens"  # int32 [batch, tokens], 0 pads, 1 ends
TOKEN_MASK = "token_mask"  # bool [batch, tokens], True where a token is real
# float16 [batch, tokens, width], 0 on padding, where texts were embedded ahead of training. Under
# the same name a source's `fingerprint()` says by what.
TEXT_EMBEDDING = "text_embedding"
CLIP_ID = "clip_id"  # uint32 [batch, 2], names the clip in every random draw

INT16_SCALE = 32768.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchSpec:
  """The shapes of a batch, for initialisation and ahead-of-time compilation.

  batch_size: clips in the global batch. seconds: length of each clip or snippet.
  sample_rate_hz: of the int16 audio. token_length: tokens per text. text_width: of the texts'
  embeddings, where the batch brings them; 0 where it does not.

  Raises ValueError, when built, on a batch of nothing.
  """

  batch_size: int
  seconds: float
  sample_rate_hz: int = 24_000
  token_length: int = 64
  text_width: int = 0

  def __post_init__(self):
    if not isinstance(self.batch_size, int) or self.batch_size < 1:
      raise ValueError(f"batch_size is {self.batch_size!r}: give a whole number of clips above 0")
    if not 0 < self.seconds < math.inf or self.samples < 1:
      raise ValueError(f"seconds is {self.seconds!r}: give the length of a clip, a sample at least")
    if self.token_length < 1:
      raise ValueError(f"token_length is {self.token_length!r}: give at least 1 token")

  @property
  def samples(self) -> int:
    return round(self.seconds * self.sample_rate_hz)

  def shapes(self) -> dict[str, np.ndarray]:
    """Arrays of these shapes and dtypes that take up no memory, however large the batch."""
    return {
      name: np.broadcast_to(row[:1], (self.batch_size, *row.shape[1:]))
      for name, row in dataclasses.replace(self, batch_size=1).zeros().items()
    }

  def zeros(self) -> dict[str, np.ndarray]:
    """A batch of silence with these shapes and dtypes."""
    out = {
      AUDIO: np.zeros((self.batch_size, self.samples), np.int16),
      AUDIO_LENGTH: np.full((self.batch_size,), self.samples, np.int32),
      TOKENS: np.zeros((self.batch_size, self.token_length), np.int32),
      TOKEN_MASK: np.zeros((self.batch_size, self.token_length), np.bool_),
      CLIP_ID: np.zeros((self.batch_size, 2), np.uint32),
    }
    if self.text_width:
      shape = (self.batch_size, self.token_length, self.text_width)
      out[TEXT_EMBEDDING] = np.zeros(shape, np.float16)
    return out

  def check(self, batch: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError naming the first array whose name, shape or dtype is off."""
    for name, want in self.zeros().items():
      if name not in batch:
        raise ValueError(f"batch has no {name!r}; it has {sorted(batch)}")
      have = batch[name]
      if have.shape != want.shape or have.dtype != want.dtype:
        raise ValueError(
          f"batch[{name!r}] is {have.dtype}{list(have.shape)}, "
          f"the model expects {want.dtype}{list(want.shape)}"
        )


def clip_id(name: str) -> np.ndarray:
  """uint32 [2] made from a clip's name (its id in the manifest), equal on every machine."""
  return np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], "<u4").copy()


def to_int16(audio: np.ndarray) -> np.ndarray:
  """float [-1, 1] of any shape -> int16, rounded and clipped."""
  return np.clip(np.round(audio * INT16_SCALE), -32768, 32767).astype(np.int16)
