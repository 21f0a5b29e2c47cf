"""Trains what a gin file describes; running the same command again goes on where it stopped.

  python -m launch.train --gin_file=runs/smoke/waveform_generator.gin \\
      --gin.MODEL_DIR=\\"runs/mine\\" --gin.DATA=\\"runs/demo/corpus\\"

On several hosts give the same command on each, with --process_index; on one, `launch.local` does.

MODEL_DIR then holds config.gin (the resolved config), model-info.txt (the parameters),
metrics.jsonl, tensorboard/, samples/ and checkpoints/.
"""

import dataclasses
import sys
from collections.abc import Sequence

from launch import gin_main

EXAMPLE = """\
  python -m launch.train \\
      --gin_file=runs/smoke/waveform_generator.gin \\
      --gin.MODEL_DIR=\\"runs/mine\\" \\
      --gin.DATA=\\"runs/demo/corpus\\"
Run it again to go on where it stopped. Ctrl-C finishes the step, saves, and exits with status 130
(SIGTERM: 143); a second Ctrl-C leaves at once. Errors that you can mend exit with status 2.
"""


def main(argv: Sequence[str]) -> int:
  parser = gin_main.parser(
    prog="python -m launch.train",
    description="Train one stage of a cascade from gin files.",
    example=EXAMPLE,
  )
  parser.add_argument(
    "--allow_drift",
    action="extend",
    type=lambda text: text.split(","),
    default=[],
    metavar="KEY[,KEY]",
    help="what may have changed since the checkpoint; `data`, `version` or `all` are keys too",
  )
  arguments = gin_main.parse_arguments(parser, argv)
  gin_main.start(arguments.flags)
  # Imported here so that --help and a mistyped flag answer at once.
  from noise2music import training
  from noise2music.config import gin_utils

  flags = arguments.flags
  gin_utils.parse(flags.gin_file, arguments.bindings, search_paths=flags.gin_search_paths)
  run = gin_utils.build(training.Training)
  gin_utils.check_all_used()
  run = dataclasses.replace(run, allow_drift=(*run.allow_drift, *flags.allow_drift))
  if flags.dry_run:
    print(training.describe(training.inspect(run)))
    return 0
  outcome = training.train(run, config_text=gin_utils.operative_config_text())
  return 0 if outcome.signal is None else 128 + outcome.signal


if __name__ == "__main__":
  sys.exit(gin_main.run(main))
