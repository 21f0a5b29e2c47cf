"""FMA: tracks of the Free Music Archive, each under a licence of its own.

  tracks.csv   two header rows (group, column), then a third that only says track_id
  genres.csv   genre_id, #tracks, parent, title, top_level
  fma_small/000/000002.mp3

Lists in cells (tags, genres) are in Python's notation. The metadata are CC-BY-4.0.
"""

import ast
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.importers.fields import clean_text
from data_pipelines.importers.found import Found
from data_pipelines.importers.joined import Entry, find_tables, join_audio
from data_pipelines.importers.tables import read_cells, read_table
from data_pipelines.manifest import ENTITY, SHORT, TITLE, Caption
from data_pipelines.report import NOTED, Problem
from data_pipelines.splits import known_split
from noise2music.errors import UserError

GENRES_NAME = "genres.csv"

_NEEDED = (("track", "title"), ("artist", "name"), ("set", "split"))
Cells = Mapping[tuple[str, str], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FmaImporter:
  """Titles, artists and genres (by name where GENRES_NAME lies beside the table), tags as short.

  metadata: tracks.csv, None looks for TABLES in the root. subset: small, medium or large takes the
  tracks of that set and of those within it; None takes all. Audio is found by its number.
  """

  TABLES = ("tracks.csv",)
  metadata: Path | None = None
  subset: str | None = None

  def __post_init__(self):
    if self.subset not in (None, *_SUBSETS):
      raise UserError(f"{self.subset!r} is no subset of FMA; choose among {', '.join(_SUBSETS)}")

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    (table,) = find_tables(root, given=self.metadata, names=self.TABLES)
    genres: dict[str, str] = {}
    if (path := table.with_name(GENRES_NAME)).is_file():
      for row in read_table(path, columns=("genre_id", "title")):
        if isinstance(row, Problem):
          yield dataclasses.replace(row, status=NOTED)
        else:
          genres[row[1]["genre_id"].strip()] = clean_text(row[1]["title"])
    yield from join_audio(self._entries(table, genres), root=root)

  def _entries(self, table: Path, genres: Mapping[str, str]) -> Iterator[Entry | Problem]:
    for place, cells in _tracks(table):
      if isinstance(cells, Problem):
        yield cells
        continue
      subset = cells.get(("set", "subset"), "")
      if self.subset and subset not in _SUBSETS[: _SUBSETS.index(self.subset) + 1]:
        yield Problem(path=place, reason=f"of the subset {subset!r}, not of {self.subset}")
        continue
      try:
        yield _entry(place, cells, genres=genres)
      except ValueError as error:
        yield Problem(path=place, reason=str(error))


_SUBSETS = ("small", "medium", "large")
_ID = ("", "track_id")


def _tracks(table: Path) -> Iterator[tuple[str, Cells | Problem]]:
  rows = read_cells(table, delimiter=",")
  first, second = next(rows, None), next(rows, None)
  if first is None or second is None or Problem in (type(first), type(second)):
    raise UserError(f"{table} has no two header rows: give the tracks.csv of FMA")
  header = [(group.strip(), name.strip()) for group, name in zip(first[1], second[1], strict=False)]
  header[0] = _ID
  if missing := [f"{group}.{name}" for group, name in _NEEDED if (group, name) not in header]:
    raise UserError(
      f"{table} has no column {missing[0]} in its two header rows: give the tracks.csv of FMA"
    )
  for row in rows:
    if isinstance(row, Problem):
      yield row.path, row
      continue
    place, cells = row
    if cells[0].strip() == "track_id":  # the third header row
      continue
    if len(cells) != len(header):
      reason = f"{len(cells)} columns where the header has {len(header)}"
      yield place, Problem(path=place, reason=reason)
    else:
      yield place, dict(zip(header, cells, strict=True))


def _entry(place: str, cells: Cells, *, genres: Mapping[str, str]) -> Entry:
  number = cells[_ID].strip()
  if not (number.isascii() and number.isdigit()):
    raise ValueError(f"{number[:40]!r} is no number of a track")
  texts = [
    *((TITLE, "title", text) for text in [clean_text(cells["track", "title"])]),
    *((ENTITY, "artist", text) for text in [clean_text(cells["artist", "name"])]),
    *((ENTITY, "genre", text) for text in _genres(cells, genres)),
    *((SHORT, "tags", clean_text(str(tag))) for tag in _listed(cells, "tags")),
  ]
  distinct = dict.fromkeys((kind, source, text) for kind, source, text in texts if text)
  extra = {"track_id": int(number), "subset": cells.get(("set", "subset"), "").strip()}
  return Entry(
    place=place,
    names=(f"{int(number):06d}",),
    captions=tuple(Caption(text=text, kind=kind, source=src) for kind, src, text in distinct),
    license=clean_text(cells.get(("track", "license"), "")) or None,
    split=known_split(cells["set", "split"]),
    extra={name: value for name, value in extra.items() if value != ""},
  )


def _genres(cells: Cells, genres: Mapping[str, str]) -> list[str]:
  top = clean_text(cells.get(("track", "genre_top"), ""))
  return [top, *(genres.get(str(number), "") for number in _listed(cells, "genres"))]


def _listed(cells: Cells, column: str) -> list:
  text = cells.get(("track", column), "").strip() or "[]"
  try:
    value = ast.literal_eval(text)  # never code
  except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
    raise ValueError(f"track.{column} is no list in Python's notation") from error
  if not isinstance(value, list):
    raise ValueError(f"track.{column} is no list")
  return value
