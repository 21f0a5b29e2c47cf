"""The `n2m` command: thin, no defaults of its own.

Modules are imported by the sub-command that needs them, so that `n2m --help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import noise2music
from noise2music.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one sub-command. 0: done; 2: one sentence on stderr says what to mend; 130: Ctrl-C."""
  args = _parser().parse_args(argv)
  return run(lambda: args.run(args))


def run(command: Callable[[], int | None]) -> int:
  """Turns errors that a user can mend into one line and exit status 2."""
  try:
    return command() or 0
  except KeyboardInterrupt:
    print("stopped", file=sys.stderr)
    return 130
  except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="n2m", description="Text-to-music diffusion cascades: data, training, generation."
  )
  parser.add_argument("--version", action="version", version=noise2music.__version__)
  commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
  _add_generate(commands)
  _add_train(commands)
  _add_data(commands)
  return parser


def _add_generate(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
    "generate",
    help="make music from a prompt",
    description="Example: n2m generate --model runs/demo -p 'A lively jig for flute.' -o jig.wav",
  )
  parser.add_argument("-p", "--prompt", action="append", required=True, help="repeat for more clips")
  parser.add_argument("--model", required=True, help="folder of a trained cascade or stage")
  parser.add_argument("-o", "--output", default="out.wav", help="file; its suffix is the format")
  parser.add_argument("--duration", type=float, help="seconds; as trained where left out")
  parser.add_argument("--steps", type=int, help="network evaluations a stage")
  parser.add_argument("--cfg-scale", type=float, help="how strongly the text guides")
  parser.add_argument("--negative-prompt", help="what to lead away from")
  parser.add_argument("--seed", type=int, help="of the first clip; drawn and printed where left out")
  parser.add_argument("--batch-size", type=int, help="clips at once")
  parser.set_defaults(run=_generate)


def _generate(args: argparse.Namespace) -> None:
  from noise2music.pipeline import Pipeline, check_request

  names = ("duration", "steps", "cfg_scale", "negative_prompt", "seed", "batch_size")
  asked = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
  check_request(args.prompt, output=args.output, **asked)
  pipeline = Pipeline.from_pretrained(args.model)
  music = pipeline.generate(
    args.prompt,
    **asked,
    on_stage=lambda name, first, clips: print(f"{name}: clip {first + 1} of {clips}", flush=True),
  )
  paths = music.save(args.output)
  for path, seed, prompt in zip(paths, music.seeds, music.prompts, strict=True):
    print(f"{path}  seed {seed}  {prompt}")


def _add_train(commands: argparse._SubParsersAction) -> None:
  parser = commands.add_parser(
    "train",
    add_help=False,
    help="train one stage from a gin file (python -m launch.train)",
  )
  parser.add_argument("rest", nargs=argparse.REMAINDER)
  parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
  from launch import train

  return train.main(args.rest)


def _add_data(commands: argparse._SubParsersAction) -> None:
  """Filled in by data_pipelines.command, which knows the importers and their options."""
  parser = commands.add_parser("data", add_help=False, help="import, check and cut music files")
  parser.add_argument("rest", nargs=argparse.REMAINDER)
  parser.set_defaults(run=_data)


def _data(args: argparse.Namespace) -> int:
  from data_pipelines import command

  return command.main(args.rest)


if __name__ == "__main__":
  sys.exit(main())
