"""The benchmarks run, at the tiniest of sizes; what they measure is no matter here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import keeping, measure, sample_step, train_step
from noise2music.planning.chips import CHIPS

ROOT = Path(__file__).resolve().parents[2]

TINY = ["--stage=super_resolution", "--rounds=1", "--seconds=0.1", "--json"]


@pytest.mark.parametrize("script", [train_step, sample_step])
def test_a_step_is_measured(script, capsys, light_compilation) -> None:
  assert script.main([*TINY, "--batch=2"]) == 0
  facts = json.loads(capsys.readouterr().out)
  assert facts["gflop_per_step"] > 0
  assert facts["gflops"] == pytest.approx(facts["gflop_per_step"] * facts["steps_per_s"])
  assert facts["argument_bytes"] > 4 * facts["parameters"]
  assert facts["mfu"] is None, "nobody knows the peak of this processor"


@pytest.mark.slow
def test_both_routes_are_measured() -> None:
  command = [sys.executable, "-m", "benchmarks.cascade"]
  command += ["--seconds=0.1", "--clips=1", "--steps=2", "--json"]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  routes = json.loads(done.stdout)["routes"]
  assert [len(rows) for rows in routes.values()] == [3, 3]
  assert all(row["finite"] and row["s"] > 0 for rows in routes.values() for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "sample"])
def test_our_side_of_the_race_runs(kind) -> None:
  program = (
    f"from benchmarks.peers import ours; w = ours.work({kind!r}); w.call(); print(w.parameters)"
  )
  done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) > 8e6


def test_chips_are_found_by_what_jax_calls_them() -> None:
  class Device:
    platform = "gpu"

    def __init__(self, kind: str):
      self.device_kind = kind

  named = {"NVIDIA H200": "h200", "NVIDIA A100-SXM4-80GB": "a100", "TPU v5 lite": "v5e"}
  named |= {"TPU v4": "v4", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}
  assert {kind: measure.chip_of(Device(kind)) for kind in named} == {
    kind: CHIPS[name] for kind, name in named.items()
  }
  assert measure.chip_of(Device("an unknown one")) is None


def test_keeping_is_measured(capsys) -> None:
  assert keeping.main(["--megabytes=16", "--every=2", "--rounds=1", "--json"]) == 0
  facts = json.loads(capsys.readouterr().out)
  assert 0 < facts["blocking"] < facts["with_save"]
  assert facts["fingerprint"] > 0
