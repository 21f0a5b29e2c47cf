"""What keeping checkpoints costs a training run: fingerprints, and saving in the background.

  python -m benchmarks.keeping --megabytes=200 --every=50

A stand-in update (matrix products over the state) is timed in rounds, side by side: alone, with a
save every so many steps, and a fingerprint alone. Medians count; the shares are of the time of
`--every` updates, so they say what a run pays that saves that often.
"""

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from benchmarks import measure
from noise2music.checkpoints.leaves import leaf_fingerprints
from noise2music.checkpoints.manager import CheckpointManager, CheckpointPolicy
from noise2music.typing import PyTree

WIDTH = 1024


def fresh(megabytes: int) -> PyTree:
  """Weights, their average and two moments, as a training state has them, in so many megabytes."""
  count = max(1, round(megabytes * 1e6 / (4 * 4 * WIDTH * WIDTH)))
  keys = jax.random.split(jax.random.key(0), count)
  params = {f"layer_{i}": jax.random.normal(key, (WIDTH, WIDTH)) for i, key in enumerate(keys)}
  return {name: jax.tree.map(jnp.copy, params) for name in ("params", "ema", "mu", "nu")}


@jax.jit
def update(state: PyTree) -> PyTree:
  """As much arithmetic a weight as a small batch has."""
  x = jnp.ones((256, WIDTH))
  return jax.tree.map(lambda w: w + 1e-9 * (x.T @ jnp.tanh(x @ w)), state)


def seconds(work: Callable[[], None]) -> float:
  began = time.perf_counter()
  work()
  return time.perf_counter() - began


def measured(*, megabytes: int, every: int, rounds: int, folder: Path) -> dict[str, float]:
  """Seconds: of `every` updates alone, with a save, of a save's blocking part, a fingerprint."""
  state = fresh(megabytes)
  manager = CheckpointManager(folder, policy=CheckpointPolicy(keep_latest=1))
  times: dict[str, list[float]] = {"alone": [], "with_save": [], "blocking": [], "fingerprint": []}
  step = 0

  def updates(save: bool) -> None:
    nonlocal state, step
    for index in range(every):
      state = update(state)
      jax.block_until_ready(state)
      manager.poll()
      if save and index == 0:
        step += 1
        times["blocking"].append(seconds(functools.partial(manager.save, step, state, info={})))
    manager.wait()

  updates(True)  # compiled, and the folder made
  leaf_fingerprints(state)
  for values in times.values():
    values.clear()
  for _ in range(rounds):
    times["alone"].append(seconds(lambda: updates(False)))
    times["with_save"].append(seconds(lambda: updates(True)))
    times["fingerprint"].append(seconds(lambda: leaf_fingerprints(state)))
  manager.close()
  return {name: statistics.median(values) for name, values in times.items()}


def main(argv: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.keeping", allow_abbrev=False)
  parser.add_argument("--megabytes", type=measure.count, default=200, help="of the state")
  parser.add_argument("--every", type=measure.count, default=50, help="updates between saves")
  parser.add_argument("--rounds", type=measure.count, default=5)
  parser.add_argument("--json", action="store_true")
  flags = parser.parse_args(argv)
  with tempfile.TemporaryDirectory() as name:
    found = measured(
      megabytes=flags.megabytes, every=flags.every, rounds=flags.rounds, folder=Path(name)
    )
  alone = found["alone"]
  shares = {
    "save_percent": 100 * (found["with_save"] - alone) / alone,
    "blocking_percent": 100 * found["blocking"] / alone,
    "fingerprint_percent": 100 * found["fingerprint"] / alone,
  }
  if flags.json:
    print(json.dumps({**found, **shares}))
    return 0
  print(f"{flags.megabytes} MB of state, a save every {flags.every} updates, {jax.devices()[0]}")
  print(f"updates alone        {alone:8.3f} s  ({alone / flags.every * 1000:.1f} ms each)")
  print(f"with a save          {found['with_save']:8.3f} s  {shares['save_percent']:+6.2f} %")
  print(f"  of that, blocking  {found['blocking']:8.3f} s  {shares['blocking_percent']:+6.2f} %")
  print(
    f"  its fingerprint    {found['fingerprint']:8.3f} s  {shares['fingerprint_percent']:+6.2f} %"
  )
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
