"""`n2m data import | check | cut | captions | vocabulary | shards`: options and printing.

`n2m data embed` is of the family, and lives in `launch/embed.py`: it runs a text encoder.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.beam_jobs import add_beam_options, beam_args_from
from data_pipelines.captions.command import add_captions
from data_pipelines.captions.vocabulary import SIZE, SPLIT, train_vocabulary
from data_pipelines.check import check_manifest
from data_pipelines.importers.folder import FolderImporter
from data_pipelines.importers.run import LAYOUTS, detect_layout, import_dataset
from data_pipelines.ingest import CutSpec
from data_pipelines.ingest_local import Stopped, cut_dataset
from data_pipelines.parallel import terminal_progress
from data_pipelines.report import Problem, write_report
from data_pipelines.splits import HashSplits
from noise2music.errors import Parser, UserError
from noise2music.text.tokenizer import SentencePieceTokenizer

_SHOWN_PROBLEMS = 10


def main(argv: Sequence[str] | None = None) -> int:
  """0: done; 1: `check` found what cannot be used; 2: a sentence on stderr says what to mend."""
  try:
    args = _parser().parse_args(argv)
    return args.run(args)
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    return 130
  except BrokenPipeError:
    raise  # whoever read the output has seen enough: the command's own affair
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def add_cut_options(parser: argparse.ArgumentParser) -> None:
  """SOURCE, --out and one option for each field of CutSpec."""
  parser.add_argument("--source", required=True, help="manifest, or a folder of music")
  _add_spec_options(parser)


def spec_from(args: argparse.Namespace) -> CutSpec:
  """The CutSpec that the options ask for; what they leave out keeps its default."""
  return CutSpec(**_given(args, CutSpec))


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog="n2m data",
    description="From music files to clips.",
    epilog="texts ahead of training, by a run's own encoder: see n2m data embed --help",
  )
  commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
  _add_import(commands)
  _add_check(commands)
  _add_cut(commands)
  add_captions(commands)
  _add_vocabulary(commands)
  _add_shards(commands)
  return parser


def _add(
  commands, name: str, run: Callable, *, help: str, threads: bool = True
) -> argparse.ArgumentParser:
  parser = commands.add_parser(name, help=help, description=help)
  if threads:
    parser.add_argument("--workers", type=_positive, help="threads; one a core where left out")
  parser.set_defaults(run=run)
  return parser


def _add_import(commands) -> None:
  parser = _add(
    commands, "import", _import, help="write a manifest for a folder of music, with any texts"
  )
  parser.add_argument("source", help="folder of music, a data set's table beside it, or .tar")
  parser.add_argument("--out", required=True, help="folder for manifest.jsonl and report.jsonl")
  parser.add_argument("--layout", choices=sorted(LAYOUTS), help="found out where left out")
  parser.add_argument("--metadata", help="a data set's table, where it does not lie in the folder")
  parser.add_argument("--titles", action="store_true", help="file names are titles (plain folders)")
  parser.add_argument("--license", help="for files that name none")
  parser.add_argument("--validation-percent", type=float, help="share of the files")
  parser.add_argument("--test-percent", type=float, help="share of the files")


def _import(args: argparse.Namespace) -> int:
  importer = LAYOUTS[args.layout]() if args.layout else detect_layout(args.source)
  if args.metadata:
    if not hasattr(importer, "metadata"):
      raise UserError("--metadata is for layouts with a table; leave it out or add --layout")
    importer = dataclasses.replace(importer, metadata=Path(args.metadata))
  if args.titles:
    if not isinstance(importer, FolderImporter):
      raise UserError("--titles is for plain folders; leave it out or add --layout folder")
    importer = dataclasses.replace(importer, titles=True)
  summary = import_dataset(
    args.source,
    out_dir=args.out,
    importer=importer,
    splits=HashSplits(**_given(args, HashSplits)),
    license=args.license,
    workers=args.workers,
    progress=terminal_progress,
  )
  _show(summary.problems)
  print(summary)
  return 0


def _add_check(commands) -> None:
  parser = _add(commands, "check", _check, help="look for what would break or spoil training")
  parser.add_argument("source", help="manifest.jsonl or its folder")
  parser.add_argument("--headers-only", action="store_true", help="do not read all of the audio")
  parser.add_argument("--report", help="file for all findings, a JSON object a line")


def _check(args: argparse.Namespace) -> int:
  summary = check_manifest(
    args.source, decode=not args.headers_only, workers=args.workers, progress=terminal_progress
  )
  _show(summary.problems)
  if args.report:
    write_report(args.report, summary.problems)
  print(summary)
  return 0 if summary.ok else 1


def _add_cut(commands) -> None:
  parser = _add(commands, "cut", _cut, help="cut music into clips for training")
  parser.add_argument("source", help="manifest.jsonl, or a folder of music")
  _add_spec_options(parser)


def _add_spec_options(parser: argparse.ArgumentParser) -> None:
  default = CutSpec()
  parser.add_argument("--out", required=True, help="folder for the clips and their manifest")

  def add(flag: str, kind: Callable, text: str) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    value = getattr(default, name)
    parser.add_argument(flag, type=kind, help=f"{text} (default {value or 'all'})")

  add("--seconds", float, "length of a clip")
  add("--sample-rate-hz", int, "of the clips")
  add("--suffix", str, "format, .flac or .wav")
  add("--min-seconds", float, "shorter ends of files are dropped")
  add("--max-clips", int, "clips of one file at most")
  add("--min-sample-rate-hz", int, "duller files are refused")
  add("--silence-peak", float, "clips that stay below it are left out")


def _cut(args: argparse.Namespace) -> int:
  summary = cut_dataset(
    args.source,
    out_dir=args.out,
    spec=spec_from(args),
    workers=args.workers,
    progress=terminal_progress,
  )
  _show(summary.problems)
  print(summary)
  return 0


def _add_vocabulary(commands) -> None:
  parser = _add(
    commands,
    "vocabulary",
    _vocabulary,
    help="make a sentencepiece vocabulary from a data set's own captions",
    threads=False,
  )
  parser.add_argument("source", help="manifest.jsonl or its folder")
  parser.add_argument("--out", required=True, help="file for the model, such as vocabulary.model")
  parser.add_argument("--size", type=_positive, default=SIZE, help="pieces at most; %(default)s")
  parser.add_argument("--split", default=SPLIT, help="whose captions; %(default)s")


def _vocabulary(args: argparse.Namespace) -> int:
  path = train_vocabulary(args.source, args.out, vocab_size=args.size, split=args.split)
  print(f"wrote {path}: {SentencePieceTokenizer(path=path).vocab_size} pieces")
  return 0


def _add_shards(commands) -> None:
  text = "write clips as ArrayRecord shards, for training on many machines"
  parser = _add(commands, "shards", _shards, help=text, threads=False)
  parser.add_argument("source", help="manifest.jsonl or its folder")
  parser.add_argument("--out", required=True, help="folder for the data set")
  parser.add_argument("--shards", type=_positive, help="of each split; by size where left out")
  parser.add_argument("--split", help="only this one")
  add_beam_options(parser, "with Beam, the same records in the same order")


def _shards(args: argparse.Namespace) -> int:
  try:
    from data_pipelines.datasets.clips import build_shards
  except ImportError as error:
    raise UserError(
      f"writing shards needs {error.name}: install the extra [tf], as by pip install -e '.[tf]'"
    ) from error
  beam_args = beam_args_from(args)
  print(
    build_shards(args.source, args.out, shards=args.shards, split=args.split, beam_args=beam_args)
  )
  return 0


def _given(args: argparse.Namespace, cls: type) -> dict[str, Any]:
  names = [field.name for field in dataclasses.fields(cls)]
  return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def _show(problems: Sequence[Problem]) -> None:
  for problem in problems[:_SHOWN_PROBLEMS]:
    # A name that is not UTF-8 must not stop the printing.
    path = problem.path.encode(errors="backslashreplace").decode()
    print(f"{problem.status}: {path}: {problem.reason}", file=sys.stderr)
  if len(problems) > _SHOWN_PROBLEMS:
    print(f"... and {len(problems) - _SHOWN_PROBLEMS} more", file=sys.stderr)


def _positive(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError("must be 1 or more")
  return value
