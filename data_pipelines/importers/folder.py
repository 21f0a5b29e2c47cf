"""A plain folder of music, with or without texts beside the files.

album/song.mp3
album/song.txt     each line is one long caption
album/song.json    columns as in `fields`
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.importers.fields import clean_text, read_fields
from data_pipelines.importers.found import Found, audio_files, relative_id
from data_pipelines.manifest import LONG, TITLE, Caption
from data_pipelines.report import NOTED, Problem, describe_error
from data_pipelines.splits import known_split

_LARGEST_TEXT = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderImporter:
  """Takes every audio file below the root.

  titles: make the file's name, without track number and underscores, a caption of kind title.
  texts: read `.txt` and `.json` beside a file. A first folder called train, valid, test or the like
  gives the split.
  """

  titles: bool = False
  texts: bool = True

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    for path in audio_files(root):
      if isinstance(path, Problem):
        yield path
        continue
      found = Found(audio=path, id=relative_id(path, root=root), split=split_of(path, root=root))
      if self.texts:
        found = yield from _with_texts(found)
      title = title_of(path) if self.titles else ""
      if title and not any(caption.kind == TITLE for caption in found.captions):
        caption = Caption(text=title, kind=TITLE, source="file name")
        found = dataclasses.replace(found, captions=(*found.captions, caption))
      yield found


def split_of(path: Path, *, root: Path) -> str | None:
  """The split that the first folder below `root` names, None when it names none."""
  parts = path.relative_to(root).parts
  return known_split(parts[0]) if len(parts) > 1 else None


def title_of(path: Path) -> str:
  """ "03 - blue_moon.mp3" -> "blue moon"."""
  stem = clean_text(re.sub(r"[_\s]+", " ", path.stem))
  return re.sub(r"^\d{1,3}(\s*[.-]\s*|\s+)(?=\D)", "", stem)


def read_sidecar(path: Path) -> Mapping[str, Any]:
  """The JSON object in `path`. Raises ValueError or OSError when there is none."""
  fields = json.loads(_read_text(path))
  if not isinstance(fields, dict):
    raise ValueError("not a JSON object")
  return fields


def _with_texts(found: Found) -> Iterator[Problem]:
  """Returns `found` with the texts beside it; yields those that cannot be read."""
  text_path, json_path = found.audio.with_suffix(".txt"), found.audio.with_suffix(".json")
  try:
    if text_path.is_file():
      lines = filter(None, map(clean_text, _read_text(text_path).splitlines()))
      captions = tuple(Caption(text=line, kind=LONG, source=".txt") for line in lines)
      found = dataclasses.replace(found, captions=(*found.captions, *captions))
  except (OSError, ValueError) as error:
    yield _not_read(text_path, error)
  try:
    if json_path.is_file():
      found = read_fields(read_sidecar(json_path), found)
  except (OSError, ValueError, RecursionError) as error:
    yield _not_read(json_path, error)
  return found


def _not_read(path: Path, error: Exception) -> Problem:
  reason = f"this text was not read ({describe_error(error)}); its audio is kept without it"
  return Problem(path=str(path), reason=reason, status=NOTED)


def _read_text(path: Path) -> str:
  if path.stat().st_size > _LARGEST_TEXT:
    raise ValueError("larger than 1 MB")
  try:
    return path.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError("not UTF-8") from error
