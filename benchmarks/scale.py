"""A table of what the paper's five models cost on slices of TPU.

  python benchmarks/scale.py --out benchmarks/scale                 plans, one JSON file each
  python benchmarks/scale.py --out benchmarks/scale --table         the table of what is there

Each plan is a process of its own (`n2m plan`), so that one that fails costs no other; plans that
are there already are kept. With the TPU compiler installed (the extra [tpu]) a plan takes minutes.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

STAGES = (
  "waveform_generator",
  "waveform_cascader",
  "spectrogram_generator",
  "spectrogram_vocoder",
  "super_resolution",
)
PAPER_MS = (25.0, 75.0, 8.3, 29.9, 71.7)  # Table 4: a sampling step of four clips on four TPU v4
TOPOLOGIES = ("v4:4x4x4", "v4:4x8x8", "v5p:4x4x4", "v5p:4x8x8")


def make(out: Path, stage: str, topology: str, options: list[str]) -> None:
  """Writes one plan, unless it is there."""
  path = out / f"{stage}-{topology.replace(':', '-')}.json"
  if path.exists():
    return
  run = f"--gin_file=configs/runs/paper/{stage}.gin"
  command = [sys.executable, "-m", "noise2music.cli", "plan", run, f"--topology={topology}"]
  done = subprocess.run([*command, "--json", *options], capture_output=True, text=True)
  if done.returncode:
    print(f"{stage} on {topology}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    return
  path.write_text(done.stdout)
  print(f"{stage} on {topology}: done", flush=True)


def table(out: Path) -> str:
  """The plans in `out` as Markdown."""
  lines = [
    "| model | slice | clips a chip | work a step | memory a chip | step, roof to estimate | days |"
    " sampling step | the paper's |",
    "|---|---|---|---|---|---|---|---|---|",
  ]
  paper = dict(zip(STAGES, PAPER_MS, strict=True))
  for path in sorted(out.glob("*.json")):
    plan = json.loads(path.read_text())
    train, sample = plan["train"], plan["sample"]
    peak = train["program"] and train["program"]["peak_bytes"]
    memory = f"{peak / 2**30:.1f} GiB" if peak else f"{train['state_bytes'] / 2**30:.1f} GiB state"
    low, high = (1e3 * seconds for seconds in train["seconds"])
    days = "-".join(f"{day:.1f}" for day in plan["days"])
    ms = "-".join(f"{1e3 * seconds:.1f}" for seconds in sample["seconds"])
    lines.append(
      f"| {plan['stage'].replace('_', ' ')} | {plan['topology']} | {plan['rows_per_chip']:g}"
      f" | {train['flops'] / 1e15:.2f} PFLOP | {memory} | {low:.0f}-{high:.0f} ms | {days}"
      f" | {ms} ms | {paper[plan['stage']]} ms |"
    )
  return "\n".join(lines)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--out", type=Path, required=True)
  parser.add_argument("--table", action="store_true")
  parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
  parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
  parser.add_argument("--no_compile", action="store_true")
  flags = parser.parse_args()
  if flags.table:
    print(table(flags.out))
    return
  flags.out.mkdir(parents=True, exist_ok=True)
  for stage in flags.stages:
    for topology in flags.topologies:
      make(flags.out, stage, topology, ["--no_compile"] if flags.no_compile else [])


if __name__ == "__main__":
  main()
