"""Generates from a cascade that a gin file names, on every device of the host.

  python -m launch.generate --gin_file=cascades/waveform.gin \\
      --gin.MODEL_DIR=\\"runs/demo\\" --gin.PROMPTS='["A lively jig for flute."]'

For one prompt at a time, `n2m generate` is the shorter way.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from launch import gin_main

EXAMPLE = """\
  python -m launch.generate \\
      --gin_file=cascades/waveform.gin \\
      --gin.MODEL_DIR=\\"runs/demo\\" \\
      --gin.PROMPTS='["A lively jig for flute.", "A slow waltz for piano."]' \\
      --gin.OUTPUT=\\"music.wav\\"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What to make. model_dir: holds the runs named in `stages`, in the order of the cascade.

  The rest is as in `Pipeline.generate`; None leaves it to the stages. output: as in
  `Generation.save`. edits, blend: of `noise2music.stages.edits`, as [@edits.Continue()].
  """

  model_dir: str
  stages: tuple[str, ...]
  prompts: tuple[str, ...]
  output: str = "out.wav"
  duration: float | None = None
  steps: int | None = None
  cfg_scale: float | None = None
  negative_prompt: str | None = None
  seed: int | None = None
  batch_size: int = 4
  blend: Any = None
  init_audio: str | None = None
  edits: tuple[Any, ...] = ()

  def __post_init__(self):
    if isinstance(self.prompts, str):
      object.__setattr__(self, "prompts", (self.prompts,))
    object.__setattr__(self, "edits", tuple(self.edits))


def main(argv: Sequence[str]) -> int:
  parser = gin_main.parser(
    prog="python -m launch.generate", description="Generate music from prompts.", example=EXAMPLE
  )
  arguments = gin_main.parse_arguments(parser, argv)
  gin_main.start(arguments.flags)
  from noise2music.config import gin_utils
  from noise2music.pipeline import Pipeline, check_request, make_output_folder

  flags = arguments.flags
  gin_utils.parse(flags.gin_file, arguments.bindings, search_paths=flags.gin_search_paths)
  request = gin_utils.build(Request)
  gin_utils.check_all_used()
  asked = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
  model_dir, stages = asked.pop("model_dir"), asked.pop("stages")
  prompts, output = asked.pop("prompts"), asked.pop("output")
  editing = {name: asked.pop(name) for name in ("blend", "init_audio", "edits")}
  check_request(prompts, output=output, **asked)
  pipeline = Pipeline.from_pretrained(model_dir, stages=stages)
  if flags.dry_run:
    print("\n".join(stage.name for stage in pipeline.cascade.stages))
    return 0
  make_output_folder(output)
  music = pipeline.generate(prompts, **asked, **editing)
  for path, seed, prompt in zip(music.save(output), music.seeds, music.prompts, strict=True):
    print(f"{path}  seed {seed}  {prompt}")
  return 0


if __name__ == "__main__":
  from launch import generate  # under the name by which gin files know it

  sys.exit(gin_main.run(generate.main))
