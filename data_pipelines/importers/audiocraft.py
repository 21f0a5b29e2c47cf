"""audiocraft's layout: `data.jsonl` or `.jsonl.gz` for each split, a `.json` beside each track.

  egs/train/data.jsonl   {"path": "music/a.mp3", "duration": 191.6, "sample_rate": 44100, ...}
  music/a.json           {"title": ..., "description": ..., "keywords": ..., "moods": [...], ...}

Paths in the lines are absolute, or relative to wherever the tool ran: the folder of the .jsonl and
each one above it are tried, then the working folder. Durations are measured anew.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.importers.fields import read_fields
from data_pipelines.importers.folder import read_sidecar
from data_pipelines.importers.found import Found, relative_id
from data_pipelines.manifest import ManifestError, json_lines
from data_pipelines.report import NOTED, Problem, describe_error
from data_pipelines.splits import known_split
from noise2music.errors import UserError

_MEASURED = ("path", "duration", "sample_rate", "info_path", "file_extension")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudiocraftImporter:
  """Takes the tracks that the .jsonl files name; the root may be one such file or hold them.

  The split is what the file or its folder is called (train.jsonl, valid/data.jsonl).
  """

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    lists = [root] if root.is_file() else list(data_files(root))
    if not lists:
      raise UserError(f"there is no data.jsonl or data.jsonl.gz in {root}; add one")
    top = root.parent if root.is_file() else root
    for path in lists:
      for number, line in json_lines(path):
        yield from _track(line, place=f"{path}:{number}", listed_in=path, top=top)


def data_files(root: Path) -> Iterator[Path]:
  """Lists of tracks in `root` and the folders right below it, in name order."""
  if not root.is_dir():
    raise UserError(f"there is no folder {root}; check the spelling of the path")
  for folder in (root, *sorted(entry for entry in root.iterdir() if entry.is_dir())):
    for path in sorted(folder.iterdir()):
      if path.name in ("data.jsonl", "data.jsonl.gz") or (
        known_split(path.name.split(".")[0]) and path.name.endswith((".jsonl", ".jsonl.gz"))
      ):
        yield path


def _track(line: Any, *, place: str, listed_in: Path, top: Path) -> Iterator[Found | Problem]:
  if isinstance(line, ManifestError):
    yield Problem(path=place, reason=str(line).removeprefix(f"{place}: "))
    return
  name = line.get("path") if isinstance(line, dict) else None
  if not isinstance(name, str) or not name:
    yield Problem(path=place, reason="the line has no path")
    return
  audio = _locate(name, listed_in.parent)
  if audio is None:
    inside = ".zip:" in name
    reason = "lies inside an archive; unpack it" if inside else "there is no such file"
    yield Problem(path=place, reason=f"{name}: {reason}")
    return
  split = known_split(listed_in.name.split(".")[0]) or known_split(listed_in.parent.name)
  found = Found(audio=audio, id=relative_id(audio, root=top), split=split)
  found = read_fields(_without_measured(line), found)
  sidecar = _sidecar(line.get("info_path"), audio=audio, folder=listed_in.parent)
  if sidecar is not None:
    try:
      found = read_fields(_without_measured(read_sidecar(sidecar)), found)
    except (OSError, ValueError, RecursionError) as error:
      reason = f"this text was not read ({describe_error(error)}); its audio is kept without it"
      yield Problem(path=str(sidecar), reason=reason, status=NOTED)
  yield found


def _without_measured(fields: Mapping[str, Any]) -> dict[str, Any]:
  return {name: value for name, value in fields.items() if name not in _MEASURED}


def _sidecar(info_path: Any, *, audio: Path, folder: Path) -> Path | None:
  named = _locate(info_path, folder) if isinstance(info_path, str) and info_path else None
  beside = audio.with_suffix(".json")
  return named or (beside if beside.is_file() else None)


def _locate(name: str, folder: Path) -> Path | None:
  """The file that `name` means, seen from `folder`, from those above it, or from where we run."""
  try:
    if Path(name).is_absolute():
      return Path(name) if Path(name).is_file() else None
    places = (folder, *folder.absolute().parents, Path.cwd())
    return next((place / name for place in places if (place / name).is_file()), None)
  except (OSError, ValueError):  # a name too long, or with a zero byte
    return None
