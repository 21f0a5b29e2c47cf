"""An encoder that runs as a command of its own, in whatever environment its framework needs.

How it is called says `request_folder`. Its answer holds

  vectors         float [requests, width], rows of length 1
  sample_rate_hz  int [], of the clips it takes
  fingerprint     str []
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from noise2music.joint_embedding import request_folder
from noise2music.joint_embedding.encoder import EncoderError, check_vectors

_ANSWER = ("vectors", "sample_rate_hz", "fingerprint")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExternalCommand:
  """An AudioTextEncoder. command: program and arguments. timeout_seconds: for one batch.

  batch_size: requests in one call. Raises UserError for an empty command, and EncoderError, with
  the last line that the command said, for whatever it does wrong.
  """

  command: tuple[str, ...]
  timeout_seconds: float = request_folder.TIMEOUT_SECONDS
  batch_size: int = request_folder.BATCH_SIZE

  def __post_init__(self):
    request_folder.check_settings(
      self.command, timeout_seconds=self.timeout_seconds, batch_size=self.batch_size
    )

  @property
  def width(self) -> int:
    return self._described[0]

  @property
  def sample_rate_hz(self) -> int:
    return self._described[1]

  @property
  def fingerprint(self) -> str:
    return self._described[2]

  def embed_audio(self, clips: Sequence[np.ndarray]) -> np.ndarray:
    return self._embed(clips, wav_rate_hz=self.sample_rate_hz)

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    return self._embed(texts, wav_rate_hz=None)

  @functools.cached_property
  def _described(self) -> tuple[int, int, str]:
    answer = self._ask([], wav_rate_hz=None)
    vectors, rate = answer["vectors"], int(answer["sample_rate_hz"])
    fingerprint = str(answer["fingerprint"])
    if vectors.ndim != 2 or vectors.shape[1] < 1 or rate < 1 or not fingerprint:
      raise EncoderError(
        f"{request_folder.name_of(self.command)} did not say what it is: let it answer no requests "
        "with vectors [0, width], its sample_rate_hz and fingerprint"
      )
    return vectors.shape[1], rate, fingerprint

  def _embed(self, items: Sequence[Any], *, wav_rate_hz: int | None) -> np.ndarray:
    batches = [np.zeros((0, self.width), np.float32)]
    name = request_folder.name_of(self.command)
    for start in range(0, len(items), self.batch_size):
      batch = items[start : start + self.batch_size]
      answer = self._ask(batch, wav_rate_hz=wav_rate_hz)
      request_folder.check_same(self.command, answer, self.fingerprint)
      batches.append(check_vectors(answer["vectors"], rows=len(batch), width=self.width, name=name))
    return np.concatenate(batches)

  def _ask(self, items: Sequence[Any], *, wav_rate_hz: int | None) -> dict[str, np.ndarray]:
    return request_folder.ask(
      self.command,
      items,
      timeout_seconds=self.timeout_seconds,
      wav_rate_hz=wav_rate_hz,
      wanted=_ANSWER,
    )
