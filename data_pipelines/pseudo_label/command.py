"""`n2m label run | explain | audit | duplicates`: options and printing around the work."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.parallel import terminal_progress
from data_pipelines.pseudo_label.job import LabelJob, LoadEncoder
from data_pipelines.pseudo_label.run import label_dataset
from noise2music.errors import Parser, UserError
from noise2music.joint_embedding.load import load_encoder

_LABELS = 3  # of a vocabulary that is named without a number, as many as the paper draws


def main(argv: Sequence[str] | None = None, *, load: LoadEncoder = load_encoder) -> int:
  """0: done; 2: a sentence on stderr says what to mend. load: from --encoder to an encoder."""
  try:
    args = _parser().parse_args(argv)
    return args.run(args, load)
  except BrokenPipeError:
    raise  # whoever read the output has seen enough: the command's own affair
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def add_run_options(parser: argparse.ArgumentParser) -> None:
  """Those of `n2m label run` that say what the labels are."""
  add = parser.add_argument
  add("source", help="manifest.jsonl or its folder")
  add("--out", required=True, help="folder for the labelled manifest")
  add("--encoder", required=True, help="vectors.npz, command:PROGRAM, or a trained run's folder")
  add(
    "--vocabulary",
    action="append",
    required=True,
    metavar="FILE.txt[:LABELS]",
    help=f"a caption a line, and labels a clip gets of it ({_LABELS}); repeat for more",
  )
  add("--exclude", action="append", default=[], metavar="NAME", help="not into the manifest")
  add(
    "--evaluation",
    action="append",
    default=[],
    metavar="PATH",
    help="manifest or texts whose sentences must not become labels",
  )
  add("--decisions", metavar="FILE.jsonl", help="what people accepted, rejected and banned")
  add("--candidates", type=int, default=LabelJob.candidates, help="K; %(default)s")
  add("--seed", type=int, default=LabelJob.seed, help="of the draws; %(default)s")
  add("--require-license", action="store_true", help="refuse clips without a known licence")


def job_from(args: argparse.Namespace) -> LabelJob:
  """The job that the options ask for, its paths absolute. Raises UserError."""
  vocabularies = {}
  for given in args.vocabulary:
    path, colon, count = given.rpartition(":")
    if not (colon and count.isdecimal()):
      path, count = given, str(_LABELS)
    vocabularies[os.path.abspath(path)] = int(count)
  return LabelJob(
    source=os.path.abspath(args.source),
    out_dir=os.path.abspath(args.out),
    encoder=_encoder(args.encoder),
    vocabularies=vocabularies,
    candidates=args.candidates,
    seed=args.seed,
    exclude=tuple(args.exclude),
    evaluation=tuple(map(os.path.abspath, args.evaluation)),
    decisions=os.path.abspath(args.decisions) if args.decisions else None,
    require_license=args.require_license,
  )


def _parser() -> argparse.ArgumentParser:
  parser = Parser(prog="n2m label", description="Captions for music that has none.")
  commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

  def command(name: str, run, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    return added

  run = command("run", _run, "give each clip of a manifest its nearest captions")
  add_run_options(run)
  run.add_argument("--workers", type=int, help="threads that read; one a core where left out")
  return parser


def _encoder(name: str) -> str:
  return os.path.abspath(name) if Path(name).exists() else name


def _run(args: argparse.Namespace, load: LoadEncoder) -> int:
  summary = label_dataset(
    job_from(args), load=load, workers=args.workers, progress=terminal_progress
  )
  print(summary)
  return 0
