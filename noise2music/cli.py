"""The `n2m` command: thin, no defaults of its own.

Modules are imported by the command that needs them, so that `n2m --help` answers at once.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Any

import noise2music
from noise2music.errors import Parser, UserError

HELP = """\
usage: n2m COMMAND ...

Text-to-music diffusion cascades: data, training, generation.

commands:
  data       import, check and cut music files, build shards, embed texts
  label      captions for music that has none: run, explain, audit, duplicates
  train      train one stage from gin files (as python -m launch.train)
  generate   make music from a prompt
  evaluate   score music: run, folders, compare, memorisation, listening
  plan       what a run costs on a slice of TPUs, before renting it
  tune       fast ways to sample a cascade, scored, as presets

n2m COMMAND --help says more.
"""


EXAMPLES = """\
examples:
  n2m generate --model runs/demo -p "A lively jig for flute." -o jig.wav
  n2m generate ... --init-audio jig.wav --continue --duration 3      # jig.wav, then 3 s more
  n2m generate ... --init-audio jig.wav --continue 2 --duration 3    # its first 2 s, then 3 s more
  n2m generate ... --init-audio jig.wav --replace 1:2.5              # seconds 1 to 2.5 made anew
  n2m generate ... --init-audio jig.wav --strength 0.6               # the like of it, by the prompt
  n2m generate ... --loop --duration 2                               # two seconds to be repeated
  n2m generate ... --blend "A slow waltz for tuba." 0.5              # between two prompts
"""


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command. 0: done; 2: one sentence on stderr says what to mend; 130: Ctrl-C."""
  argv = list(sys.argv[1:] if argv is None else argv)
  command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
  if command in ("-h", "--help"):
    print(HELP, end="")
    return 0
  if command == "--version":
    print(noise2music.__version__)
    return 0
  commands = {
    "data": _data,
    "label": _label,
    "train": _train,
    "generate": _generate,
    "evaluate": _evaluate,
    "plan": _plan,
    "tune": _tune,
  }
  if command not in commands:
    print(f"error: no command {command!r}: use one of {', '.join(commands)}", file=sys.stderr)
    return 2
  from launch import gin_main

  return gin_main.run(commands[command], rest)


def _data(argv: Sequence[str]) -> int:
  if argv[:1] == ["embed"]:  # runs an encoder, which data_pipelines know nothing of
    from launch import embed

    return embed.main(argv[1:])
  from data_pipelines import command

  return command.main(argv)


def _label(argv: Sequence[str]) -> int:
  from launch import label

  return label.main(argv)


def _train(argv: Sequence[str]) -> int:
  from launch import train

  return train.main(argv)


def _evaluate(argv: Sequence[str]) -> int:
  from launch import evaluate

  return evaluate.command(argv)


def _plan(argv: Sequence[str]) -> int:
  from launch import plan

  return plan.main(argv)


def _tune(argv: Sequence[str]) -> int:
  from launch import tune

  return tune.main(argv)


def _generate(argv: Sequence[str]) -> int:
  args = _generate_parser().parse_args(argv)
  from launch import gin_main
  from noise2music.audio.recording import Recording
  from noise2music.pipeline import Pipeline, check_request, make_output_folder
  from noise2music.stages.edits import check_edits
  from noise2music.stages.spec import InWindows

  gin_main.set_up()
  edits, blend = _edits(args), _blend(args.blend)
  names = ("duration", "steps", "cfg_scale", "negative_prompt", "seed", "batch_size")
  asked = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
  check_request(args.prompt, output=args.output, **asked)
  recording = None if args.init_audio is None else Recording.read(args.init_audio)
  check_edits(edits, recording=recording, blend=blend)
  make_output_folder(args.output)
  pipeline = Pipeline.from_pretrained(args.model)
  if args.windows:
    asked["windows"] = InWindows()
  progress = _Progress()
  music = pipeline.generate(
    args.prompt,
    **asked,
    preset=args.preset,
    init_audio=recording,
    edits=edits,
    blend=blend,
    on_plan=progress.begin,
    on_stage=progress.at_stage,
  )
  paths = music.save(args.output)
  for path, seed, prompt in zip(paths, music.seeds, music.prompts, strict=True):
    print(f"{path}  seed {seed}  {prompt}")
  return 0


