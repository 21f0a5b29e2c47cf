"""What became of files that are not simply fine: one line each, nothing is lost unseen."""

import collections
import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from data_pipelines.manifest import write_json_lines
from noise2music.audio.wav_io import AudioError

REFUSED = "refused"  # not in the result
REPAIRED = "repaired"  # in the result, but not as it was
NOTED = "noted"  # in the result as it was; worth a look
REPORT_NAME = "report.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
  """path: the file, or `file:line` of the record that names it. reason: what a user can act on."""

  path: str
  reason: str
  status: str = REFUSED

  def to_json(self) -> dict[str, Any]:
    return {"status": self.status, "path": self.path, "reason": self.reason}


def write_report(path: str | os.PathLike, problems: Iterable[Problem]) -> int:
  """Writes one line a problem and returns how many; an empty report is written too."""
  return write_json_lines(path, (problem.to_json() for problem in problems))


def count_by_status(problems: Iterable[Problem]) -> dict[str, int]:
  """{"refused": n, "repaired": n, "noted": n}."""
  counts = collections.Counter(problem.status for problem in problems)
  return {status: counts[status] for status in (REFUSED, REPAIRED, NOTED)}


def describe_error(error: Exception) -> str:
  """A reason for the report; errors that nobody foresaw are named by their type."""
  if isinstance(error, AudioError):
    return error.reason  # the path stands beside it
  if isinstance(error, PermissionError):
    return "permission denied; make the file readable"
  if isinstance(error, OSError):
    return error.strerror or str(error)
  if isinstance(error, ValueError):
    return str(error)
  return f"{type(error).__name__}: {error}"
