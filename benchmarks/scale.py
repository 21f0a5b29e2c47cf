"""A table of what the paper's five models cost on slices of TPU.

  python -m benchmarks.scale --out plans             plans, one JSON file each
  python -m benchmarks.scale --out plans --table     the table of what is there

Each plan is a process of its own (`n2m plan`), so that one that fails costs no other; plans that
are there already, with all that is asked for, are kept. With the TPU compiler installed (the extra
[tpu]) a plan takes minutes.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import measure
from noise2music.errors import Parser, UserError
from noise2music.planning.topology import parse_topology

# Table 4: a sampling step of four clips on four TPU v4.
PAPER_MS = {
  "waveform_generator": 25.0,
  "waveform_cascader": 75.0,
  "spectrogram_generator": 8.3,
  "spectrogram_vocoder": 29.9,
  "super_resolution": 71.7,
}
STAGES = tuple(PAPER_MS)
TOPOLOGIES = ("v4:4x4x4", "v4:4x8x8", "v5p:4x4x4", "v5p:4x8x8")
TRAINING = (
  "model", "slice", "clips a chip", "PFLOP a step", "GiB of a chip", "multiplying, ms",
  "memory, ms", "compiler, ms", "of the roof", "links, ms",
  "days to the paper's steps", "compiled in, s", "code, MB",
)  # fmt: skip
SAMPLING = (
  "model", "chips", "TFLOP a step", "GiB of a chip", "multiplying, ms", "memory, ms",
  "compiler, ms", "the paper's, ms", "of the paper's", "compiled in, s", "code, MB",
)  # fmt: skip
# Of instructions, by the operation that they end in, as jax or else the compiler names it.
KINDS = {
  "products": ("products",),
  "sums": ("reduce_sum", "reduce"),
  "copies": ("copy", "dynamic_slice", "dynamic_update_slice", "slice", "pad", "squeeze"),
  "changes of type": ("convert", "convert_element_type"),
  "selections": ("select_n",),
}


def make(out: Path, stage: str, topology: str, *, compiled: bool, sampled: bool) -> bool:
  """Writes one plan, unless it is there; whether it is there now."""
  path = out / f"{stage}-{topology.replace(':', '-')}.json"
  if path.exists():
    have = _read(path)
    if (have["note"] is None or not compiled) and (have["sample"] or not sampled):
      return True
  run = [f"--gin_file=configs/runs/paper/{stage}.gin", "--gin_file=configs/sharding/pod.gin"]
  command = [sys.executable, "-m", "noise2music.cli", "plan", *run, f"--topology={topology}"]
  options = ["--json"] + ["--no_compile"] * (not compiled) + ["--clips=0"] * (not sampled)
  done = subprocess.run([*command, *options], capture_output=True, text=True)
  if done.returncode:
    why = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
    print(f"{stage} on {topology}: {why[-1]}", file=sys.stderr)
    return False
  path.write_text(done.stdout)
  print(f"{stage} on {topology}: done", flush=True)
  return True


def table(out: Path) -> str:
  """The plans in `out` as Markdown: training, sampling, and what the cycles are spent on."""
  plans = [_read(path) for path in sorted(out.glob("*.json"))]
  if not plans:
    raise UserError(f"no plans in {out}: make some, by leaving out --table")
  plans.sort(key=lambda plan: (plan["topology"], STAGES.index(plan["stage"])))
  programs = [(plan, "train") for plan in plans] + [(p, "sample") for p in _one_a_chip(plans)]
  programs = [each for each in programs if _kinds(*each)]
  return "\n\n".join(
    "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *map(_line, rows)])
    for head, rows in (
      (TRAINING, [_training(plan) for plan in plans]),
      (SAMPLING, [_sampling(plan) for plan in _one_a_chip(plans)]),
      (("model", "on", "program", *KINDS, "the rest"), [_shares(*each) for each in programs]),
    )
    if rows
  )


def _one_a_chip(plans: Sequence[Mapping]) -> list[Mapping]:
  """The first with a sampling step of each model and kind of chip; it is the same on any slice."""
  found = {}
  for plan in plans:
    if plan["sample"]:
      found.setdefault((plan["stage"], _serving(plan)), plan)
  return list(found.values())


def _read(path: Path) -> dict:
  try:
    plan = json.loads(path.read_text())
    needed = plan["stage"], plan["train"]["room"]["needed_bytes"], plan["note"]
  except (ValueError, KeyError, TypeError):
    needed = (None,)
  if needed[0] not in STAGES:
    raise UserError(f"{path} is no plan of a model of the paper on a slice: move it away")
  return plan


def _training(plan: Mapping) -> list[str]:
  part = plan["train"]
  return [
    plan["stage"].replace("_", " "), plan["topology"], f"{plan['rows_per_chip']:g}",
    f"{part['flops'] / 1e15:.2f}", _memory(part),
    *_times(part), _ratio(part), _ms(part, "collectives"),
    " to ".join(f"{day:.1f}" for day in plan["days"]), *_compilation(part),
  ]  # fmt: skip


def _sampling(plan: Mapping) -> list[str]:
  part, paper = plan["sample"], PAPER_MS[plan["stage"]]
  compiler = part["time"]["compiler"]
  alike = compiler and plan["topology"].startswith("v4:")  # as the paper's chips
  return [
    plan["stage"].replace("_", " "), _serving(plan), f"{part['flops'] / 1e12:.2f}", _memory(part),
    *_times(part), f"{paper:g}", f"{1e3 * compiler / paper:.2f}" if alike else "",
    *_compilation(part),
  ]  # fmt: skip


def _serving(plan: Mapping) -> str:
  return f"{plan['sample_chips']} {plan['topology'].partition(':')[0]}"


def _memory(part: Mapping) -> str:
  needed, there = part["room"]["needed_bytes"], part["room"]["capacity_bytes"]
  if needed is None:  # not kept of the first plans; the compiler accepted them
    return f"fits {there / 2**30:.1f}"
  told = f"{needed / 2**30:.1f} of {there / 2**30:.1f}"
  return told if needed <= there else f"{told}: does not fit"


def _times(part: Mapping) -> list[str]:
  return [_ms(part, name) for name in ("multiply", "memory", "compiler")]


def _ms(part: Mapping, name: str) -> str:
  seconds = part["time"][name]
  return "" if seconds is None else f"{1e3 * seconds:.1f}"


def _ratio(part: Mapping) -> str:
  compiler = part["time"]["compiler"]
  return f"{compiler / part['roof_seconds']:.2f}" if compiler else ""


def _kinds(plan: Mapping, part: str) -> dict[str, float]:
  """Shares of the compiler's cycles by what they are spent on; empty where it said nothing."""
  program = plan[part] and plan[part]["program"]
  if not program or not program["cycles"]:
    return {}
  return {kind: n / program["cycles"] for kind, n in program["cycles_by_kind"].items()}


