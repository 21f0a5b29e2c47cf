"""Where every parameter, moment and activation lies on eight devices, and what is sent between
them, for each stage in each layout: read from real arrays and from the compiled update's text."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# {name: (sizes of the mesh, rules)}
LAYOUTS = {
  "replicated": ({}, {}),
  "zero_1": ({"fsdp": 8}, {"optimizer_axes": ["fsdp"]}),
  "fsdp": ({"fsdp": 4}, {"optimizer_axes": ["fsdp"], "parameter_axes": ["fsdp"]}),
  "sequence": ({"data": 2, "sequence": 4}, {}),
}
STAGES = (
  "waveform_generator", "waveform_cascader", "spectrogram_generator", "spectrogram_vocoder",
  "super_resolution", "super_resolution scanned", "super_resolution shallow",
)  # fmt: skip
pytestmark = pytest.mark.slow
ADDED_UP = 1.3  # all-reduces beside the gradients: metrics, and sums that the compiler takes twice


@functools.cache
def on_eight_devices(stage: str, *options: str) -> dict:
  """{layout: what is known of it}; "one" is a single device."""
  done = subprocess.run(
    [sys.executable, ROOT / "tests/training/layouts.py", stage, json.dumps(LAYOUTS), *options],
    env={
      **os.environ,
      "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
      "JAX_PLATFORMS": "cpu",
      "PYTHONPATH": str(ROOT),
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(params=STAGES)
def stage(request) -> dict:
  return on_eight_devices(*request.param.split())


def used(spec: list) -> set:
  return {name for names in spec for name in names}


def test_every_layout_makes_the_updates_of_one_device(stage):
  for name in LAYOUTS:
    for ours, ones in zip(stage[name]["metrics"], stage["one"]["metrics"], strict=True):
      assert ours == pytest.approx(ones, rel=2e-4), name


def test_every_parameter_is_whole_on_each_device_unless_the_rules_split_it(stage):
  for name in ("replicated", "zero_1", "sequence"):
    assert not any(map(used, stage[name]["parameters"].values())), name
  for path, spec in stage["fsdp"]["parameters"].items():
    own = spec[1:] if "/blocks/" in path else spec  # the leading axis counts the blocks
    assert "/blocks/" not in path or not spec[0], path
    assert used(own) == ({"fsdp"} if len(own) > 1 else set()), path


def test_moments_and_averages_lie_as_the_rules_say(stage):
  for name, found in ((name, stage[name]) for name in LAYOUTS):
    for tree in (*found["moments"].values(), found["average"]):
      assert tree.keys() <= found["parameters"].keys()
      for path, spec in tree.items():
        if name in ("replicated", "sequence"):
          assert not used(spec), path
        elif found["bytes"][path] >= 4 * 64:  # which eight devices divide along some axis
          assert used(spec) == {"fsdp"}, (name, path)


def test_activations_are_split_as_the_batch_and_time_are(stage):
  rows = {"replicated": ["data"], "zero_1": ["fsdp"], "fsdp": ["data", "fsdp"]}
  for name, want in rows.items():
    assert stage[name]["activations"]
    for path, spec in stage[name]["activations"].items():
      assert spec[0] == want, (name, path)
      assert not any(spec[1:]), (name, path)
  for path, spec in stage["sequence"]["activations"].items():
    assert spec[0] == ["data"], path
    assert spec[1:] == ([["sequence"], []] if len(spec) == 3 else [[]]), path


def test_nothing_is_sent_that_the_layout_does_not_need(stage):
  weights = sum(stage["one"]["bytes"].values())
  sent = {name: stage[name]["collectives"] for name in LAYOUTS}
  assert stage["one"]["collectives"] == {}
  # Data parallel: gradients and metrics are added up, in one go.
  assert sent["replicated"].keys() == {"all-reduce"}
  assert sent["replicated"]["all-reduce"][1] < ADDED_UP * weights
  # ZeRO-1 gathers what the update changed, FSDP what layers use; signals stay where they are.
  for name in ("zero_1", "fsdp"):
    assert sent[name].keys() <= {"all-reduce", "all-gather", "reduce-scatter"}
    assert sent[name]["all-gather"][1] < ADDED_UP * weights
    assert sent[name]["all-reduce"][1] < ADDED_UP * weights + 2**13
  # Time: neighbours exchange what kernels reach over, norms add up statistics, and self-attention
  # gathers its keys and values: float32 [4 clips, 128, 16] each, in two blocks.
  assert sent["sequence"].keys() <= {"all-reduce", "collective-permute", "all-gather"}
  assert sent["sequence"]["collective-permute"][1] < 2**14
  attends = any("self_attention" in path for path in stage["one"]["bytes"])
  gathered = sent["sequence"].get("all-gather", [0, 0])[1]
  assert gathered <= (2 * 2 * 4 * 128 * 16 * 4 if attends else 0)
