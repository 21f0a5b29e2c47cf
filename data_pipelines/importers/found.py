"""What an importer finds before anybody has opened the audio, and the search for audio files."""

import dataclasses
import os
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from data_pipelines.manifest import Caption
from data_pipelines.report import NOTED, Problem, describe_error
from noise2music.audio.wav_io import AUDIO_SUFFIXES
from noise2music.errors import UserError

# Music that we know by its suffix and cannot read.
_FOREIGN_SUFFIXES = {".m4a", ".aac", ".mp4", ".wma", ".ape", ".wv", ".mpc", ".mka", ".webm"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """An audio file that a layout names. id: path below the root, the same on every machine."""

  audio: Path
  id: str
  captions: tuple[Caption, ...] = ()
  license: str | None = None
  split: str | None = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Importer(Protocol):
  """A layout: lists what lies below `root`, in the same order every time, one item at a time.

  Raises UserError for what makes the whole collection unusable.
  """

  def __call__(self, root: Path) -> Iterator[Found | Problem]: ...


def relative_id(audio: Path, *, root: Path) -> str:
  """Path below `root` (else absolute) with forward slashes and composed accents.

  Some file systems split "é" in two code points; ids must not depend on that.
  """
  audio, root = Path(os.path.abspath(audio)), Path(os.path.abspath(root))
  path = audio.relative_to(root) if audio.is_relative_to(root) else audio
  return unicodedata.normalize("NFC", path.as_posix())


def audio_files(root: Path) -> Iterator[Path | Problem]:
  """Every audio file below `root` in name order; folder links are followed, but not upwards.

  Suffixes count in any case; names that begin with a dot are skipped; links that lead nowhere or in
  circles, folders that cannot be read, names that are not UTF-8 and formats that we know but
  cannot read are problems of their own. Raises UserError when there is no such folder.
  """
  if not root.is_dir():
    raise UserError(f"there is no folder {root}; check the spelling of the path")
  seen: set[tuple[int, int]] = set()
  stack = [root]
  while stack:
    path = stack.pop()
    try:
      mode = path.stat()
      if not stat.S_ISDIR(mode.st_mode):
        yield from _judge(path, mode)
        continue
      # A link to a folder above itself would bring in that folder's other contents as well.
      upwards = path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())
      if upwards or (mode.st_dev, mode.st_ino) in seen:
        reason = "a link to a folder above it or read already; not followed"
        yield Problem(path=os.fspath(path), reason=reason, status=NOTED)
        continue
      seen.add((mode.st_dev, mode.st_ino))
      names = sorted(name for name in os.listdir(path) if not name.startswith("."))
      stack.extend(path / name for name in reversed(names))
    except OSError as error:
      if path.is_symlink():
        if _looks_like_audio(path) or not path.suffix:
          yield Problem(path=os.fspath(path), reason=f"a broken link ({describe_error(error)})")
      else:
        yield Problem(path=os.fspath(path), reason=describe_error(error))


def _looks_like_audio(path: Path) -> bool:
  return path.suffix.lower() in AUDIO_SUFFIXES or path.suffix.lower() in _FOREIGN_SUFFIXES


def _judge(path: Path, mode: os.stat_result) -> Iterator[Path | Problem]:
  if not _looks_like_audio(path):
    return
  name = os.fspath(path)
  if not name.isascii() and any("\udc80" <= c <= "\udcff" for c in name):
    yield Problem(path=name, reason="the name is not valid UTF-8; rename the file")
  elif not stat.S_ISREG(mode.st_mode):
    yield Problem(path=name, reason="not a regular file")
  elif path.suffix.lower() in _FOREIGN_SUFFIXES:
    yield Problem(path=name, reason=f"{path.suffix} cannot be read; convert it to .flac")
  else:
    yield path
