"""What training a stage and sampling it cost, on a slice that nobody has rented yet.

  n2m plan --gin_file=configs/runs/smoke/super_resolution.gin --topology=v4:2x2x1

Counts parameters, operations and bytes, and compiles the real programs for the slice's chips where
their compiler is installed (the extra [tpu]; no TPU is needed). Reads no data and no
weights: MODEL_DIR, DATA and the files of the text encoder may be left out.
"""

import json
import sys
from collections.abc import Sequence

from launch import gin_main

EXAMPLE = """\
  n2m plan --gin_file=configs/runs/smoke/super_resolution.gin --topology=cpu:1
Topologies: v4:2x2x1, v5e:16x16, v5p:8x8x16, v6e:4x4 (TPU); h100:8 or gpu:8, h200:8, a100:8
(arithmetic alone); cpu:8 (virtual devices of this machine).
"""
NOTHING_READ = "configs/base/nothing_read.gin"


def main(argv: Sequence[str]) -> int:
  parser = gin_main.parser(
    prog="n2m plan",
    description="What a run costs on a slice, before renting it.",
    example=EXAMPLE,
    runs=False,
  )
  parser.add_argument("--topology", required=True, metavar="CHIP:SIZE", help="listed below")
  parser.add_argument("--slices", type=int, default=1, metavar="N", help="slices of that size")
  parser.add_argument("--clips", type=int, default=4, metavar="N", help="at once; %(default)s")
  parser.add_argument(
    "--clip_seconds", type=float, default=29.44, metavar="S", help="of a clip; %(default)s"
  )
  parser.add_argument("--no_compile", action="store_true", help="the arithmetic alone")
  parser.add_argument("--json", action="store_true", help="print JSON in place of text")
  arguments = gin_main.parse_arguments(parser, argv)
  flags = arguments.flags
  from noise2music.planning.topology import parse_topology

  topology = parse_topology(flags.topology, slices=flags.slices)
  import jax

  jax.config.update("jax_platforms", "cpu")  # the TPU compiler may be here, a TPU need not
  if topology.chip is None:
    jax.config.update("jax_num_cpu_devices", topology.chips)
  gin_main.set_up()
  from launch.planner import Planner
  from noise2music.config import gin_utils
  from noise2music.planning.report import as_text
  from noise2music.training import Training

  gin_utils.parse(
    [*flags.gin_file, NOTHING_READ], arguments.bindings, search_paths=flags.gin_search_paths
  )
  gin_utils.check_macros_read(unless=gin_utils.macros_set_in(NOTHING_READ))
  planner = Planner(
    topology=topology,
    clips=flags.clips,
    clip_seconds=flags.clip_seconds,
    compile=not flags.no_compile,
  )
  plan = planner.plan(gin_utils.build(Training))
  print(json.dumps(plan.to_json(), indent=1) if flags.json else as_text(plan))
  return 0


if __name__ == "__main__":
  sys.exit(gin_main.run(main))
