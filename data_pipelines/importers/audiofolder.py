"""A folder with `metadata.csv` or `metadata.jsonl`: `file_name` and any other columns.

`file_name` is relative to the folder of the metadata file. There may be one in the root or one in
each of several folders (train/metadata.csv, test/metadata.csv). Columns are read as `fields` says.
"""

import csv
import dataclasses
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.importers.fields import read_fields
from data_pipelines.importers.folder import split_of
from data_pipelines.importers.found import Found, audio_files, relative_id
from data_pipelines.manifest import ManifestError, json_lines
from data_pipelines.report import NOTED, Problem, describe_error
from noise2music.errors import UserError

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
FILE_NAME = "file_name"

Row = tuple[str, Mapping[str, Any]]  # "file:line", columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioFolderImporter:
  """Takes the files that the metadata names, and those that it does not name without captions.

  metadata: one .csv or .jsonl of another name; None looks for METADATA_NAMES below the root.
  unlisted: keep audio that no row names; either way the report lists it. Several rows for one file
  add their captions up. Rows without a file are refused one by one.
  """

  metadata: Path | None = None
  unlisted: bool = True

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    paths = [self.metadata] if self.metadata else list(metadata_files(root))
    if not paths:
      raise UserError(f"there is no metadata.csv or metadata.jsonl in {root}; add one")
    on_disk: dict[str, Path] = {}
    for path in audio_files(root):
      if isinstance(path, Problem):
        yield path
      else:
        on_disk[relative_id(path, root=root)] = path
    found: dict[str, Found] = {}
    for path in paths:
      for row in read_rows(path):
        if isinstance(row, Problem):
          yield row
        else:
          yield from _add_row(row, folder=path.parent, root=root, on_disk=on_disk, found=found)
    yield from found.values()
    yield from self._without_row(set(on_disk) - set(found), on_disk=on_disk, root=root)

  def _without_row(self, ids: set[str], *, on_disk, root: Path) -> Iterator[Found | Problem]:
    for name in sorted(ids):
      path = on_disk[name]
      kept = "kept without captions" if self.unlisted else "left out"
      reason = f"no row of the metadata names this file; {kept}"
      yield Problem(path=str(path), reason=reason, status=NOTED)
      if self.unlisted:
        yield Found(audio=path, id=name, split=split_of(path, root=root))


def metadata_files(root: Path) -> Iterator[Path]:
  """metadata.csv and .jsonl in `root` and the folders right below it, in name order."""
  if not root.is_dir():
    raise UserError(f"there is no folder {root}; check the spelling of the path")
  for folder in (root, *sorted(entry for entry in root.iterdir() if entry.is_dir())):
    yield from (folder / name for name in METADATA_NAMES if (folder / name).is_file())


def read_rows(path: Path) -> Iterator[Row | Problem]:
  """Rows of a .csv or .jsonl with their places; a bad row is a Problem, a bad file a UserError."""
  if path.suffix.lower() == ".csv":
    yield from _csv_rows(path)
    return
  for number, row in json_lines(path):
    place = f"{path}:{number}"
    if isinstance(row, ManifestError):
      yield Problem(path=place, reason=str(row).removeprefix(f"{place}: "))
    elif not isinstance(row, dict) or not isinstance(row.get(FILE_NAME), str):
      yield Problem(path=place, reason=f"the row has no {FILE_NAME}")
    else:
      yield place, row


def _add_row(row: Row, *, folder: Path, root: Path, on_disk, found) -> Iterator[Problem]:
  place, fields = row
  name = unicodedata.normalize("NFC", fields[FILE_NAME].strip())
  if not name:
    yield Problem(path=place, reason=f"{FILE_NAME} is empty")
    return
  key = relative_id(folder / name, root=root)
  audio = on_disk.get(key, folder / name)
  try:
    reason = None if audio.is_file() else "there is no such file"
  except (OSError, ValueError) as error:  # a name too long, or with a zero byte
    reason = describe_error(error)
  if reason:
    yield Problem(path=place, reason=f"{name:.200}: {reason}")
    return
  before = found.get(key)
  if before is None:
    split = split_of(audio, root=root) if audio.is_relative_to(root) else None
    before = Found(audio=audio, id=key, split=split)
  columns = {column: value for column, value in fields.items() if column != FILE_NAME}
  found[key] = read_fields(columns, before)


def _csv_rows(path: Path) -> Iterator[Row | Problem]:
  csv.field_size_limit(1 << 24)  # long texts are no reason to stop
  try:
    with open(path, encoding="utf-8-sig", newline="") as lines:
      rows = csv.reader(lines, strict=True)
      columns = _header(next(rows, None), path=path)
      for row in rows:
        if not any(cell.strip() for cell in row):
          continue
        place = f"{path}:{rows.line_num}"
        if len(row) == len(columns):
          yield place, dict(zip(columns, row, strict=True))
        else:
          reason = (
            f"{len(row)} columns where the header has {len(columns)}; quote texts with commas"
          )
          yield Problem(path=place, reason=reason)
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is not UTF-8; save it as CSV UTF-8") from error
  except csv.Error as error:
    place = f"{path}:{rows.line_num}"
    raise UserError(f"{place}: not valid CSV ({error}); look for a quote that is not closed") from (
      error
    )
  except OSError as error:
    raise UserError(f"cannot read {path} ({describe_error(error)})") from error


def _header(cells: list[str] | None, *, path: Path) -> list[str]:
  columns = [cell.strip() for cell in cells or ()]
  columns = [FILE_NAME if name.lower() == FILE_NAME else name for name in columns]
  if FILE_NAME in columns:
    if len(set(columns)) < len(columns):
      raise UserError(f"{path}:1: a column name appears twice ({', '.join(columns)}); rename one")
    return columns
  only = columns[0] if len(columns) == 1 else ""
  for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
    if FILE_NAME in only.lower().split(separator):
      raise UserError(f"{path} is separated by {word}; save it separated by commas")
  have = ", ".join(columns) or "nothing"
  raise UserError(f"{path}:1: there is no column {FILE_NAME} (only {have[:80]}); name it in line 1")


def is_metadata(path: Path) -> bool:
  """Whether `path` is a table of this layout, judged by its first line."""
  if os.path.basename(path) in METADATA_NAMES or path.suffix.lower() == ".csv":
    return True
  first = next((row for _, row in json_lines(path)), None)
  return isinstance(first, dict) and FILE_NAME in first
