"""Drift (18, 19): a run that goes on as another is refused by key, whatever was changed."""

import dataclasses
import shutil

import pytest
from harness import Run, make_clips


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("changed")
  run = Run(folder=folder / "run", data=make_clips(folder / "data"))
  run.complete("--gin.TRAIN_STEPS=10")
  return run


def refusal(run, *flags):
  (process,) = run.start(*flags)
  assert process.end() == 2
  assert "Traceback" not in process.said
  return process.said.splitlines()[-1]


def test_18_each_change_is_named_and_refused(run, tmp_path):
  shutil.copytree(run.folder, tmp_path / "copy")
  run = dataclasses.replace(run, folder=tmp_path / "copy")
  said = refusal(run, "--gin.SEED=1", "--gin.BATCH_SIZE=8", "--gin.Ema.decay=0.5")
  for change in ("SEED was 0, is 1", "BATCH_SIZE was 4, is 8", "Ema.decay was 0.9, is 0.5"):
    assert change in said
  keys = said.partition("--allow_drift=")[2]
  assert {"SEED", "BATCH_SIZE", "data.seed"} <= set(keys.split(","))
  changed = ["--gin.SEED=1", "--gin.BATCH_SIZE=8", "--gin.Ema.decay=0.5"]
  (process,) = run.complete(*changed, f"--allow_drift={keys}", "--gin.TRAIN_STEPS=12")
  assert "going on from step 10" in process.said


def test_18_other_clips_are_refused(run, tmp_path):
  other = dataclasses.replace(run, data=make_clips(tmp_path / "data", count=5))
  said = refusal(other)
  assert "data.sources was" in said
  assert said.endswith("--allow_drift=data.sources")


def test_19_another_shape_is_refused_by_path(run):
  assert "params/encoder/kernel is float32[48, 16]" in refusal(run, "--gin.Denoiser.width=8")
