"""Cleans captions with Beam, on one machine or many; what is kept is what `refine` keeps, in its
order.

Splitting, cleaning and judging a text is its own affair and takes most of the time: workers do it,
file by file, in a folder that all of them see under the same path. Only duplicates hang on what
came before; they are found here, in the order of the texts. A piece of work that is done again
writes the same file again.
"""

import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipelines.captions.refine import Dropped, Judged, Raw, Rules, judge, without_duplicates
from data_pipelines.manifest import json_lines, write_json_lines
from noise2music.errors import UserError

TEXTS_A_FILE = 10_000
RAW, JUDGED = "raw", "judged"


class JudgeTexts(beam.PTransform):
  """PCollection of names of files in FOLDER/raw -> (name, texts in it).

  What became of the texts goes to a file of the same name in FOLDER/judged.
  """

  def __init__(self, folder: str | os.PathLike, rules: Rules):
    super().__init__()
    self._settings = {"folder": os.fspath(folder), "rules": rules}

  def expand(self, names):
    return names | "spread" >> beam.Reshuffle() | "judge" >> beam.Map(_judge, **self._settings)


def refine_with_beam(
  texts: Iterable[Raw | Dropped],
  *,
  rules: Rules,
  folder: str | os.PathLike,
  beam_args: Sequence[str] = (),
) -> Iterator[str | Dropped]:
  """As `refine`. folder: for what is under way; removed at the end.

  Raises UserError where what workers should have written is damaged or missing.
  """
  folder = Path(folder)
  shutil.rmtree(folder, ignore_errors=True)  # of other texts, or half done
  names = _deal(texts, folder / RAW)
  with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
    _ = pipeline | "files" >> beam.Create(names) | "texts" >> JudgeTexts(folder, rules)
  yield from without_duplicates(_read(folder / JUDGED, names), similarity=rules.similarity)
  shutil.rmtree(folder, ignore_errors=True)


def _deal(texts: Iterable[Raw | Dropped], folder: Path) -> list[str]:
  """Into files of so many texts; their names, in order."""
  folder.mkdir(parents=True)
  texts, names = iter(texts), []
  while some := list(itertools.islice(texts, TEXTS_A_FILE)):
    names.append(f"{len(names):06d}.jsonl")
    write_json_lines(folder / names[-1], map(_to_json, some))
  return names


def _to_json(text: Raw | Dropped) -> dict[str, Any]:
  if isinstance(text, Raw):
    return {"place": text.place, "text": text.text}
  return {"dropped": [text.place, text.reason, text.text, text.detail]}


def _judge(name: str, *, folder: str, rules: Rules) -> tuple[str, int]:
  lines = list(_lines(Path(folder) / RAW / name))
  judged = []
  for line in lines:
    if "dropped" in line:
      judged.append(line)
    else:
      pieces = judge(Raw(**line), rules=rules)
      judged += [{"piece": [p.place, p.text, p.shown, p.reason]} for p in pieces]
  path = Path(folder) / JUDGED / name
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json_lines(path, judged)
  return name, len(lines)


def _read(folder: Path, names: Iterable[str]) -> Iterator[Judged | Dropped]:
  for name in names:
    if not (folder / name).is_file():
      raise UserError(f"{folder / name} is missing: let all workers see one disk, and run again")
    for line in _lines(folder / name):
      if "dropped" in line:
        place, reason, text, detail = line["dropped"]
        yield Dropped(place=place, reason=reason, text=text, detail=detail)
      else:
        place, text, shown, reason = line["piece"]
        yield Judged(place=place, text=text, shown=shown, reason=reason)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
  for _, line in json_lines(path):
    if isinstance(line, UserError):
      raise line
    yield line
