"""The search behind labels, beside plain numpy: clips a second and a core, and peak memory.

  XLA_FLAGS=--xla_cpu_multi_thread_eigen=false OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 \\
    taskset -c 0 python -m benchmarks.label_search --captions=4000000 --width=128 --json

Random vectors of length 1 lie in a file and are read through a memory map, by `Search` and by a
loop of numpy over the same chunks: product, argpartition, merge. Each runs in a process of its own,
so its peak memory is its own; `anonymous` is what it holds without the pages of the file, which the
system may drop. A step is a batch of clips against all captions; both sides take turns, compiled
and warmed up before the clock starts, and the rates are medians over rounds. The last figure is the
share of clips for which both found the same captions.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import measure
from data_pipelines.pseudo_label.search import SPARE, Search
from data_pipelines.pseudo_label.store import Store

OURS, NUMPY = WORKERS = ("search", "numpy")
DEPTH = 11  # ten candidates, and the one that the margin is measured from


class _Ids:
  """Names of rows without millions of strings, which are not what is measured."""

  def __getitem__(self, row: int) -> str:
    return f"{row:016x}"


def write_captions(path: Path, *, captions: int, width: int, rows: int = 1 << 16) -> None:
  """float32 [captions, width] of length 1, never in memory at once."""
  out = np.lib.format.open_memmap(path, "w+", np.float32, (captions, width))
  random = np.random.default_rng(0)
  for start in range(0, captions, rows):
    out[start : start + rows] = _unit(random, min(rows, captions - start), width)
  out.flush()


def with_search(clips: np.ndarray, captions: np.ndarray, search: Search) -> np.ndarray:
  """int64 [clips, DEPTH]"""
  store = Store(ids=_Ids(), failed={}, shards=(captions,), width=captions.shape[1], made=0)
  return search(clips, store, depth=DEPTH)[0]


def with_numpy(clips: np.ndarray, captions: np.ndarray, search: Search) -> np.ndarray:
  """The same as one would write it down."""
  best_scores = np.full((len(clips), 0), -np.inf, np.float32)
  best_rows = np.zeros((len(clips), 0), np.int64)
  for start in range(0, len(captions), search.captions):
    scores = clips @ captions[start : start + search.captions].T
    keep = min(DEPTH + SPARE, scores.shape[1])
    rows = np.argpartition(-scores, keep - 1, axis=1)[:, :keep]
    best_scores = np.concatenate([best_scores, np.take_along_axis(scores, rows, 1)], axis=1)
    best_rows = np.concatenate([best_rows, rows + start], axis=1)
    order = np.argsort(-best_scores, axis=1, kind="stable")[:, :keep]
    best_scores = np.take_along_axis(best_scores, order, 1)
    best_rows = np.take_along_axis(best_rows, order, 1)
  return best_rows[:, :DEPTH]


def serve(name: str, path: Path, search: Search, out: Path) -> None:
  """A worker: a round for each line on stdin; then its result and peak memory."""
  captions = np.load(path, mmap_mode="r")
  clips = _unit(np.random.default_rng(1), search.clips, captions.shape[1])
  step: Callable = with_search if name == OURS else with_numpy
  rows = step(clips, captions[: 4 * search.captions], search)
  for _ in sys.stdin:
    began, cpu = time.perf_counter(), time.process_time()
    rows = step(clips, captions, search)
    record = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    print(json.dumps(record | {"anonymous_bytes": _anonymous()}), flush=True)
  np.save(out / f"{name}.npy", rows)
  peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  print(json.dumps({"peak_bytes": peak}), flush=True)


def measured(folder: Path, *, captions: int, width: int, search: Search, rounds: int) -> dict:
  path = folder / "captions.npy"
  write_captions(path, captions=captions, width=width)
  command = [sys.executable, "-m", "benchmarks.label_search", f"--serve={path}"]
  command += [f"--clips={search.clips}", f"--chunk={search.captions}"]
  found = {name: [] for name in WORKERS}
  last = {}
  pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
  processes = {n: subprocess.Popen([*command, f"--worker={n}"], **pipes) for n in WORKERS}
  for _ in range(rounds + 1):  # the first one, which also reads the file, does not count
    for name, process in processes.items():
      process.stdin.write("round\n")
      process.stdin.flush()
      found[name].append(json.loads(process.stdout.readline()))
  for name, process in processes.items():
    last[name] = json.loads(process.communicate()[0])
  figures = {n: _figures(found[n][1:], last[n], clips=search.clips) for n in WORKERS}
  ours, theirs = (np.sort(np.load(folder / f"{name}.npy"), axis=1) for name in WORKERS)
  return figures | {"same_captions": float((ours == theirs).all(axis=1).mean())}


def _figures(rounds: list[dict], last: dict, *, clips: int) -> dict[str, float]:
  rates = [clips / one["seconds"] for one in rounds]
  return {
    "clips_per_s": statistics.median(rates),
    "clips_per_s_least": min(rates),
    "clips_per_s_most": max(rates),
    "clips_per_cpu_s": statistics.median(clips / one["cpu_seconds"] for one in rounds),
    "anonymous_bytes": max(one["anonymous_bytes"] for one in rounds),
    **last,
  }


def _unit(random: np.random.Generator, rows: int, width: int) -> np.ndarray:
  vectors = random.standard_normal((rows, width), np.float32)
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _anonymous() -> int | None:
  """Bytes of memory that are no pages of a file; None where the system does not say."""
  try:
    lines = Path("/proc/self/status").read_text().splitlines()
  except OSError:
    return None
  return next((1024 * int(s.split()[1]) for s in lines if s.startswith("RssAnon")), None)


def _cores() -> Iterator[int]:
  yield from os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())


def main(argv: Sequence[str]) -> int:
  default = Search()
  parser = argparse.ArgumentParser(prog="python -m benchmarks.label_search", allow_abbrev=False)
  parser.add_argument("--captions", type=measure.count, default=4_000_000)
  parser.add_argument("--width", type=measure.count, default=128)
  parser.add_argument("--clips", type=measure.count, default=default.clips, help="of a step")
  parser.add_argument("--chunk", type=measure.count, default=default.captions, help="captions")
  parser.add_argument("--rounds", type=measure.count, default=3)
  parser.add_argument("--json", action="store_true")
  parser.add_argument("--folder", help="for the file of vectors; a temporary one where left out")
  parser.add_argument("--serve", help=argparse.SUPPRESS)
  parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
  flags = parser.parse_args(argv)
  search = Search(captions=flags.chunk, clips=flags.clips)
  if flags.serve:
    serve(flags.worker, Path(flags.serve), search, Path(flags.serve).parent)
    return 0
  with tempfile.TemporaryDirectory(dir=flags.folder) as name:
    figures = measured(
      Path(name), captions=flags.captions, width=flags.width, search=search, rounds=flags.rounds
    )
  shapes = {"captions": flags.captions, "width": flags.width, "dtype": "float32"}
  shapes |= {"clips": flags.clips, "chunk": flags.chunk, "depth": DEPTH, "rounds": flags.rounds}
  machine = {
    "machine": platform.machine(),
    "cores": len(list(_cores())),
    "numpy_version": np.__version__,
  }
  facts = {**measure.where(), **machine, **shapes, **figures}
  if flags.json:
    print(json.dumps(facts, indent=1))
    return 0
  print(", ".join(f"{name} {facts[name]}" for name in [*measure.where(), *machine, *shapes]))
  print(measure.table([{"worker": name, **figures[name]} for name in WORKERS]))
  print(f"clips for which both found the same captions: {figures['same_captions']:.1%}")
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
