"""Tables of other people: CSV and TSV files read so that one bad line costs that line alone.

A line that is not UTF-8, has a stray quote, too many cells or too many bytes becomes a `Problem`
with its place; what makes the whole table unusable is a `UserError`. A quote that is not closed
costs more: all lines up to the next quote, or to the end, since a cell may hold lines. They are one
`Problem`, which names the first of them and says up to where.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from data_pipelines.report import Problem, describe_error
from noise2music.errors import UserError

Row = tuple[str, Mapping[str, str]]  # "file:line", columns
Cells = tuple[str, list[str]]

_MOST_LINE_BYTES = 1 << 24


def read_table(path: Path, *, columns: Iterable[str] = ()) -> Iterator[Row | Problem]:
  """Rows under a header, separated by tabs where the header is, else by commas.

  columns: names that must be there, in any case; they are given back as spelt here. The file's
  suffix says nothing: there are .csv files with tabs.
  Raises UserError for a file that cannot be read or lacks a column.
  """
  rows = read_cells(path, delimiter=table_delimiter(path))
  first = next(rows, None)
  if isinstance(first, Problem):
    raise UserError(f"{first.path}: the header cannot be read ({first.reason}); mend that line")
  header = _header(first[1] if first else [], path=path, columns=tuple(columns))
  for row in rows:
    if isinstance(row, Problem):
      yield row
      continue
    place, cells = row
    if len(cells) == len(header):
      yield place, dict(zip(header, cells, strict=True))
    else:
      reason = f"{len(cells)} columns where the header has {len(header)}; quote cells with commas"
      yield Problem(path=place, reason=reason)


def read_cells(
  path: Path, *, delimiter: str, skip_spaces: bool = False, comment: str | None = None
) -> Iterator[Cells | Problem]:
  """All rows as they stand, blank ones left out; the place is that of a row's last line.

  Of a row that is not valid it is that of the first, where the quote is that is not closed.
  skip_spaces: a cell may follow its delimiter after spaces, quotes included. comment: lines that
  begin with it are passed over. Raises UserError for a file that cannot be read.
  """
  csv.field_size_limit(_MOST_LINE_BYTES)  # long texts are no reason to stop
  try:
    with open(path, "rb") as file:
      _refuse_utf16(file, path=path)
      lines = _lines(file, comment=comment)
      rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=skip_spaces, strict=True)
      while True:
        begin = rows.line_num + 1
        try:
          cells = next(rows)
        except StopIteration:
          return
        except csv.Error as error:  # the reader goes on behind it
          more = f", lost up to line {rows.line_num}" if rows.line_num > begin else ""
          reason = f"not valid CSV ({error}){more}; look for a quote that is not closed"
          yield Problem(path=f"{path}:{begin}", reason=reason)
          continue
        if any(cell.strip() for cell in cells):
          yield _checked(cells, place=f"{path}:{rows.line_num}")
  except OSError as error:
    raise UserError(f"cannot read {path} ({describe_error(error)}); give another table") from error


def table_delimiter(path: Path) -> str:
  """A tab where the first line has one, else a comma. Raises UserError for no such file."""
  try:
    with open(path, "rb") as file:
      return "\t" if b"\t" in file.readline(_MOST_LINE_BYTES) else ","
  except OSError as error:
    raise UserError(f"cannot read {path} ({describe_error(error)}); give another table") from error


def _lines(file: IO[bytes], *, comment: str | None) -> Iterator[str]:
  """Lines as text; what is not UTF-8 is marked by lone surrogates, what is too long is cut off.

  A comment becomes an empty line, so that line numbers stay true.
  """
  first = True
  while raw := file.readline(_MOST_LINE_BYTES + 1):
    while len(raw) > _MOST_LINE_BYTES and not raw.endswith(b"\n"):
      rest = file.readline(_MOST_LINE_BYTES)
      if not rest or rest.endswith(b"\n"):
        break
    if first:
      raw, first = raw.removeprefix(b"\xef\xbb\xbf"), False
    line = raw.decode("utf-8", errors="surrogateescape")
    yield "\n" if comment and line.startswith(comment) else line


def _refuse_utf16(file: IO[bytes], *, path: Path) -> None:
  if file.read(2) in (b"\xff\xfe", b"\xfe\xff"):
    raise UserError(f"{path} is not UTF-8; save it as CSV UTF-8")
  file.seek(0)


def _checked(cells: list[str], *, place: str) -> Cells | Problem:
  try:
    "".join(cells).encode()
  except UnicodeEncodeError:
    return Problem(path=place, reason="the line is not UTF-8; save the file as UTF-8")
  return place, cells


def _header(cells: list[str], *, path: Path, columns: tuple[str, ...]) -> list[str]:
  spelt = {name.lower(): name for name in columns}
  header = [spelt.get(cell.strip().lower(), cell.strip()) for cell in cells]
  if len(set(header)) < len(header):
    raise UserError(f"{path}:1: a column name appears twice ({', '.join(header):.80}); rename one")
  for name in columns:
    if name not in header:
      have = ", ".join(header) or "nothing"
      raise UserError(f"{path}:1: there is no column {name} (only {have:.80}); name it in line 1")
  return header
