"""TRILL (Shor et al., 2020, arXiv 2002.12764) by its SavedModel; other weights do not exist.

It takes `samples` float32 [samples] with `sample_rate`, and returns `embedding` [rows, 512], which
published FAD code reads, and `layer19` [rows, 12288], a row each sixth of a second or so.
"""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluation.embedders.encoder import checked

LAYER = "embedding"
FETCH = (
  "fetch https://tfhub.dev/google/nonsemantic-speech-benchmark/trill/3?tf-hub-format=compressed,"
  " unpack it and give the folder of its saved_model.pb, as in trill:FOLDER"
)
_MODEL = "saved_model.pb"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trill:
  """An `AudioEncoder`. folder: of the SavedModel. layer: an output of it.

  shortest_seconds: ours, since the model's page tells of no limit; its rows step through a second.

  Raises UserError where the folder holds no such model or the model no such layer, and without
  TensorFlow, which computes on the processor here: the accelerator is JAX's.
  """

  folder: str | Path
  layer: str = LAYER
  shortest_seconds: float = 1.0
  name: str = "trill"

  sample_rate_hz: ClassVar[int] = 16_000

  def __post_init__(self):
    _ = self.width

  @property
  def protocol(self) -> str:
    return f"{self.sample_rate_hz} Hz, level as it is, rows as the model cuts them, {self.layer}"

  @functools.cached_property
  def width(self) -> int:
    silence = np.zeros(round(self.shortest_seconds * self.sample_rate_hz), np.float32)
    return self._run(silence).shape[1]

  @functools.cached_property
  def fingerprint(self) -> str:
    """Of the graph and its variables, in the files' order."""
    folder, digest = Path(self.folder), hashlib.sha256()
    for path in (folder / _MODEL, *sorted((folder / "variables").glob("*"))):
      with path.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]

  def embed(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [self._run(clip) for clip in checked(clips, self)]

  def _run(self, clip: np.ndarray) -> np.ndarray:
    model = self._model
    import tensorflow as tf

    try:
      with tf.device("/CPU:0"):
        outputs = model(samples=tf.constant(clip), sample_rate=self.sample_rate_hz)
    except Exception as error:  # TensorFlow has a class for each way in which a call can fail
      raise UserError(
        f"the model in {self.folder} takes no samples and sample_rate ({_first(error)}): {FETCH}"
      ) from error
    outputs = outputs if isinstance(outputs, dict) else {}
    if self.layer not in outputs:
      raise UserError(
        f"the model in {self.folder} has no layer {self.layer!r}: choose one of {sorted(outputs)}"
      )
    rows = np.asarray(outputs[self.layer], np.float32)
    if rows.ndim != 2 or not rows.size:
      raise UserError(
        f"layer {self.layer!r} of {self.folder} gave {list(rows.shape)} for a clip of"
        f" {len(clip) / self.sample_rate_hz:.2f} s: choose a layer that gives rows"
      )
    return rows

  @functools.cached_property
  def _model(self) -> Any:
    folder = Path(self.folder)
    if not (folder / _MODEL).is_file():
      raise UserError(f"there is no TRILL in {folder}: {FETCH}")
    try:
      import tensorflow as tf
    except ImportError as error:
      raise UserError("TRILL runs in TensorFlow: pip install 'noise2music[tf]'") from error
    with contextlib.suppress(RuntimeError):  # somebody started TensorFlow before, and chose
      tf.config.set_visible_devices([], "GPU")
    try:
      return tf.saved_model.load(str(folder))
    except Exception as error:  # damaged protobufs, missing variables
      raise UserError(
        f"the SavedModel in {folder} is damaged ({_first(error)}): copy it anew"
      ) from error


def _first(error: Exception) -> str:
  return str(error).strip().split("\n")[0] or type(error).__name__
