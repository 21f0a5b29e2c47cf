"""What a long run must not gather: memory and open files; and what no run may pass on: secrets."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import HERE, Run

MEGABYTE = 1 << 20
SECRET = "hf_VeryToken-0123456789abcdef"
ENVIRONMENT = {
  "HF_TOKEN": SECRET,
  "WANDB_API_KEY": SECRET,
  "AWS_SECRET_ACCESS_KEY": SECRET,
  "HTTPS_PROXY": f"http://user:{SECRET}@proxy.invalid:3128",
}


def growth(run, *flags):
  """Bytes a step after the first quarter, by a line through them, and more open files at the end.

  The fewest of a quarter count: while a save is being written, its files are open.
  """
  (process,) = run.start(f"--gin_file={HERE / 'memory.gin'}", *flags)
  assert process.end(seconds=900) == 0, process.said
  rows = map(json.loads, run.folder.with_suffix(".memory.jsonl").read_text().splitlines())
  steps, sizes, files = zip(*((r["step"], r["bytes"], r["files"]) for r in rows), strict=True)
  warm = len(steps) // 4
  slope = np.polyfit(steps[warm:], sizes[warm:], 1)[0]
  return slope, min(files[-warm:]) - min(files[warm : 2 * warm])


def test_memory_and_files_of_a_short_run(data, tmp_path):
  """400 updates with 13 saves, most of which end before they are counted."""
  run = Run(folder=tmp_path / "run", data=data)
  slope, more_files = growth(run, "--gin.TRAIN_STEPS=400", "--gin.SAVE_EVERY=30")
  assert 100 * slope < 4 * MEGABYTE  # the first saves are still among them
  assert more_files <= 0


@pytest.mark.slow
def test_memory_and_files_of_two_thousand_steps(data, tmp_path):
  run = Run(folder=tmp_path / "run", data=data)
  slope, more_files = growth(run, "--gin.TRAIN_STEPS=2000", "--gin.SAVE_EVERY=50")
  assert 100 * slope < MEGABYTE
  assert more_files <= 0


_CYCLES = """
import gc, json, os, resource, sys
import jax, jax.numpy as jnp
from pathlib import Path
from noise2music.checkpoints.manager import CheckpointManager, CheckpointPolicy
items = {"params": {"w": jnp.arange(65536.0).reshape(256, 256)}, "ema": {"w": jnp.ones((256, 256))}}
like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), items)
for step in range(1, 301):
  manager = CheckpointManager(sys.argv[1], policy=CheckpointPolicy(keep_latest=2))
  manager.save(step, items, info={})
  manager.wait()
  assert manager.restore(like).step == step
  manager.close()
  if step % 10 == 0:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    print(json.dumps([step, pages * resource.getpagesize(), len(os.listdir("/proc/self/fd"))]))
"""


@pytest.mark.slow
def test_three_hundred_saves_and_restores(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", _CYCLES, tmp_path / "checkpoints"],
    capture_output=True, text=True, cwd=HERE.parents[1], timeout=900,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  steps, sizes, files = zip(*map(json.loads, done.stdout.splitlines()), strict=True)
  warm = len(steps) // 4
  # Orbax keeps some 30 kB of each save and of each restore, and 100 kB of both: a run saves a
  # thousand times and restores once.
  assert np.polyfit(steps[warm:], sizes[warm:], 1)[0] < 0.2 * MEGABYTE
  assert max(files[warm:]) == min(files[warm:])


def holds(path: Path, secret: str) -> bool:
  return secret.encode() in path.read_bytes()


def test_tokens_and_passwords_are_not_passed_on(data, tmp_path):
  """Neither what the environment holds, nor what a user put into a URL."""
  run = Run(folder=tmp_path / "run", data=data)
  (process,) = run.start("--gin.TRAIN_STEPS=10", env=ENVIRONMENT)
  assert process.end() == 0, process.said
  assert SECRET not in process.said
  files = [path for path in run.folder.rglob("*") if path.is_file()]
  assert len(files) > 20
  assert [path for path in files if holds(path, SECRET)] == []
  for flag in (
    f'--gin.DATA="https://user:{SECRET}@host.invalid/clips"',
    f"--gin.X='://{SECRET}@h'",
  ):
    (process,) = run.start(flag, env=ENVIRONMENT)
    assert process.end() == 2, process.said
    assert "error: " in process.said
    assert SECRET not in process.said
