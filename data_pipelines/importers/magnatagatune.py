"""MagnaTagATune: about 29 seconds of a Magnatune track each, with tags from a game.

  annotations_final.csv   clip_id, a column of 0 or 1 for each of 188 tags, mp3_path
  clip_info_final.csv     clip_id, track_number, title, artist, album, url, ..., mp3_path

Both are separated by tabs, in spite of their names, with every cell in quotes. Three of the mp3
files have no bytes; they are refused like any empty file. For non-commercial use only.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.importers.fields import clean_text
from data_pipelines.importers.found import Found
from data_pipelines.importers.joined import Entry, find_tables, join_audio, stem_of, tails
from data_pipelines.importers.tables import read_table
from data_pipelines.manifest import ENTITY, SHORT, TITLE, Caption
from data_pipelines.report import NOTED, Problem
from data_pipelines.splits import TEST, TRAIN, VALIDATION

LICENSE = "CC-BY-NC-SA"  # sources differ in the version, not in what it forbids
INFO_NAME = "clip_info_final.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MagnaTagATuneImporter:
  """Tags become short captions; title and artist come from INFO_NAME beside the table, if there.

  metadata: the table of tags, None looks for TABLES in the root. untagged: keep clips without a
  tag, which the paper drops. Splits are the usual ones by folder: 0 to b train, c validation, d to
  f test.
  """

  TABLES = ("annotations_final.csv",)
  metadata: Path | None = None
  untagged: bool = False

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    (table,) = find_tables(root, given=self.metadata, names=self.TABLES)
    infos: dict[str, Mapping[str, str]] = {}
    if (info := table.with_name(INFO_NAME)).is_file():
      for row in read_table(info, columns=("clip_id", "title", "artist")):
        if isinstance(row, Problem):
          yield dataclasses.replace(row, status=NOTED)  # a title is lost, no clip
        else:
          infos[row[1]["clip_id"].strip()] = row[1]
    yield from join_audio(self._entries(table, infos), root=root)

  def _entries(self, table: Path, infos) -> Iterator[Entry | Problem]:
    for row in read_table(table, columns=("clip_id", "mp3_path")):
      if isinstance(row, Problem):
        yield row
        continue
      place, cells = row
      flags = {name: value for name, value in cells.items() if name not in ("clip_id", "mp3_path")}
      strange = next(
        (name for name, value in flags.items() if value.strip() not in ("0", "1")), None
      )
      tags = [name for name, value in flags.items() if value.strip() == "1"]
      if strange is not None:
        yield Problem(path=place, reason=f"the tag {strange!r} is neither 0 nor 1")
      elif not tags and not self.untagged:
        yield Problem(path=place, reason="the clip has no tag")
      else:
        yield _entry(place, cells, tags=tags, info=infos.get(cells["clip_id"].strip(), {}))


def _entry(place: str, cells, *, tags: list[str], info: Mapping[str, str]) -> Entry:
  path = stem_of(cells["mp3_path"])
  captions = [Caption(text=tag, kind=SHORT, source="tags") for tag in tags]
  for column, kind in (("title", TITLE), ("artist", ENTITY)):
    if text := clean_text(info.get(column, "")):
      captions.append(Caption(text=text, kind=kind, source=column))
  extra = {"clip_id": cells["clip_id"].strip(), "album": clean_text(info.get("album", ""))}
  return Entry(
    place=place,
    names=tails(path),
    captions=tuple(captions),
    license=LICENSE,
    split=_split(path),
    extra={name: value for name, value in extra.items() if value},
  )


def _split(path: str) -> str | None:
  folder = path.split("/")[-2:][0]
  if len(folder) != 1 or folder not in "0123456789abcdef":
    return None
  return TRAIN if folder < "c" else VALIDATION if folder == "c" else TEST
