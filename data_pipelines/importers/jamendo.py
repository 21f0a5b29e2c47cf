"""MTG-Jamendo and the Song Describer, which describes tracks of it: audio is named by track.

MTG-Jamendo (metadata CC-BY-NC-SA-4.0), separated by tabs; every cell from the sixth on is a tag:

  TRACK_ID  ARTIST_ID  ALBUM_ID  PATH  DURATION  TAGS
  track_0000214  artist_000014  album_000031  14/214.mp3  124.6  genre---punkrock  mood/theme---fast

Song Describer (CC-BY-SA-4.0), separated by commas; several captions of a track are several rows:

  caption_id,track_id,caption,is_valid_subset,familiarity,artist_id,album_id,path,duration

The audio of 14/214.mp3 may be called 14/214.low.mp3 or 14/214.2min.mp3. Each track has a licence
of its own, which these tables do not give.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.importers.fields import clean_text
from data_pipelines.importers.found import Found
from data_pipelines.importers.joined import Entry, find_tables, join_audio, tails
from data_pipelines.importers.musiccaps import flag_of
from data_pipelines.importers.tables import read_cells, read_table
from data_pipelines.manifest import ENTITY, LONG, SHORT, Caption
from data_pipelines.report import Problem
from data_pipelines.splits import TEST, known_split
from noise2music.errors import UserError

_ENDINGS = ("", ".low", ".2min")
_KINDS = {"genre": ENTITY, "instrument": ENTITY, "mood/theme": SHORT}
_HEADER = ["TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JamendoImporter:
  """Genres and instruments are entities, moods and themes short captions.

  metadata: a table, None looks for TABLES in the root. A name that ends in -train, -validation or
  -test gives the split; tables of one root that name a track twice add their tags up.
  """

  TABLES = ("autotagging*.tsv", "raw_30s*.tsv")
  metadata: Path | None = None

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    tables = find_tables(root, given=self.metadata, names=self.TABLES)
    entries = (entry for table in tables for entry in _tagged(table))
    yield from join_audio(entries, root=root)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SongDescriberImporter:
  """Captions are long. The set is made for evaluation: all of it is the test split.

  metadata: the table, None looks for TABLES in the root. valid_only: take the captions of the
  subset that its makers checked, and refuse the others (blank is unchecked, not invalid).
  """

  TABLES = ("song_describer*.csv",)
  metadata: Path | None = None
  valid_only: bool = False

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    tables = find_tables(root, given=self.metadata, names=self.TABLES)
    entries = (entry for table in tables for entry in self.entries(table))
    yield from join_audio(entries, root=root)

  def entries(self, table: Path) -> Iterator[Entry | Problem]:
    """A row of the table each, before audio is looked for."""
    for row in read_table(table, columns=("caption_id", "track_id", "caption", "path")):
      if isinstance(row, Problem):
        yield row
        continue
      place, cells = row
      try:
        valid = flag_of(cells.get("is_valid_subset", ""))
      except ValueError as error:
        yield Problem(path=place, reason=str(error))
        continue
      text = clean_text(cells["caption"])
      if not text:
        yield Problem(path=place, reason="the caption is empty")
      elif self.valid_only and not valid:
        yield Problem(path=place, reason="the caption is not of the checked subset")
      else:
        yield _described(place, cells, text=text, valid=valid)


def _described(place: str, cells, *, text: str, valid: bool | None) -> Entry:
  about = {"caption_id": cells["caption_id"], "valid": valid}
  about = {name: value for name, value in about.items() if value not in (None, "")}
  extra = {name: cells.get(name, "") for name in ("track_id", "artist_id", "album_id")}
  extra["text_license"] = "CC-BY-SA-4.0"
  return Entry(
    place=place,
    names=tails(cells["path"], endings=_ENDINGS),
    captions=(Caption(text=text, kind=LONG, source="caption", extra=about),),
    split=TEST,
    extra={name: value for name, value in extra.items() if value},
  )


def _tagged(table: Path) -> Iterator[Entry | Problem]:
  split = known_split(table.stem.rpartition("-")[2])
  rows = read_cells(table, delimiter="\t")
  first = next(rows, None)
  if first is None or isinstance(first, Problem) or first[1][:6] != _HEADER:
    raise UserError(f"{table} does not begin with {' '.join(_HEADER)}: give a table of MTG-Jamendo")
  for row in rows:
    if isinstance(row, Problem):
      yield row
      continue
    place, cells = row
    pairs = [tag.strip().partition("---") for tag in cells[5:] if tag.strip()]
    strange = next((a + b + c for a, b, c in pairs if a not in _KINDS or not c), None)
    if len(cells) < 6:
      yield Problem(path=place, reason=f"{len(cells)} columns where at least 6 are expected")
    elif strange:
      yield Problem(path=place, reason=f"{strange[:80]!r} is no tag of a known category")
    else:
      yield Entry(
        place=place,
        names=tails(cells[3], endings=_ENDINGS),
        captions=tuple(Caption(text=c, kind=_KINDS[a], source=a) for a, _, c in pairs),
        split=split,
        extra={"track_id": cells[0], "artist_id": cells[1], "album_id": cells[2]},
      )
