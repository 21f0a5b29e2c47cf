"""An encoder of clips that runs as a command, in an environment of its own: CLAP, PaSST, MusicCoCa.

How it is called says `joint_embedding.request_folder`; here requests are clips alone. Its answer:

  vectors           float [rows, width], of any length, the rows of the first clip first
  counts            int [requests], rows of each; left out: one a clip
  sample_rate_hz    int [], of the clips it takes
  name, protocol    str [], as in `AudioEncoder`
  fingerprint       str []
  shortest_seconds  float [], a shorter clip is not sent; left out: 0
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluation.embedders.encoder import check_rows, check_said, checked
from noise2music.joint_embedding import request_folder
from noise2music.joint_embedding.encoder import EncoderError

_ANSWER = ("vectors", "sample_rate_hz", "name", "protocol", "fingerprint")
_OPTIONAL = ("counts", "shortest_seconds")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioCommand:
  """An `AudioEncoder`. command: program and arguments. timeout_seconds: for one batch.

  batch_size: clips in one call. Raises UserError for an empty command, and EncoderError, with the
  last line that the command said, for whatever it does wrong.
  """

  command: tuple[str, ...]
  timeout_seconds: float = request_folder.TIMEOUT_SECONDS
  batch_size: int = request_folder.BATCH_SIZE

  def __post_init__(self):
    request_folder.check_settings(
      self.command, timeout_seconds=self.timeout_seconds, batch_size=self.batch_size
    )

  @property
  def name(self) -> str:
    return str(self._described["name"])

  @property
  def protocol(self) -> str:
    return str(self._described["protocol"])

  @property
  def fingerprint(self) -> str:
    return str(self._described["fingerprint"])

  @property
  def width(self) -> int:
    return self._described["vectors"].shape[1]

  @property
  def sample_rate_hz(self) -> int:
    return int(self._described["sample_rate_hz"])

  @property
  def shortest_seconds(self) -> float:
    return float(self._described.get("shortest_seconds", 0.0))

  def embed(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    clips, out = checked(clips, self), []
    for start in range(0, len(clips), self.batch_size):
      batch = clips[start : start + self.batch_size]
      answer = self._ask(batch, wav_rate_hz=self.sample_rate_hz)
      request_folder.check_same(self.command, answer, self.fingerprint)
      counts = answer.get("counts", np.ones(len(batch), int))
      out += self._rows(answer["vectors"], counts, clips=len(batch))
    return out

  def _rows(self, vectors: np.ndarray, counts: np.ndarray, *, clips: int) -> list[np.ndarray]:
    name = request_folder.name_of(self.command)
    try:
      rows = check_rows(vectors, counts, clips=clips, name=f"the answer of {name}")
    except UserError as error:
      raise EncoderError(str(error)) from error
    if rows[0].shape[1] != self.width:
      raise EncoderError(
        f"{name} gave vectors of width {rows[0].shape[1]} in place of {self.width}: use one model"
      )
    return rows

  @functools.cached_property
  def _described(self) -> dict[str, np.ndarray]:
    answer = self._ask([], wav_rate_hz=None)
    vectors, rate = answer["vectors"], int(answer["sample_rate_hz"])
    name = request_folder.name_of(self.command)
    if vectors.ndim != 2 or vectors.shape[1] < 1 or rate < 1:
      raise EncoderError(
        f"{name} did not say what it is: let it answer no requests with vectors [0, width], its"
        " sample_rate_hz, name, protocol and fingerprint"
      )
    try:
      check_said({key: str(answer[key]) for key in ("name", "protocol", "fingerprint")}, name=name)
      if not float(answer.get("shortest_seconds", 0.0)) >= 0:
        raise UserError(f"{name} needs clips of less than 0 s: let shortest_seconds be 0 or more")
    except (UserError, TypeError, ValueError) as error:
      raise EncoderError(str(error)) from error
    return answer

  def _ask(self, clips: Sequence[np.ndarray], *, wav_rate_hz: int | None) -> dict[str, np.ndarray]:
    return request_folder.ask(
      self.command,
      clips,
      timeout_seconds=self.timeout_seconds,
      wav_rate_hz=wav_rate_hz,
      wanted=_ANSWER,
      optional=_OPTIONAL,
    )
