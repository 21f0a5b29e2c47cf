"""Memory of a long clip on one chip with 16 GB, whole and in windows, by the TPU compiler.

  python -m benchmarks.long_clips --stage=super_resolution --seconds=600 --windows

Compiles the paper's sampler for a TPU v5e that need not be there (the extra [tpu]); minutes a
program. Prints one JSON object; long_clips.json is a list of such.
"""

import argparse
import json

import jax

from launch import gin_main
from launch.planner import Planner
from noise2music.config import gin_utils
from noise2music.planning.topology import parse_topology
from noise2music.training import Training

TOPOLOGY = "v5e:1x1"


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--stage", required=True)
  parser.add_argument("--seconds", type=float, default=30.0)
  parser.add_argument("--clips", type=int, default=1)
  parser.add_argument("--windows", action="store_true")
  flags = parser.parse_args()
  jax.config.update("jax_platforms", "cpu")  # the compiler is here, a TPU need not be
  gin_main.set_up()
  windows = ["configs/sampling/windows.gin"] if flags.windows else []
  files = [f"configs/runs/paper/{flags.stage}.gin", *windows, "configs/base/nothing_read.gin"]
  gin_utils.parse(files, [])
  planner = Planner(
    topology=parse_topology(TOPOLOGY), clips=flags.clips, clip_seconds=flags.seconds, compile=True
  )
  found = planner.sampling(gin_utils.build(Training))
  peak = found.program.peak_bytes if found.program else found.room.needed_bytes
  figures = {"fits": found.room.fits, "peak_gib": round(peak / 2**30, 2)}
  figures["tflop_a_step"] = round(found.flops / 1e12, 2)
  print(json.dumps({**vars(flags), "topology": TOPOLOGY, **figures}))


if __name__ == "__main__":
  main()
