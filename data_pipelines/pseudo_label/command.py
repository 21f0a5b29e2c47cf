"""`n2m label run | explain | audit | duplicates`: options and printing around the work."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.duplicates import COSINE, DUPLICATES, Overlay, find_duplicates, groups
from data_pipelines.manifest import manifest_path, read_manifest, write_json_lines
from data_pipelines.parallel import terminal_progress
from data_pipelines.pseudo_label.audit import Audit
from data_pipelines.pseudo_label.embed import clip_items, store_clips
from data_pipelines.pseudo_label.explain import HEADING, explain
from data_pipelines.pseudo_label.job import CLIPS, EMBEDDINGS, LabelJob, LoadEncoder
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
    help="manifest, table or texts whose sentences must not become labels",
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
  parser = Parser(
    prog="n2m label",
    description="Captions for music that has none.",
    epilog="n2m label beam and duplicates-beam: as run and duplicates, on many machines (--runner"
    " and Beam's other options)",
  )
  commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

  def command(name: str, run, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    return added

  run = command("run", _run, "give each clip of a manifest its nearest captions")
  add_run_options(run)
  run.add_argument("--workers", type=_positive, help="threads that read; one a core where left out")

  told = command("explain", _explain, "what lies near a clip, and why it became a label or not")
  told.add_argument("clip", help="an audio file, or the id of a clip of the run")
  told.add_argument("--run", dest="folder", required=True, help="folder of n2m label run")

  page = command("audit", _audit, "write one HTML page to listen to and judge labels by")
  page.add_argument("--run", dest="folder", required=True, help="folder of n2m label run")
  page.add_argument("--out", help="the page; RUN/audit.html where left out")
  page.add_argument("--clips", type=int, default=Audit.clips, help="shown; %(default)s")
  page.add_argument("--seed", type=int, default=Audit.seed, help="which; %(default)s")

  twice = command("duplicates", _duplicates, "find recordings that are there twice")
  twice.add_argument("source", help="manifest.jsonl or its folder")
  twice.add_argument("--against", help="another manifest, as of an evaluation set")
  twice.add_argument("--encoder", required=True, help="as of n2m label run")
  twice.add_argument("--out", required=True, help=f"folder for {DUPLICATES}, and for vectors")
  twice.add_argument("--cosine", type=float, default=COSINE, help="of vectors; %(default)s")
  help = "of the audio; %(default)s"
  twice.add_argument("--correlation", type=float, default=Overlay.threshold, help=help)
  return parser


def _encoder(name: str) -> str:
  return os.path.abspath(name) if Path(name).exists() else name


def _run(args: argparse.Namespace, load: LoadEncoder) -> int:
  summary = label_dataset(
    job_from(args), load=load, workers=args.workers, progress=terminal_progress
  )
  print(summary)
  return 0


def _explain(args: argparse.Namespace, load: LoadEncoder) -> int:
  vocabulary = None
  for fate in explain(args.clip, run=args.folder, load=load):
    if fate.vocabulary != vocabulary:
      vocabulary = fate.vocabulary
      print(f"{vocabulary}\n{HEADING}")
    print(fate)
  return 0


def _audit(args: argparse.Namespace, load: LoadEncoder) -> int:
  print(f"wrote {Audit(clips=args.clips, seed=args.seed).write(args.folder, args.out)}")
  return 0


def _duplicates(args: argparse.Namespace, load: LoadEncoder) -> int:
  overlay, out = Overlay(threshold=args.correlation), Path(args.out)
  encoder = load(_encoder(args.encoder))
  stores, files = [], []
  for name, source in ((CLIPS, args.source), ("against", args.against)):
    if source is None:
      continue
    manifest = manifest_path(source)
    items = clip_items(read_manifest(manifest), folder=manifest.parent)
    store = store_clips(out / EMBEDDINGS / name, items, encoder=encoder, progress=terminal_progress)
    paths = {item.id: item.what for item in items}
    stores.append(store.rows(range(len(store))))
    files.append([(clip, paths[clip]) for clip in store.ids])
    for clip, reason in store.failed.items():
      print(f"left out: {clip}: {reason}", file=sys.stderr)
  found = find_duplicates(
    files[0],
    stores[0],
    against=(files[1], stores[1]) if args.against else None,
    cosine=args.cosine,
    overlay=overlay,
  )
  write_json_lines(out / DUPLICATES, (one.to_json() for one in found))
  print(f"{len(found)} pairs are one recording: {out / DUPLICATES}")
  if not args.against:
    spare = sum(len(group) - 1 for group in groups(found))
    print(f"{spare} clips of {len(files[0])} could go, to leave one of each")
  return 0


def _positive(text: str) -> int:
  value = int(text)
  if value < 1:
    raise argparse.ArgumentTypeError("must be 1 or more")
  return value
