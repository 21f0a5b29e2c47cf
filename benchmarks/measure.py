"""What the benchmarks share: the run of a stage at a size, its speed beside the machine's, a table.

A step is timed in rounds, each with the machine's own matrix product of the same dtype, and medians
count: so other work on the machine, which slows both, leaves their ratio. FLOPs are those of matrix
products and convolutions (`noise2music.planning.work`), without what remat computes twice.
"""

import argparse
import dataclasses
import json
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

from launch import gin_main
from launch.plan import NOTHING_READ
from noise2music.config import gin_utils
from noise2music.errors import Parser
from noise2music.nn.stacking import Scanned
from noise2music.planning.chips import CHIPS, Chip
from noise2music.stages.objective import DenoisingObjective
from noise2music.stages.text_conditioner import TextConditioner
from noise2music.training import Training
from noise2music.typing import PyTree

STAGES = sorted(
  path.stem for path in (Path(__file__).resolve().parents[1] / "configs/stages").glob("*.gin")
)
SIZES = {
  "tiny": ("configs/runs/smoke/{}.gin",),
  "small": ("configs/runs/paper/{}.gin", "configs/sizes/small.gin"),
  "paper": ("configs/runs/paper/{}.gin",),
}
# What jax calls them, as far as it differs.
DEVICE_KINDS = {"v5 lite": "v5e", "v6 lite": "v6e", "v5": "v5p"}


class RandomText(TextConditioner):
  """Keeps its random parameters where a run would read a checkpoint."""

  def pretrained(self, params: PyTree) -> PyTree:
    return params


def count(text: str) -> int:
  """Of a flag: a whole number above 0."""
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
  return int(text)


def duration(text: str) -> float:
  """Of a flag: seconds above 0."""
  try:
    seconds = float(text)
  except ValueError:
    seconds = math.nan
  if not 0 < seconds < math.inf:
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
  return seconds


def parser(description: str) -> argparse.ArgumentParser:
  """With the flags of all."""
  out = Parser(description=description, epilog="--gin.NAME=value as in python -m launch.train")
  out.add_argument("--size", choices=list(SIZES), default="tiny")
  out.add_argument("--json", action="store_true", help="print JSON in place of a table")
  return out


def step_parser(description: str) -> argparse.ArgumentParser:
  """With the flags of train_step and sample_step too."""
  out = parser(description)
  out.add_argument("--stage", choices=STAGES, default=STAGES[0])
  out.add_argument("--rounds", type=count, default=10, help="medians are over them; %(default)s")
  out.add_argument("--peers", action="store_true", help="side by side with torch networks")
  out.add_argument("--cores", type=count, help="for --peers; all where left out")
  return out


def parse_arguments(
  out: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, list[str]]:
  """(flags, gin bindings)"""
  bindings, rest = gin_main.take_bindings(argv)
  flags = out.parse_args(rest)
  return flags, bindings


def training_of(stage: str, size: str, bindings: Sequence[str] = ()) -> Training:
  """The run, with the shapes of a data set for data and random weights for its text encoder."""
  files = [name.format(stage) for name in SIZES[size]]
  gin_utils.parse([*files, NOTHING_READ], bindings)
  gin_utils.check_macros_read(unless=gin_utils.macros_set_in(NOTHING_READ))
  training = gin_utils.build(Training)
  text = training.objective.text_conditioner
  if text is None:
    return training
  fields = {field.name: getattr(text, field.name) for field in dataclasses.fields(text)}
  objective = dataclasses.replace(training.objective, text_conditioner=RandomText(**fields))
  return dataclasses.replace(training, objective=objective)


def without_remat(objective: DenoisingObjective) -> DenoisingObjective:
  """To count FLOPs on: the same function, its scans computing nothing twice."""
  network = objective.stage.network.clone(stacking=Scanned(remat=False))
  return dataclasses.replace(objective, stage=dataclasses.replace(objective.stage, network=network))


def compile_twice(lower: Callable[[], jax.stages.Lowered]) -> tuple[Any, dict[str, float]]:
  """The program and the seconds it takes to trace and compile, first and from the disk's cache.

  In a cache of its own, so that the first time is the first time.
  """
  seconds = {}
  with tempfile.TemporaryDirectory() as folder:
    before = jax.config.jax_compilation_cache_dir
    _cache_in(folder)
    try:
      for name in ("compile_s", "compile_cached_s"):
        jax.clear_caches()
        began = time.perf_counter()
        program = lower().compile()
        seconds[name] = time.perf_counter() - began
    finally:
      _cache_in(before)
  return program, seconds


def _cache_in(folder: str | None) -> None:
  jax.config.update("jax_compilation_cache_dir", folder)
  compilation_cache.reset_cache()