def _shares(plan: Mapping, part: str) -> list[str]:
  kinds = _kinds(plan, part)
  shares = [sum(kinds.get(each, 0.0) for each in members) for members in KINDS.values()]
  place = plan["topology"] if part == "train" else _serving(plan)
  head = [plan["stage"].replace("_", " "), place, part]
  return [*head, *(f"{share:.0%}" for share in [*shares, 1 - sum(shares)])]


def _compilation(part: Mapping) -> list[str]:
  if part["program"] is None:
    return ["", ""]
  return [f"{part['compile_seconds']:.0f}", f"{part['program']['code_bytes'] / 1e6:.0f}"]


def _line(cells: Sequence[str]) -> str:
  return f"| {' | '.join(cells)} |"


def main(argv: Sequence[str]) -> int:
  parser = Parser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--table", action="store_true")
  parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
  parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
  parser.add_argument("--no_compile", action="store_true")
  parser.add_argument("--training_alone", action="store_true")
  flags = parser.parse_args(argv)
  if flags.table:
    print(table(flags.out))
    return 0
  for topology in flags.topologies:
    if parse_topology(topology).chip is None:
      raise UserError(f"{topology} is this machine, whose speed nobody knows: give slices of TPU")
  flags.out.mkdir(parents=True, exist_ok=True)
  made = [
    make(
      flags.out, stage, topology, compiled=not flags.no_compile, sampled=not flags.training_alone
    )
    for stage in flags.stages
    for topology in flags.topologies
  ]
  return 0 if all(made) else 1


if __name__ == "__main__":
  measure.main(main)
