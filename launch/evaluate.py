"""Scores music: what a cascade makes, or any two folders of clips.

  n2m evaluate run --gin_file=evaluation/folder.gin --gin.MODEL_DIR=\\"runs/demo\\" \\
      --gin.PROMPTS=\\"runs/demo/corpus\\" --gin.OUT=\\"scores\\"
  n2m evaluate folders generated/ real/ --encoder log_mel --out scores

On several hosts that share a disk give the first command on each, with --gin.HOST_INDEX and
--gin.HOST_COUNT; host 0 scores.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch import gin_main

EXAMPLE = """\
  n2m evaluate run \\
      --gin_file=evaluation/folder.gin \\
      --gin.MODEL_DIR=\\"runs/demo\\" \\
      --gin.PROMPTS=\\"runs/demo/corpus\\" \\
      --gin.OUT=\\"runs/demo/scores\\"
"""
POLL_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """An evaluation and the cascade that it is of. model_dir, stages: as `Pipeline.from_pretrained`
  takes them."""

  evaluation: Any
  model_dir: str
  stages: tuple[str, ...] | None = None


def main(argv: Sequence[str]) -> int:
  """`python -m launch.evaluate` and `n2m evaluate run`."""
  parser = gin_main.parser(
    prog="n2m evaluate run", description="Generate from prompts and score it.", example=EXAMPLE
  )
  parser.add_argument(
    "--follow", action="store_true", help="score each new checkpoint until the training is done"
  )
  parser.add_argument(
    "--patience_minutes",
    type=float,
    default=60.0,
    metavar="M",
    help="how long --follow waits for a checkpoint (default: %(default)g)",
  )
  arguments = gin_main.parse_arguments(parser, argv)
  flags = arguments.flags
  gin_main.start(flags)
  from noise2music.config import gin_utils

  gin_utils.parse(flags.gin_file, arguments.bindings, search_paths=flags.gin_search_paths)
  job = gin_utils.build(Job)
  gin_utils.check_all_used()
  if flags.dry_run:
    names = [variant.name for variant in job.evaluation.sweep.variants()]
    count = len(job.evaluation.read_prompts())
    print(f"{count} prompts, sampled in {len(names)} way(s):", *names)
    return 0
  if not flags.follow:
    _score(job, job.evaluation)
    return 0
  if job.evaluation.host_count > 1:
    from noise2music.errors import UserError

    raise UserError("a run is followed by one host: leave HOST_COUNT at 1")
  return _follow(job, patience_seconds=60 * flags.patience_minutes)


def _score(job: Job, evaluation: Any, pipeline: Any = None) -> dict[str, Any] | None:
  from launch.evaluation import PAGE, SCORES, evaluate, load_encoder, table
  from noise2music.pipeline import Pipeline

  evaluation.read_prompts()  # what cannot be scored is refused before anything is loaded
  encoders = [load_encoder(name) for name in evaluation.encoders]
  pipeline = pipeline or Pipeline.from_pretrained(job.model_dir, stages=job.stages)
  record = evaluate(evaluation, pipeline, encoders=encoders, say=_say)
  if record is not None:
    out = Path(evaluation.out)
    print(f"{table(record)}\n{out / SCORES}\n{out / PAGE}")
  return record


def _follow(job: Job, *, patience_seconds: float) -> int:
  """Scores the newest checkpoint whenever there is a new one, until the last step is scored."""
  from launch.evaluation import scalars, write_history
  from noise2music.errors import UserError
  from noise2music.pipeline import Pipeline

  done: dict[str, int] | None = None
  waited, out = time.monotonic(), Path(job.evaluation.out)
  while True:
    steps = _steps(job)
    if steps and steps != done:
      pipeline = Pipeline.from_pretrained(job.model_dir, stages=job.stages)
      if _steps(job) != steps:
        continue  # one came while they were read: which is in the pipeline?
      name = ".".join(f"{run}-{step}" for run, step in sorted(steps.items()))
      record = _score(job, dataclasses.replace(job.evaluation, out=str(out / name)), pipeline)
      write_history(out, steps, scalars(record))
      done, waited = steps, time.monotonic()
      if _finished(job, steps):
        _say("the training is done, and so are its scores")
        return 0
    if time.monotonic() - waited > patience_seconds:
      raise UserError(
        f"no new checkpoint in {job.model_dir} for {patience_seconds / 60:g} minutes: start the"
        " training, or give more --patience_minutes"
      )
    time.sleep(POLL_SECONDS)


def _runs(job: Job) -> list[Path]:
  """Those that make music."""
  path = Path(job.model_dir)
  if job.stages is not None:
    return [path / stage for stage in job.stages]
  if (path / "checkpoints").is_dir() or not path.is_dir():
    return [path]
  return [folder for folder in sorted(path.iterdir()) if _makes_music(folder)] or [path]


def _makes_music(folder: Path) -> bool:
  try:
    text = (folder / "config.gin").read_text(encoding="utf-8")
  except OSError:
    return False
  return "DenoisingObjective" in text


def _steps(job: Job) -> dict[str, int] | None:
  """The newest step of each run; None while one has none."""
  from noise2music.checkpoints.restore import newest_step

  steps = {folder.name: newest_step(folder) for folder in _runs(job)}
  return None if None in steps.values() else steps


def _finished(job: Job, steps: dict[str, int]) -> bool:
  from noise2music.pipeline import total_steps

  return all(steps[folder.name] >= total_steps(folder) for folder in _runs(job))


def command(argv: Sequence[str]) -> int:
  """`n2m evaluate`."""
  if argv[:1] == ["run"]:
    return main(argv[1:])
  args = _parser().parse_args(argv)
  gin_main.set_up()
  return args.run(args)


def _parser() -> argparse.ArgumentParser:
  from launch.evaluate_listening import add_commands as add_listening
  from noise2music.errors import Parser
  from noise2music.evaluation.protocols import PROTOCOLS

  parser = Parser(
    prog="n2m evaluate",
    description="Scores of music, each with its interval, floor and ceiling.",
    epilog="n2m evaluate run: generate from prompts and score it, from a gin file",
  )
  commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

  def add(name: str, run, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    return added

  folders = add("folders", _folders, "score the clips of one folder against those of another")
  folders.add_argument("evaluated", help="folder of audio, or a manifest")
  folders.add_argument("reference", help="folder of audio, or a manifest")
  folders.add_argument(
    "--encoder", action="append", required=True, metavar="NAME", help="repeatable; see below"
  )
  folders.add_argument("--out", required=True, help="folder for scores.json, and for embeddings")
  folders.add_argument("--protocol", default="folder", choices=sorted(PROTOCOLS))
  folders.add_argument(
    "--paired",
    action="store_true",
    help="clips of one name belong together: similarity by joint encoders, --kl",
  )
  folders.add_argument("--seed", type=int, default=0, help="of floors and intervals")
  folders.add_argument(
    "--kl", action="append", default=[], metavar="NAME", help="of an encoder that gives logits"
  )
  folders.add_argument(
    "--fadtk", action="store_true", help="extrapolate FAD as fadtk does, to compare with it"
  )
  folders.epilog = _encoders()

  compared = add("compare", _compare, "the difference of two sets of scores, where there is one")
  compared.add_argument("a", help="scores.json or its folder")
  compared.add_argument("b", help="scores.json or its folder")
  compared.add_argument("--variant", help="of both; the first of each where left out")

  repeated = add("memorisation", _repeated, "which generated clips repeat one of the training set")
  repeated.add_argument("generated", help="folder of audio, or a manifest")
  repeated.add_argument("--training", required=True, help="manifest of what was trained on")
  repeated.add_argument(
    "--held_out", required=True, help="real clips that were not: manifest, folder"
  )
  repeated.add_argument("--encoder", required=True, help="as of folders")
  repeated.add_argument("--out", required=True, help="folder for memorisation.json and the page")
  repeated.add_argument(
    "--false_alarm_rate",
    type=float,
    default=0.01,
    help="share of held-out clips that may pass a threshold; %(default)s",
  )
  add_listening(commands)
  return parser


def _encoders() -> str:
  from noise2music.evaluation.embedders.load import CHOICES

  return f"encoders: {CHOICES}"


def _folders(args: argparse.Namespace) -> int:
  from launch.evaluation import EMBEDDINGS, PAGE, SCORES, load_encoder, result_of, table
  from launch.evaluation import write_results as write
  from launch.evaluation_clips import Progress, reference_clips
  from noise2music.evaluation.frechet import ByClips, FadtkRows
  from noise2music.evaluation.protocols import protocol_of
  from noise2music.evaluation.suite import Suite, score_clips
  from noise2music.pipeline import make_output_folder

  protocol = protocol_of(args.protocol)
  evaluated = reference_clips(args.evaluated, protocol=protocol)
  reference = reference_clips(args.reference)
  make_output_folder(Path(args.out) / SCORES)
  suite = Suite(
    encoders=[load_encoder(name) for name in args.encoder],
    protocol=protocol,
    folder=Path(args.out) / EMBEDDINGS,
    seed=args.seed,
    kl=args.kl,
    infinity=FadtkRows() if args.fadtk else ByClips(),
    say=Progress(
      "embedding",
      total=len(args.encoder) * (len(evaluated.files) + len(reference.files)),
      say=_say,
    ),
  )
  result = score_clips(evaluated, reference, suite, truth=reference if args.paired else None)
  record = {
    "provenance": {"command": sys.argv, "evaluated": args.evaluated, "reference": args.reference},
    "truth": {file.id: file.path for file in reference.files} if args.paired else {},
    "variants": [result_of(evaluated, result)],
  }
  write(Path(args.out), record)
  print(f"{table(record)}\n{Path(args.out) / SCORES}\n{Path(args.out) / PAGE}")
  return 0


def _repeated(args: argparse.Namespace) -> int:
  from data_pipelines.manifest import atomic_text
  from launch.evaluation import EMBEDDINGS, PAGE, load_encoder
  from launch.evaluation_clips import HELD_OUT, Progress, reference_clips, trained_files
  from launch.evaluation_report import memorisation_of, memorisation_section
  from noise2music.evaluation.evaluation_page import EvaluationPage, write_evaluation_page
  from noise2music.pipeline import make_output_folder

  generated, held_out = (
    reference_clips(args.generated),
    reference_clips(args.held_out, split=HELD_OUT),
  )
  training, out, encoder = trained_files(args.training), Path(args.out), load_encoder(args.encoder)
  make_output_folder(out / PAGE)
  result, left_out = memorisation_of(
    generated.files,
    held_out=held_out.files,
    training=training,
    encoder=encoder,
    folder=out / EMBEDDINGS,
    false_alarm_rate=args.false_alarm_rate,
    say=Progress("embedding", say=_say),
  )
  record = result.to_json() | {"left_out": left_out}
  with atomic_text(out / "memorisation.json") as file:
    json.dump(record, file, indent=1, ensure_ascii=False)
  page = EvaluationPage(
    title="noise2music: does it repeat its training set",
    provenance={"command": sys.argv, "encoder": encoder.name, "fingerprint": encoder.fingerprint},
    memorisation=memorisation_section(result, generated=generated.files, training=training),
  )
  write_evaluation_page(out / PAGE, page)
  if left_out:
    print(f"left out: {len(left_out)} clips, with their reasons in memorisation.json")
  for name in ("near", "matched"):
    share = record[name]
    print(f"{name}: {share['hits']} of {share['n']} clips")
  print(f"{out / 'memorisation.json'}\n{out / PAGE}")
  return 0


def _compare(args: argparse.Namespace) -> int:
  from launch.evaluation import read_results, scores_of
  from noise2music.errors import UserError
  from noise2music.evaluation.scores import compare

  sides = [scores_of(read_results(path), args.variant) for path in (args.a, args.b)]
  shared = [name for name in sides[0] if name in sides[1]]
  if not shared:
    raise UserError(f"{args.a} and {args.b} share no metric: score both with the same encoders")
  refused = []
  for name in shared:
    (a, of_clips_a), (b, of_clips_b) = (side[name] for side in sides)
    try:
      print(json.dumps(compare(a, b, clips=(of_clips_a, of_clips_b))))
    except UserError as error:
      refused.append(str(error))
      print(json.dumps({"metric": name, "refused": str(error)}))
  if len(refused) == len(shared):
    raise UserError(refused[0])
  return 0


def _say(text: str) -> None:
  print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
  from launch import evaluate  # under the name by which gin files know it

  sys.exit(gin_main.run(evaluate.main))