def seconds_of(call: Callable[[], Any], *, times: int = 1) -> float:
  """Of one call, among `times` of them in a row."""
  began = time.perf_counter()
  out = None
  for _ in range(times):
    out = call()
  jax.block_until_ready(out)
  return (time.perf_counter() - began) / times


def matrix_product(dtype: Any) -> tuple[Callable[[], jax.Array], float]:
  """(a call that runs one in this dtype, its FLOPs), of a size that keeps the machine busy."""
  size = 1024 if jax.default_backend() == "cpu" else 8192
  square = jax.random.normal(jax.random.key(0), (size, size), dtype)
  product = jax.jit(jnp.matmul)
  return lambda: product(square, square), 2.0 * size**3


def rounds_of(
  calls: Mapping[str, Callable[[], Any]], *, rounds: int, least_s: float = 0.2
) -> dict[str, list[float]]:
  """Seconds of each call, round for round; in each they take turns, for `least_s` or one call."""
  for call in calls.values():
    jax.block_until_ready(call())
  times = {name: max(1, round(least_s / seconds_of(call))) for name, call in calls.items()}
  taken = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      taken[name].append(seconds_of(call, times=times[name]))
  return taken


def speed(step: Callable[[], Any], *, flops: float, steps: int, dtype: Any, rounds: int) -> dict:
  """Rates of `step`, which takes `steps` of `flops` each, beside those of the machine."""
  product, product_flops = matrix_product(dtype)
  rounds_taken = rounds_of({"step": step, "product": product}, rounds=rounds)
  taken = {name: statistics.median(seconds) for name, seconds in rounds_taken.items()}
  rate, machine = flops * steps / taken["step"], product_flops / taken["product"]
  chip = chip_of(jax.devices()[0])
  peak = chip.flops * jax.device_count() if chip and dtype == jnp.bfloat16 else None
  return {
    "ms_per_step": 1e3 * taken["step"] / steps,
    "ms_per_step_least": 1e3 * min(rounds_taken["step"]) / steps,
    "ms_per_step_most": 1e3 * max(rounds_taken["step"]) / steps,
    "steps_per_s": steps / taken["step"],
    "gflop_per_step": flops / 1e9,
    "gflops": rate / 1e9,
    "gemm_gflops": machine / 1e9,
    "share_of_gemm": rate / (machine * jax.device_count()),
    "mfu": rate / peak if peak else None,
  }


def chip_of(device: jax.Device) -> Chip | None:
  """The chip in the planner's table, by what jax calls it; None for a processor and the unknown."""
  kind = device.device_kind.lower()
  names = {**{name: name for name in CHIPS}, **DEVICE_KINDS}
  if device.platform == "cpu":
    return None
  return next((CHIPS[name] for part, name in names.items() if part in kind), None)


def memory_of(program: Any) -> dict[str, float | None]:
  """Bytes of one program, of the device since the process began, and of the process."""
  sizes, stats = program.memory_analysis(), jax.devices()[0].memory_stats() or {}
  return {
    "argument_bytes": sizes.argument_size_in_bytes,
    "temporary_bytes": sizes.temp_size_in_bytes,
    "device_peak_bytes": stats.get("peak_bytes_in_use"),
    "process_peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
  }


def parameters_of(tree: PyTree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


def where() -> dict[str, Any]:
  device = jax.devices()[0]
  versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__}
  return {"device": device.device_kind, "devices": jax.device_count(), **versions}


_UNITS = {"_bytes": (2**-20, "MiB"), "_s": (1, "s"), "mfu": (100, "%"), "share_of_gemm": (100, "%")}


def report(facts: Mapping[str, Any], *, as_json: bool) -> None:
  """One line a figure."""
  if as_json:
    print(json.dumps(facts, indent=1))
    return
  for name, value in facts.items():
    if value is None:
      continue
    ending = next((end for end in _UNITS if name.endswith(end) and "per" not in name), None)
    scale, unit = _UNITS.get(ending, (1, ""))
    label = name.removesuffix(ending or "\n").replace("_", " ") or name
    shown = f"{scale * value:,.4g}" if isinstance(value, float) or ending else str(value)
    print(f"{label:20} {shown} {unit}".rstrip())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Columns by the keys of the first row, numbers to four digits."""
  cells = [[_cell(row.get(name)) for name in rows[0]] for row in rows]
  head = [name.replace("_", " ") for name in rows[0]]
  widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
  lines = [
    f"{first:{widths[0]}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(rest, widths[1:], strict=True))
    for first, *rest in [head, *cells]
  ]
  return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
  if value is None:
    return "-"
  return f"{value:,.4g}" if isinstance(value, float) else str(value)


def main(run: Callable[[Sequence[str]], int]) -> None:
  """As the project's own mains: users' errors are one sentence, compiled programs are kept."""
  gin_main.set_up()
  sys.exit(gin_main.run(run))
