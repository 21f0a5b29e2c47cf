"""The same work in JAX and in torch, side by side: `--peers` of train_step.py and sample_step.py.

  ours       a U-Net of 8 M parameters on 8 clips of 384 frames of 80 mel bands, the project's own
             update and sampler (the "audio" being the frames, the text a table of embeddings)
  twin       the same network in torch, eager (twin.py), with as many parameters
  a-unet     UNetV0 of audio-diffusion-pytorch, with about as many
  diffusers  its UNet1DModel, likewise; it reads no text

A training step draws times and noise, and clips the gradient, updates (Adam, fused in torch) and
averages (foreach in torch). A sampling step guides four clips and clips the signal dynamically.
Each worker is a process of its own, so that thread pools do not mix; they take turns in rounds, and
medians count, and matrix products in the same rounds say what the processor could do. On a machine
with other work use --cores=1 and the CPU time: threads of torch that wait for one another spin.
"""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import measure
from benchmarks.peers.task import SAMPLED
from noise2music.errors import UserError

WORKERS = ("ours", "twin", "a-unet", "diffusers")


def work(name: str, kind: str) -> None:
  """In a worker's process: facts, then the figures of one round for each line that comes in."""
  began = time.perf_counter()
  # Thread pools of the two do not mix: in a worker of torch, jax is imported and computes nothing.
  if name == "ours":
    from benchmarks.peers import ours

    this = ours.work(kind)
  else:
    from benchmarks.peers import theirs

    this = theirs.work(name, kind)
  this.call()
  start = time.perf_counter() - began
  this.call()
  this.product()
  facts = {"parameters": this.parameters, "gflop_per_step": this.gflop_per_step, "start_s": start}
  print(json.dumps(facts), flush=True)
  for _ in sys.stdin:
    wall, processor = _timed(this.call, least_s=1.0)
    product, _ = _timed(this.product, least_s=0.2)
    figures = {"wall": wall / this.steps, "cpu": processor / this.steps, "gemm": product}
    print(json.dumps(figures), flush=True)


def _timed(call: Callable[[], Any], *, least_s: float) -> tuple[float, float]:
  """Seconds of one call by the clock and on all cores."""
  times, wall, processor = 0, time.perf_counter(), time.process_time()
  while time.perf_counter() - wall < least_s:
    call()
    times += 1
  return (time.perf_counter() - wall) / times, (time.process_time() - processor) / times


def race(kind: str, *, rounds: int, cores: int | None, as_json: bool) -> int:
  """kind: "train" or "sample". cores: of the processor, for each worker in turn; None: all."""
  modules = ("torch", "audio_diffusion_pytorch", "diffusers")
  if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
    raise UserError(
      f"{' and '.join(missing)} not installed: pip install -r benchmarks/requirements.txt"
    )
  if cores is not None:
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))  # the workers inherit it
  processes, facts = {}, {}
  try:
    for name in WORKERS:
      processes[name] = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.race", name, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
      )
      facts[name] = _answer(name, processes[name])
    if facts["twin"]["parameters"] != facts["ours"]["parameters"]:
      raise AssertionError(f"the twin is another network: {facts}")
    figures = {name: [] for name in WORKERS}
    for _ in range(rounds):
      for name, process in processes.items():
        process.stdin.write("go\n")
        process.stdin.flush()
        figures[name].append(_answer(name, process))
  finally:
    for process in processes.values():
      process.kill()
      process.wait()
  rows = [_row(name, facts[name], figures[name], figures["ours"]) for name in WORKERS]
  print(
    json.dumps({"kind": kind, "rounds": rounds, "rows": rows}) if as_json else _shown(kind, rows)
  )
  return 0


def _answer(name: str, process: subprocess.Popen) -> dict[str, float]:
  line = process.stdout.readline()
  if not line:
    raise UserError(f"the worker {name} ended (status {process.wait()}): its own words are above")
  return json.loads(line)


def _row(name: str, facts: dict, figures: Sequence[dict], ours: Sequence[dict]) -> dict[str, Any]:
  middle = {key: statistics.median(each[key] for each in figures) for key in figures[0]}
  against = {
    key: [theirs[key] / mine[key] for theirs, mine in zip(figures, ours, strict=True)]
    for key in ("wall", "cpu")
  }
  rate = facts["gflop_per_step"] / middle["wall"]
  gemm = 2 * 1.024**3 / middle["gemm"]
  return {
    "worker": name,
    "M_params": facts["parameters"] / 1e6,
    "start_s": facts["start_s"],
    "GFLOP": facts["gflop_per_step"],
    "ms": 1e3 * middle["wall"],
    "CPU_ms": 1e3 * middle["cpu"],
    "GFLOP/s": rate,
    "own_GEMM": gemm,
    "%_of_GEMM": 100 * rate / gemm,
    "x_ours": statistics.median(against["wall"]),
    "x_ours_range": [min(against["wall"]), max(against["wall"])],
    "x_ours_CPU": statistics.median(against["cpu"]),
    "x_ours_CPU_range": [min(against["cpu"]), max(against["cpu"])],
  }


def _shown(kind: str, rows: Sequence[dict]) -> str:
  step = "training step" if kind == "train" else f"guided sampling step of {SAMPLED} clips"
  shown = [dict(row) for row in rows]
  for row in shown:
    for name in ("x_ours", "x_ours_CPU"):
      least, most = row.pop(f"{name}_range")
      row[name] = f"{row[name]:.2f} ({least:.2f}-{most:.2f})"
  return f"{step}; x ours: its time over ours in the same round\n{measure.table(shown)}"


if __name__ == "__main__":
  from launch import gin_main

  gin_main.set_up()
  work(*sys.argv[1:])
