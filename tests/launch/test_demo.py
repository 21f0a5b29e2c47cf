"""The demo on a shorter clock: it must end with a page, and with a cascade that has learnt."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.manifest import Clip, write_manifest
from launch.demo import TrainedStage, _Plan, _steps_for, stage_seconds

ROOT = Path(__file__).resolve().parents[2]


def _demo(*arguments: str) -> subprocess.CompletedProcess:
  command = [sys.executable, "-m", "launch.demo", *arguments]
  return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_time_that_is_too_short_is_refused(tmp_path: Path) -> None:
  result = _demo("--minutes=0.5", f"--out={tmp_path}")
  assert result.returncode == 2
  assert result.stderr == (
    "error: 0.5 minutes are too short to train anything: say MINUTES=5 or more\n"
  )


def test_the_probe_times_real_updates_of_a_stage(tmp_path: Path) -> None:
  soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(np.arange(24_000) / 9), 24_000)
  clip = Clip(path="tone.wav", duration=1.0, sample_rate=24_000, split="train")
  write_manifest(tmp_path / "manifest.jsonl", [clip])
  stage = TrainedStage(
    name="super_resolution", config="configs/runs/smoke/super_resolution.gin", share=1.0
  )
  values = [f'DATA="{tmp_path}"', f'MODEL_DIR="{tmp_path}"', "TRAIN_SECONDS=0.128", "BATCH_SIZE=2"]
  plan = _steps_for(stage, values, seconds=0)
  assert plan["steps"] == 2 * 20  # of warm-up, however little time there is
  assert plan["probed_steps_per_second"] > 0
  assert plan["parameters"] > 10_000


_PATIENT = """
import signal, sys, time
def stop(*_):
  time.sleep(1)  # what saving takes
  print("saved", flush=True)
  sys.exit(130)
signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(60)
"""
_PARENT = """
import sys
from launch.demo import run_to_the_end
sys.exit(run_to_the_end([sys.executable, "-c", sys.argv[1]]))
"""


def test_ctrl_c_lets_the_training_save() -> None:
  parent = subprocess.Popen(
    [sys.executable, "-c", _PARENT, _PATIENT],
    cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True,
  )  # fmt: skip
  assert parent.stdout.readline() == "ready\n"
  os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to parent and child
  assert parent.communicate(timeout=30)[0] == "saved\n"
  assert parent.returncode == 130


def _stages(*shares: float) -> list[TrainedStage]:
  return [TrainedStage(name=f"{i}", config="", share=share) for i, share in enumerate(shares)]


def test_time_is_shared_out_and_a_late_stage_is_not_starved() -> None:
  stages = _stages(0.7, 0.2, 0.1)
  assert stage_seconds(stages, left=100, whole=100) == pytest.approx(70)
  assert stage_seconds(stages[1:], left=30, whole=100) == pytest.approx(20)
  assert stage_seconds(stages[1:], left=-50, whole=100) == pytest.approx(0.7 * 20)


def test_a_plan_is_kept_for_the_same_minutes_and_counts_what_was_spent(tmp_path: Path) -> None:
  path = tmp_path / "plan.json"
  plan = _Plan(path, minutes=15)
  plan.add("generator", {"steps": 100})
  plan.spent(time.monotonic() - 120)
  again = _Plan(path, minutes=15)
  assert again.stages == {"generator": {"steps": 100}}
  assert again.spent_minutes == pytest.approx(2, abs=0.1)
  other = _Plan(path, minutes=60)
  assert (other.stages, other.spent_minutes) == ({}, 0.0)
  path.write_text(path.read_text()[:20])  # cut off by a kill
  assert _Plan(path, minutes=15).stages == {}


@pytest.mark.slow
def test_six_minutes_bring_it_nearer_to_music_than_it_began(tmp_path: Path) -> None:
  result = _demo("--minutes=6", f"--out={tmp_path}")
  assert result.returncode == 0, result.stderr
  page = (tmp_path / "report.html").read_text()
  assert page.count("<audio") == 3 * 8
  metrics = json.loads((tmp_path / "metrics.json").read_text())
  distances = metrics["frechet_log_mel"]
  assert distances["ratio_to_untrained"] < 0.5
  assert distances["real_held_out"]["value"] < distances["generated"]["value"]
  assert metrics["sound"]["generated"]["silent_clips"] == 0
  assert metrics["sound"]["generated"]["clipped_clips"] == 0
