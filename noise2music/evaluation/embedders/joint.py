"""The vectors that a joint embedding gives clips, one a clip, as FAD_MuLan is made of them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from noise2music.evaluation.embedders.encoder import checked
from noise2music.joint_embedding.encoder import AudioTextEncoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class JointAudio:
  """An `AudioEncoder` made of any encoder of clips and texts.

  protocol: how `encoder` cuts a clip; what all of them promise, where it is not said otherwise.
  """

  encoder: AudioTextEncoder
  name: str = "joint"
  protocol: str = "one vector of length 1 a clip"

  @property
  def width(self) -> int:
    return self.encoder.width

  @property
  def sample_rate_hz(self) -> int:
    return self.encoder.sample_rate_hz

  @property
  def shortest_seconds(self) -> float:
    """A clip shorter than the encoder's window is filled up by the encoder."""
    return 0.0

  @property
  def fingerprint(self) -> str:
    return self.encoder.fingerprint

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, width], rows of length 1."""
    return self.encoder.embed_texts(texts)

  def embed(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    vectors = self.encoder.embed_audio(checked(clips, self))
    return [np.asarray(vector, np.float32)[None] for vector in vectors]
