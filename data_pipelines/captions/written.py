"""Captions that people wrote: tables of raters (MusicCaps and the like), and plain lists."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipelines.captions.refine import Dropped, Raw
from data_pipelines.importers.fields import texts_of
from data_pipelines.importers.musiccaps import MusicCapsRow, read_musiccaps
from data_pipelines.importers.tables import read_cells, read_table, table_delimiter
from data_pipelines.manifest import LONG
from data_pipelines.report import Problem, describe_error
from data_pipelines.splits import TEST, TRAIN
from noise2music.errors import UserError

CAPTION, ASPECTS = "caption", "aspect_list"

_MOST_LINE_BYTES = 1 << 20


def rated(
  path: Path, *, kind: str, column: str | None = None, split: str | None = None
) -> Iterator[Raw | Dropped]:
  """Captions (kind "long") or aspects ("short") of a table of raters, in its order.

  column: where they stand, CAPTION or ASPECTS where left out; lists may be in Python's notation or
  separated by commas. split: of a MusicCaps table, only "train" or "test" (AudioSet's evaluation
  clips), so that a vocabulary need not know the clips that a model is judged by.
  """
  column = column or (CAPTION if kind == LONG else ASPECTS)
  musiccaps = is_musiccaps(path)
  if musiccaps and column in (CAPTION, ASPECTS):
    yield from _of_musiccaps(path, column=column, split=split)
    return
  if split and musiccaps:
    raise UserError(
      f"only the columns {CAPTION} and {ASPECTS} of {path} are read by split, not {column}: leave "
      f"out the split {split}, or the column"
    )
  if split:
    raise UserError(f"{path} is no table of MusicCaps, so it has no split {split}: leave it out")
  for row in read_table(path, columns=(column,)):
    if isinstance(row, Problem):
      yield Dropped(place=row.path, reason="a row that cannot be read", detail=row.reason)
      continue
    place, cells = row
    if kind == LONG:
      yield Raw(place=place, text=cells[column])
      continue
    for text in texts_of(cells[column], listed=True):
      yield Raw(place=place, text=text)


def plain(paths: Sequence[Path]) -> Iterator[Raw | Dropped]:
  """The lines of text files; blank ones are passed over, one that is no UTF-8 is lost alone.

  Raises UserError for a file that cannot be read.
  """
  for path in paths:
    try:
      with open(path, "rb") as file:
        yield from _lines(file, path=path)
    except OSError as error:
      raise UserError(f"cannot read {path} ({describe_error(error)}); give another file") from error


def _lines(file, *, path: Path) -> Iterator[Raw | Dropped]:
  number = 0
  while raw := file.readline(_MOST_LINE_BYTES):
    number += 1
    place = f"{path}:{number}"
    if len(raw) == _MOST_LINE_BYTES and not raw.endswith(b"\n"):
      while (rest := file.readline(_MOST_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass
      yield Dropped(place=place, reason="a line of 1 MB or more")
      continue
    if number == 1:
      if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"{path} is not UTF-8; save it as UTF-8")
      raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
      text = raw.decode()
    except UnicodeDecodeError:
      yield Dropped(place=place, reason="not UTF-8", text=ascii(raw[:80])[2:-1])
      continue
    if text.strip():
      yield Raw(place=place, text=text)


def is_musiccaps(path: Path) -> bool:
  """Whether the table has MusicCaps's columns. Raises UserError where it cannot be read."""
  first = next(read_cells(path, delimiter=table_delimiter(path)), None)
  cells = () if first is None or isinstance(first, Problem) else first[1]
  return {"ytid", "start_s", CAPTION, ASPECTS} <= {cell.strip().lower() for cell in cells}


def _of_musiccaps(path: Path, *, column: str, split: str | None) -> Iterator[Raw | Dropped]:
  for row in read_musiccaps(path):
    if isinstance(row, Problem):
      yield Dropped(place=row.path, reason="a row that cannot be read", detail=row.reason)
    elif split is None or _split(row) == split:
      texts = (row.caption,) if column == CAPTION else row.aspects
      for text in texts:
        yield Raw(place=row.place, text=text)


def _split(row: MusicCapsRow) -> str | None:
  return None if row.evaluation is None else TEST if row.evaluation else TRAIN
