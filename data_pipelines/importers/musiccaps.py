"""MusicCaps: ten seconds of a video each, described by a musician in sentences and in aspects.

  ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,is_balanced_subset,...

The table is public (captions CC-BY-SA-4.0), the audio is not. A ytid may begin with a dash, which
some programs read as an option and some spreadsheets as a formula; captions hold newlines;
`aspect_list` is a list in Python's notation.
"""

import ast
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.importers.fields import clean_text
from data_pipelines.importers.found import Found
from data_pipelines.importers.joined import Entry, find_tables, join_audio, youtube_names
from data_pipelines.importers.tables import read_table
from data_pipelines.manifest import LONG, SHORT, Caption
from data_pipelines.report import Problem
from data_pipelines.splits import TEST, TRAIN
from noise2music.errors import UserError

TEXT_LICENSE = "CC-BY-SA-4.0"

_COLUMNS = ("ytid", "start_s", "end_s", "aspect_list", "caption")
_YTID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MusicCapsRow:
  """start_s, end_s: seconds in the video. labels: AudioSet identifiers. caption: as written.

  evaluation: whether the clip is of AudioSet's evaluation set, None where the table does not say.
  """

  place: str
  ytid: str
  start_s: float
  end_s: float
  labels: tuple[str, ...]
  aspects: tuple[str, ...]
  caption: str
  author: str
  balanced: bool | None
  evaluation: bool | None


def read_musiccaps(path: Path) -> Iterator[MusicCapsRow | Problem]:
  """Rows in order; one that cannot be used is a Problem. Raises UserError for no such table."""
  seen: set[str] = set()
  for row in read_table(path, columns=_COLUMNS):
    if isinstance(row, Problem):
      yield row
      continue
    place, cells = row
    try:
      read = _row(place, cells)
    except ValueError as error:
      yield Problem(path=place, reason=str(error))
      continue
    if read.ytid in seen:
      yield Problem(path=place, reason=f"a second row of {read.ytid}; the first is kept")
      continue
    seen.add(read.ytid)
    yield read


def aspects_of(text: str) -> tuple[str, ...]:
  """The strings of a list in Python's notation, cleaned. Raises ValueError for anything else."""
  try:
    value = ast.literal_eval(text.strip())  # never code
  except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
    raise ValueError("aspect_list is no list in Python's notation") from error
  if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
    raise ValueError("aspect_list is no list of strings")
  return tuple(dict.fromkeys(filter(None, map(clean_text, value))))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MusicCapsImporter:
  """Captions are long, aspects short; clips of AudioSet's evaluation set are the test split.

  metadata: the table, None looks for TABLES in the root. Audio may be named as `youtube_names`.
  """

  TABLES = ("musiccaps*.csv",)
  metadata: Path | None = None

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    tables = find_tables(root, given=self.metadata, names=self.TABLES)
    if len(tables) > 1:
      raise UserError(f"{root} has {len(tables)} tables of MusicCaps; say which with --metadata")
    yield from join_audio(map(_entry, read_musiccaps(tables[0])), root=root)


def _entry(row: MusicCapsRow | Problem) -> Entry | Problem:
  if isinstance(row, Problem):
    return row
  caption = clean_text(row.caption)
  long = (Caption(text=caption, kind=LONG, source="caption"),) if caption else ()
  short = (Caption(text=text, kind=SHORT, source="aspect_list") for text in row.aspects)
  known = {"ytid": row.ytid, "start_s": row.start_s, "end_s": row.end_s, "labels": list(row.labels)}
  known |= {"author": row.author, "balanced": row.balanced, "text_license": TEXT_LICENSE}
  return Entry(
    place=row.place,
    names=youtube_names(row.ytid, start_s=row.start_s, end_s=row.end_s),
    captions=(*long, *short),
    split=None if row.evaluation is None else TEST if row.evaluation else TRAIN,
    extra={name: value for name, value in known.items() if value not in (None, "", [])},
  )


def _row(place: str, cells) -> MusicCapsRow:
  ytid = cells["ytid"].strip()
  if not _YTID.fullmatch(ytid):
    raise ValueError(f"{ytid[:40]!r} is no video's id; a spreadsheet may have changed it")
  start_s, end_s = seconds_of(cells["start_s"]), seconds_of(cells["end_s"])
  if end_s <= start_s:
    raise ValueError(f"the clip ends at {end_s:g} s, before it begins at {start_s:g} s")
  return MusicCapsRow(
    place=place,
    ytid=ytid,
    start_s=start_s,
    end_s=end_s,
    labels=tuple(filter(None, cells.get("audioset_positive_labels", "").split(","))),
    aspects=aspects_of(cells["aspect_list"]),
    caption=cells["caption"],
    author=cells.get("author_id", "").strip(),
    balanced=flag_of(cells.get("is_balanced_subset", "")),
    evaluation=flag_of(cells.get("is_audioset_eval", "")),
  )


def seconds_of(text: str) -> float:
  """Raises ValueError for what is no finite number of 0 or more."""
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not 0 <= value < math.inf:
    raise ValueError(f"{text[:40]!r} is no number of seconds")
  return value


def flag_of(text: str) -> bool | None:
  """ "True" and "False" in any case, None for blank. Raises ValueError for other words."""
  word = text.strip().lower()
  if word not in ("", "true", "false"):
    raise ValueError(f"{text[:40]!r} is neither True nor False")
  return None if not word else word == "true"
