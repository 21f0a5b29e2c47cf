"""Clips through both routes with random weights: time and memory of each stage.

  python -m benchmarks.cascade --size=tiny --seconds=1                            (a CPU)
  python -m benchmarks.cascade --size=paper --seconds=30 --steps=paper            (a GPU)

text -> spectrogram -> vocoder -> super resolution, and text -> waveform -> cascader -> super
resolution. Each stage listens to what the one before it made, as in `n2m generate`, and runs twice,
of which the second run counts. Memory is what its program takes, weights included.
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import measure
from benchmarks.sample_step import random_params, request
from noise2music.pipeline import override
from noise2music.stages.cascade import Cascade
from noise2music.stages.generate import lower_sample, sample

ROUTES = {
  "spectrogram": ("spectrogram_generator", "spectrogram_vocoder", "super_resolution"),
  "waveform": ("waveform_generator", "waveform_cascader", "super_resolution"),
}


def route(stages: Sequence[str], flags: Any, bindings: Sequence[str]) -> list[dict[str, Any]]:
  """One row a stage."""
  trainings = {name: measure.training_of(name, flags.size, bindings) for name in stages}
  cascade = Cascade(objectives=tuple(trainings[name].objective for name in stages))
  made: dict[str, jax.Array] = {}
  rows = []
  for index, (name, objective) in enumerate(zip(stages, cascade.objectives, strict=True)):
    stage = objective.stage
    params = random_params(objective, trainings[name].batches.local_spec)["network"]
    sampling = override(stage, steps=flags.steps, cfg_scale=None)
    asked = request(objective, clips=flags.clips, seconds=flags.seconds)
    signals = {key: made[maker] for key, maker in cascade.sources(index).items()}
    asked |= {"signals": signals, "sampling": sampling}
    began = time.perf_counter()
    memory = measure.memory_of(lower_sample(stage, params, **asked).compile())
    compiled = time.perf_counter() - began
    run = lambda s=stage, p=params, a=asked: sample(s, p, **a)  # noqa: E731
    made[name] = jax.block_until_ready(run())
    seconds = measure.seconds_of(run)
    taken = len(sampling.time_steps.times(stage.noise_schedule)) - 1
    rows.append(
      {
        "stage": name,
        "M_params": measure.parameters_of(params) / 1e6,
        "steps": taken,
        "compile_s": compiled,
        "s": seconds,
        "ms_a_step": 1e3 * seconds / taken,
        "MiB": (memory["argument_bytes"] + memory["temporary_bytes"]) / 2**20,
        "finite": bool(jnp.isfinite(made[name]).all()),
      }
    )
  return rows


def _steps(text: str) -> int | None:
  return None if text == "paper" else measure.count(text)


def main(argv: Sequence[str]) -> int:
  parser = measure.parser(__doc__.splitlines()[0])
  parser.add_argument("--clips", type=measure.count, default=4, help="at once; %(default)s")
  parser.add_argument(
    "--seconds", type=measure.duration, default=30.0, help="of each clip; %(default)s"
  )
  parser.add_argument("--steps", type=_steps, default=20, help='of each stage, or "paper"; 20')
  flags, bindings = measure.parse_arguments(parser, argv)
  routes = {name: route(stages, flags, bindings) for name, stages in ROUTES.items()}
  if flags.json:
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    print(json.dumps({**measure.where(), "device_peak_bytes": peak, "routes": routes}, indent=1))
    return 0
  for name, rows in routes.items():
    total = sum(row["s"] for row in rows)
    print(f"{name} route, {flags.clips} clips of {flags.seconds:g} s: {total:.2f} s")
    print(measure.table(rows))
  return 0


if __name__ == "__main__":
  measure.main(main)
