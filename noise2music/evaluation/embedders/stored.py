"""Vectors of clips that were made elsewhere, on another day, looked up by the id of a clip.

An .npz without pickled objects:

  clip_ids     str [clips]                  vectors  float [rows, width], of any length
  counts       int [clips], rows of each    name, protocol, fingerprint  str [], of the encoder

The rows of the first clip come first. An id may begin with the name of the set of clips, SET/ID,
which it must where two sets that are compared share ids. The file of
`joint_embedding.precomputed.Precomputed`, which has a vector of length 1 for each clip, and texts
besides, is read as well: its name is `joint`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluation.embedders.encoder import check_rows, check_said
from noise2music.joint_embedding.precomputed import Precomputed

_KEYS = ("clip_ids", "counts", "vectors", "name", "protocol", "fingerprint")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored:
  """The vectors of the .npz at `path`. Raises UserError for a file that is not as above.

  within: a set of clips, whose ids are looked up as WITHIN/ID first: two sets may share ids.
  """

  path: str | Path
  within: str = ""

  def __post_init__(self):
    _ = self._contents

  @property
  def name(self) -> str:
    return self._contents.name

  @property
  def protocol(self) -> str:
    return self._contents.protocol

  @property
  def fingerprint(self) -> str:
    return self._contents.fingerprint

  @property
  def width(self) -> int:
    return self._contents.width

  @property
  def clip_ids(self) -> tuple[str, ...]:
    return tuple(self._contents.rows)

  def has_clip(self, clip_id: str) -> bool:
    return self.place(clip_id) in self._contents.rows

  def place(self, clip_id: str) -> str:
    """Under which id of the file a clip is looked up."""
    longer = f"{self.within}/{clip_id}"
    return longer if self.within and longer in self._contents.rows else clip_id

  def embed_ids(self, ids: Sequence[str]) -> list[np.ndarray]:
    """For each clip float32 [rows, width]; raises UserError for an id that is not in the file."""
    for clip_id in ids:
      if not self.has_clip(clip_id):
        raise UserError(f"{self.path} holds no vectors of the clip {clip_id!r}: add it to the file")
    return [self._contents.rows[self.place(clip_id)] for clip_id in ids]

  @functools.cached_property
  def _contents(self) -> "_Contents":
    if not Path(self.path).is_file():
      raise UserError(f"there are no vectors at {self.path}: check the path")
    try:
      with np.load(self.path, allow_pickle=False) as file:
        names = set(file.files)
        missing = [key for key in _KEYS if key not in names]
        if {"clip_vectors", "text_vectors"} <= names:
          return _of_joint(Precomputed(path=self.path))
        if missing:
          raise UserError(
            f"{self.path} has no array {missing[0]!r}: write it with {', '.join(_KEYS)}"
          )
        return _of_file(self.path, {key: file[key] for key in _KEYS})
    except UserError:
      raise
    except Exception as error:  # whatever numpy and zipfile make of foreign bytes
      raise UserError(
        f"{self.path} is no .npz that can be read ({error}): make it again"
      ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredJoint(Stored):
  """The file of a `Precomputed`, with its texts."""

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    """float32 [texts, width]; raises UserError for a text that is not in the file."""
    return self._texts.embed_texts(texts)

  @functools.cached_property
  def _texts(self) -> Precomputed:
    return Precomputed(path=self.path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Contents:
  rows: dict[str, np.ndarray]
  width: int
  name: str
  protocol: str
  fingerprint: str


def _of_joint(made: Precomputed) -> _Contents:
  ids = made.clip_ids
  rows = dict(zip(ids, made.embed_clips(ids)[:, None], strict=True))
  return _Contents(
    rows=rows, width=made.width, name="joint", protocol="one vector of length 1 a clip, made ahead",
    fingerprint=made.fingerprint,
  )  # fmt: skip


def _of_file(path: str | Path, arrays: dict[str, np.ndarray]) -> _Contents:
  ids = [str(clip_id) for clip_id in arrays["clip_ids"].ravel()]
  if not ids or arrays["clip_ids"].ndim != 1 or arrays["clip_ids"].dtype.kind != "U":
    raise UserError(f"{path} names no clips: let clip_ids be strings, one a clip")
  if len(set(ids)) != len(ids):
    raise UserError(f"{path} names a clip twice: keep the vectors of one")
  rows = check_rows(arrays["vectors"], arrays["counts"], clips=len(ids), name=str(path))
  said = {key: str(arrays[key]) for key in ("name", "protocol", "fingerprint")}
  check_said(said, name=str(path))
  return _Contents(rows=dict(zip(ids, rows, strict=True)), width=rows[0].shape[1], **said)