def _edits(args: argparse.Namespace) -> list:
  """What the flags ask for, in `stages.edits`."""
  from noise2music.stages import edits

  asked = []
  if args.continued is not None:
    whole = args.continued == math.inf  # no number was given
    asked.append(edits.Continue(seconds=None if whole else args.continued))
  if args.replace is not None:
    start, end = _span(args.replace, of="--replace")
    asked.append(edits.InPaint(start_seconds=start, end_seconds=end))
  if args.strength is not None:
    asked.append(edits.FromAudio(strength=args.strength))
  if args.loop:
    asked.append(edits.Loop())
  return asked


def _blend(asked: Sequence[str] | None) -> Any:
  from noise2music.stages.edits import Blend

  if asked is None:
    return None
  prompt, weight = asked
  both = weight if ":" in weight else f"{weight}:{weight}"
  return Blend(prompt=prompt, weight=_span(both, of="the weight of --blend", like="0.5 or 0:1"))


def _span(text: str, *, of: str, like: str = "1:2.5") -> tuple[float, float]:
  """Two numbers with a colon between them."""
  try:
    start, end = (float(part) for part in text.split(":"))
  except ValueError as error:
    raise UserError(f"{of} must be like {like}, got {text!r}") from error
  return start, end


class _Progress:
  """Prints the plan of a request, and then how far it is."""

  def begin(self, plan: Any) -> None:
    from noise2music.planning.generation import Pace

    self._pace = Pace(plan)
    print(plan, flush=True)

  def at_stage(self, name: str, first: int, clips: int) -> None:
    left = self._pace.seconds_left(name, first)
    to_go = "" if left is None else f", about {max(1, round(left)):,} s to go"
    print(f"{name}: clip {first + 1} of {clips}{to_go}", flush=True)


def _generate_parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog="n2m generate",
    description="Make music from a prompt.",
    epilog=EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument(
    "-p", "--prompt", action="append", required=True, help="repeat for more clips"
  )
  parser.add_argument("--model", required=True, help="folder of a trained cascade or stage")
  parser.add_argument("-o", "--output", default="out.wav", help="file; its suffix is the format")
  parser.add_argument("--duration", type=float, help="seconds; as trained where left out")
  parser.add_argument("--preset", help="draft, balanced or best, where n2m tune has made them")
  parser.add_argument("--steps", type=int, help="network evaluations a stage")
  parser.add_argument("--cfg-scale", type=float, help="how strongly the text guides")
  parser.add_argument("--negative-prompt", help="what to lead away from")
  parser.add_argument(
    "--seed", type=int, help="of the first clip; drawn and printed where left out"
  )
  parser.add_argument(
    "--windows",
    action="store_true",
    help="make long clips in parts, each as long as what the stage was trained on",
  )
  parser.add_argument("--batch-size", type=int, help="clips at once")
  editing = parser.add_argument_group("editing", "what is done with a given file, or with the clip")
  editing.add_argument("--init-audio", metavar="FILE", help="what the next three work on")
  editing.add_argument(
    "--continue",
    dest="continued",
    metavar="SECONDS",
    type=float,
    nargs="?",
    const=math.inf,
    help="keep so much of its front, all of it without a number; --duration is of what follows",
  )
  editing.add_argument("--replace", metavar="START:END", help="make these seconds of it anew")
  editing.add_argument(
    "--strength", type=float, help="start from it with noise: 0.2 changes little, 1 keeps nothing"
  )
  editing.add_argument("--loop", action="store_true", help="let the end go on into the beginning")
  editing.add_argument(
    "--blend",
    nargs=2,
    metavar=("PROMPT", "WEIGHT"),
    help="a second prompt: 0.5 for half of it, 0:1 for more and more of it",
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
