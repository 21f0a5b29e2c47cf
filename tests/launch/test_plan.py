"""`n2m plan` as its user sees it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from launch import planner
from noise2music.errors import UserError
from noise2music.planning.chips import CHIPS, GIB
from noise2music.planning.plan import plan_program

ROOT = Path(__file__).resolve().parents[2]
SMOKE = "--gin_file=configs/runs/smoke/super_resolution.gin"
FEW = ["--gin.BATCH_SIZE=8", "--gin.TRAIN_SECONDS=0.128", "--gin.SAMPLING_STEPS=3"]


def _plan(*arguments: str) -> subprocess.CompletedProcess:
  command = [sys.executable, "-m", "noise2music.cli", "plan", *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_environment())


def _environment() -> dict[str, str]:
  return {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}


def test_arithmetic_of_a_paper_run_needs_no_data_no_weights_and_no_compiler() -> None:
  run = "--gin_file=configs/runs/paper/spectrogram_vocoder.gin"
  result = _plan(run, "--topology=v4:4x4x8", "--no_compile", "--json")
  assert result.returncode == 0, result.stderr
  plan = json.loads(result.stdout)
  assert plan["chips"] == 128
  assert sum(plan["parameters"].values()) == pytest.approx(35.7e6, rel=0.01)
  assert plan["rows_per_chip"] == 16
  # Three passes of 0.113 TFLOP a clip: no product is computed again for the gradient.
  assert plan["train"]["flops_per_clip"] == pytest.approx(3 * 0.113e12, rel=0.1)
  assert plan["train"]["program"] is None
  low, high = plan["train"]["seconds"]
  assert low == pytest.approx(plan["train"]["flops"] / 128 / 275e12)
  assert plan["sample"]["flops"] > 0
  assert plan["days"] == [low * 840_000 / 86_400, high * 840_000 / 86_400]


def test_arithmetic_counts_what_is_shared_among_chips() -> None:
  run = ["--gin_file=configs/runs/paper/spectrogram_vocoder.gin", "--topology=v4:4x4x8"]
  plain, pod = (
    json.loads(_plan(*run, *more, "--clips=0", "--no_compile", "--json").stdout)["train"]
    for more in ([], ["--gin_file=configs/sharding/pod.gin"])
  )
  parameters, others = 4 * 35.7e6, 3 * 4 * 35.7e6  # two moments and an average
  assert plain["state_bytes"] == pytest.approx(parameters + others, rel=0.01)
  assert pod["state_bytes"] == pytest.approx(parameters + others / 8, rel=0.02)
  assert pod["flops"] == plain["flops"]


def test_slices_share_the_batch() -> None:
  result = _plan(SMOKE, "--topology=v5e:2x2", "--slices=2", "--no_compile", "--json", *FEW)
  assert result.returncode == 0, result.stderr
  plan = json.loads(result.stdout)
  assert (plan["slices"], plan["chips"], plan["hosts"], plan["rows_per_chip"]) == (2, 8, 2, 1)
  low, high = plan["days"]
  assert plan["chip_hours"] == [pytest.approx(24 * 8 * low), pytest.approx(24 * 8 * high)]


def test_training_alone_is_planned_for_no_clips() -> None:
  result = _plan(SMOKE, "--topology=v4:2x2x1", "--clips=0", "--no_compile", *FEW)
  assert result.returncode == 0, result.stderr
  assert "train step" in result.stdout
  assert "sampling" not in result.stdout


def test_virtual_devices_are_compiled_for() -> None:
  result = _plan(SMOKE, "--topology=cpu:8", "--clips=1", "--clip_seconds=0.2", "--json", *FEW)
  assert result.returncode == 0, result.stderr
  train = json.loads(result.stdout)["train"]
  assert "all-reduce" in {each["kind"] for each in train["program"]["collectives"]}
  assert train["program"]["peak_bytes"] > train["state_bytes"] > 0
  assert train["seconds"] is None, "nobody knows how fast this processor is"


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra [tpu]")
def test_a_tpu_is_compiled_for_without_one() -> None:
  result = _plan(SMOKE, "--topology=v5e:2x2", "--clip_seconds=0.2", *FEW)
  assert result.returncode == 0, result.stderr
  assert "compiler" in result.stdout
  assert "fits" in result.stdout


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--topology=v9:2x2"], "no slice is called 'v9:2x2'"),
    (["--topology=h100:8", "--gin.BATCH_SIZE=3"], "does not divide"),
    (["--topology=h100:8", "--gin.MeshShape.fsdp=16"], "as by --gin.MeshShape.fsdp=8"),
    (["--topology=v4:2x2x1", "--gin.BATCH_SIZE=0", "--no_compile"], "batch_size is 0: give"),
    (["--topology=v4:2x2x1", "--gin.BATCH_SIZE=64.5", "--no_compile"], "batch_size is 64.5: give"),
    (
      ["--topology=v4:2x2x1", "--gin.TRAIN_SECONDS=0", "--no_compile"],
      "give the length of a clip",
    ),
    (["--topology=v4:2x2x1", "--clip_seconds=1e-6", "--no_compile"], "shorter than a step"),
    (["--topology=v4:2x2x1", "--gin.TRAIN_SECONDS=1e-6", "--no_compile"], "a sample at least"),
    (["--topology=v4:2x2x1", "--clip_seconds=1e9", "--no_compile"], "at most 3600 s"),
    (["--topology=v4:2x2x1", "--clips=-4", "--no_compile"], "give numbers above 0"),
    (["--topology=v4:2x2x1", "--no_compile", "--gin.BATCHSIZE=8"], "nothing uses BATCHSIZE"),
    (
      [
        "--topology=v4:2x2x1",
        "--gin_file=configs/runs/smoke/spectrogram_vocoder.gin",
        "--gin.TRAIN_SECONDS=2.345",
      ],
      "give a multiple of 0.01 s",
    ),
  ],
)
def test_mistakes_are_one_sentence(arguments: list[str], message: str) -> None:
  result = _plan(SMOKE, *arguments)
  assert result.returncode == 2
  assert message in result.stderr
  assert result.stderr.count("\n") == 1


def test_a_macro_misspelt_in_a_file_is_named(tmp_path) -> None:
  (tmp_path / "mine.gin").write_text("BATCHSIZE = 8\n")
  result = _plan(
    SMOKE, f"--gin_file={tmp_path / 'mine.gin'}", "--topology=v4:2x2x1", "--no_compile"
  )
  assert result.returncode == 2
  assert "nothing uses BATCHSIZE (did you mean 'BATCH_SIZE'?)" in result.stderr


def lowered(words: str):
  class Lowered:
    def compile(self):
      raise jax.errors.JaxRuntimeError(words)

  return Lowered()


@pytest.mark.parametrize(
  ("words", "advice"),
  [
    ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries"
     " (44.18G) exceeds available HBM (30.75G).", "46.2 of 30.8"),
    ("RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm.\n"
     "Used 1.20T of 15.75G hbm.", "1228.8 of 15.8"),
    # Less than what is counted as a v4's, which the compiler does not know.
    ("RESOURCE_EXHAUSTED: Used 31.00G of 30.75G hbm.", "31.0 of 30.8"),
  ],
)  # fmt: skip
def test_a_program_that_the_compiler_cannot_fit_is_planned_with_what_it_needs(words, advice):
  found = planner._compiled(lowered(words), state_bytes=2 * GIB)
  plan = plan_program(
    chip=CHIPS["v4"],
    chips=4,
    clips=4,
    flops=1e12,
    state_bytes=2 * GIB,
    remedy=lambda room: "take less" if not room.fits else "a defect",
    **found,
  )
  assert plan.program is None
  assert plan.advice == (f"does not fit: {advice} GiB a chip: take less",)


def test_what_else_the_compiler_lacks_is_one_sentence() -> None:
  with pytest.raises(
    UserError, match=r"gave up \(RESOURCE_EXHAUSTED: Used 20.00M of .* vmem\): plan"
  ):
    planner._compiled(lowered("RESOURCE_EXHAUSTED: Used 20.00M of 16M vmem\nmore"), state_bytes=0)


def test_other_failures_of_the_compiler_are_not_hidden() -> None:
  with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
    planner._compiled(lowered("INTERNAL: something else"), state_bytes=0)
