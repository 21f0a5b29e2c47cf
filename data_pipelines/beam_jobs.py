"""What the jobs on Beam share: options of their commands, and results that workers leave in files.

Importing this does not import Beam: commands that need it only where it is asked for read their
options here.
"""

import argparse
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.manifest import json_lines
from noise2music.errors import UserError

GOOD, DEAD = "good", "dead"  # outputs of a transform: what came of elements, or why nothing did
_RESULTS = "beam"


def beam_parser(prog: str, doc: str) -> argparse.ArgumentParser:
  """Of a command whose other options are Beam's."""
  return argparse.ArgumentParser(
    prog=prog,
    description=doc.splitlines()[0],
    epilog="All other options go to Beam: --runner=DirectRunner, where left out.",
    allow_abbrev=False,
  )


def add_beam_options(parser: argparse.ArgumentParser, help: str) -> None:
  """Of a command that does without Beam where no runner is named. help: what Beam does there."""
  parser.add_argument("--runner", help=f"{help}, on this runner (DirectRunner, ...)")
  help = "more for Beam, as --beam=--job_endpoint=HOST:PORT; repeatable"
  parser.add_argument("--beam", action="append", default=[], metavar="OPTION", help=help)


def beam_args_from(args: argparse.Namespace) -> list[str] | None:
  """What `add_beam_options` was given for Beam; None to do without. Raises UserError."""
  if args.runner is None:
    if args.beam:
      raise UserError("--beam is for a run with Beam: name a --runner besides")
    return None
  if importlib.util.find_spec("apache_beam") is None:
    raise UserError("--runner needs Beam: install the extra [beam], or leave it out")
  return [f"--runner={args.runner}", *args.beam]


def results_folder(out: str | os.PathLike) -> Path:
  """For `write_results`, below the folder of a job; what an earlier run left there is removed."""
  results = Path(out) / _RESULTS
  for stale in results.glob("*.jsonl"):
    stale.unlink()
  return results


def write_results(lines, prefix: Path):
  """For `read_results`. lines: PCollection of JSON values in text."""
  import apache_beam as beam

  return lines | f"write {prefix.name}" >> beam.io.WriteToText(
    os.fspath(prefix), file_name_suffix=".jsonl"
  )


def read_results(folder: Path, name: str) -> Iterator[Any]:
  """What workers wrote under a name, in no order. Raises UserError for a damaged line."""
  for shard in sorted(folder.glob(f"{name}*.jsonl")):
    for _, line in json_lines(shard):
      if isinstance(line, UserError):
        raise line
      yield line
