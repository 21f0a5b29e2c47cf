"""Vectors that were made elsewhere, on another day: looked up by the id of a clip, or by text.

An .npz without pickled objects:

  clip_ids      str [clips], ids as in the manifest     clip_vectors  float [clips, width]
  texts         str [texts]                             text_vectors  float [texts, width]
  fingerprint   str [], of the model that made them

Rows have length 1. The audio itself is never read.
"""

import dataclasses
import functools
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import check_vectors

_KEYS = ("clip_ids", "clip_vectors", "texts", "text_vectors", "fingerprint")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precomputed:
  """The vectors of the .npz at `path`. Raises UserError for a file that is not as above."""

  path: str | Path

  def __post_init__(self):
    _ = self._clips, self._texts

  @property
  def width(self) -> int:
    return self._arrays["text_vectors"].shape[1]

  @property
  def fingerprint(self) -> str:
    return str(self._arrays["fingerprint"])

  @property
  def clip_ids(self) -> tuple[str, ...]:
    return tuple(self._clips)

  def has_clip(self, clip_id: str) -> bool:
    return clip_id in self._clips

  def embed_clips(self, clip_ids: Sequence[str]) -> np.ndarray:
    """float32 [clips, width] by id; raises UserError for an id that the file does not hold."""
    rows = [self._row(self._clips, name, "clip") for name in clip_ids]
    return self._arrays["clip_vectors"][rows].reshape(len(rows), self.width)

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, width]; raises UserError for a text that the file does not hold."""
    rows = [self._row(self._texts, text, "text") for text in texts]
    return self._arrays["text_vectors"][rows].reshape(len(rows), self.width)

  def _row(self, table: Mapping[str, int], name: str, what: str) -> int:
    if name not in table:
      raise UserError(f"{self.path} holds no vector for the {what} {name!r}: add it to the file")
    return table[name]

  @functools.cached_property
  def _clips(self) -> dict[str, int]:
    return _index(self.path, self._arrays["clip_ids"])

  @functools.cached_property
  def _texts(self) -> dict[str, int]:
    return _index(self.path, self._arrays["texts"])

  @functools.cached_property
  def _arrays(self) -> dict[str, np.ndarray]:
    try:
      with np.load(self.path, allow_pickle=False) as file:
        missing = [key for key in _KEYS if key not in file.files]
        if missing:
          raise UserError(f"{self.path} has no array {missing[0]!r}: write it with all five")
        arrays = {key: file[key] for key in _KEYS}
    except UserError:
      raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
      raise UserError(
        f"{self.path} is no .npz that can be read ({error}): make it again"
      ) from error
    width = arrays["text_vectors"].shape[-1]
    for ids, vectors in (("clip_ids", "clip_vectors"), ("texts", "text_vectors")):
      arrays[vectors] = check_vectors(
        arrays[vectors], rows=arrays[ids].size, width=width, name=f"{self.path}, {vectors}"
      )
    return arrays


def _index(path: str | Path, names: np.ndarray) -> dict[str, int]:
  table = {str(name): row for row, name in enumerate(names)}
  if len(table) != len(names):
    raise UserError(f"{path} names a clip or text twice: keep one vector for each")
  return table
