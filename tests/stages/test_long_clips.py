"""Clips made in windows: beside the same clip made whole, and at the joins."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_cascade
import tiny
from test_cascade import random_params

from noise2music.planning.work import count_flops
from noise2music.stages.conditioning import Text
from noise2music.stages.generate import clip_keys, lower_sample, sample
from noise2music.stages.spec import InWindows

pytestmark = pytest.mark.usefixtures("light_compilation")

SECONDS = 1.0
WINDOWS = InWindows(seconds=0.25)


def request(objective, *, windows: InWindows | None, seconds: float = SECONDS, **changes) -> dict:
  """Of one clip, on a tone that swells and fades."""
  rng = np.random.default_rng(0)
  stage = objective.stage
  signals = {}
  for name, condition in stage.signals.items():
    t = np.arange(round(seconds * condition.source.rate_hz)) / condition.source.rate_hz
    tone = 0.4 * np.sin(2 * np.pi * 11 * t) * (1 + 0.5 * np.sin(2 * np.pi * 1.5 * t))
    signals[name] = np.repeat(tone[None, :, None], condition.source.channels, -1).astype(np.float32)
  asked = {"steps": round(seconds * stage.target.rate_hz), "signals": signals}
  asked["keys"] = clip_keys([1], stage_name="s")
  if stage.text is not None:
    embedding = rng.normal(size=(1, 4, 16)).astype(np.float32)
    asked["text"] = Text(embedding=embedding, mask=np.ones((1, 4), bool), keep=np.ones(1, bool))
  sampling = dataclasses.replace(stage.sampling, clip_percentile=None, **changes)
  return asked | {"sampling": dataclasses.replace(sampling, windows=windows)}


def made(objective, *, windows: InWindows | None, **changes) -> np.ndarray:
  params = random_params(objective, seed=0)["network"]
  asked = request(objective, windows=windows, **changes)
  return np.asarray(sample(objective.stage, params, **asked))[0]


@pytest.mark.parametrize("kind", ["waveform_generator", "spectrogram_vocoder"])
def test_a_clip_no_longer_than_a_window_is_the_same_to_the_bit(kind: str) -> None:
  objective = tiny.objective(kind)
  whole = made(objective, windows=None, seconds=0.25)
  np.testing.assert_array_equal(whole, made(objective, windows=WINDOWS, seconds=0.25))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_windows_of_every_kind_of_stage_stay_near_the_whole_clip(kind: str) -> None:
  """Norms see windows in place of the clip: with these steep random weights .009 to .067 of the
  clip's standard deviation were measured, and 1.2 to 1.5 for a clip moved by a window."""
  objective = tiny.objective(kind)
  whole, parts = made(objective, windows=None), made(objective, windows=WINDOWS)
  assert parts.shape == whole.shape
  assert 1e-4 < np.std(parts - whole) / np.std(whole) < 0.1
  step = round(WINDOWS.seconds * objective.stage.target.rate_hz)
  assert np.std(parts[step:] - whole[:-step]) / np.std(whole) > 1


def at_joins(objective, *, overlap: float, seconds: float) -> float:
  """Energy of the jumps of (windows - whole clip) at the joins, over that elsewhere."""
  stage = objective.stage
  windows = InWindows(seconds=0.25, overlap=overlap)
  steps = round(seconds * stage.target.rate_hz)
  lie = windows.on(stage, steps=steps)
  whole, parts = (made(objective, windows=w, seconds=seconds) for w in (None, windows))
  jumps = np.square(np.diff(parts - whole, axis=0)).sum(-1)
  near = np.zeros(len(jumps), bool)
  for start, fade in zip(lie.starts[1:], lie.fades[1:], strict=True):
    middle = start + fade + lie.overlap // 2
    near[middle - stage.network.stride : middle + stage.network.stride] = True
  assert near.sum() > 5 * stage.network.stride, "there are joins"
  return float(jumps[near].mean() / jumps[~near].mean())


@pytest.mark.parametrize("kind", ["waveform_generator", "spectrogram_vocoder", "super_resolution"])
def test_there_are_no_seams(kind: str) -> None:
  """Measured: .3 to 1.1 with fades, 15 to 276 for windows put side by side without."""
  objective = tiny.objective(kind)
  assert at_joins(objective, overlap=0.25, seconds=2.0) < 2
  assert at_joins(objective, overlap=0.0, seconds=2.0) > 8


def test_a_generator_goes_on_past_the_length_it_was_trained_on() -> None:
  """Three times .5 s: every part has the prompt, none has a seam, the first noise is the clip's."""
  objective = tiny.objective("waveform_generator")
  assert InWindows().on(objective.stage, steps=1_500).length == 500
  params = random_params(objective, seed=0)["network"]
  asked = request(objective, windows=InWindows(), seconds=1.5, guidance_scale=4.0)
  other = dataclasses.replace(asked["text"], embedding=-asked["text"].embedding)
  clip = lambda text: np.asarray(sample(objective.stage, params, **{**asked, "text": text}))[0]  # noqa: E731
  base, changed = clip(asked["text"]), clip(other)
  for part in np.split(np.abs(base - changed), 6):
    assert part.mean() > 0.01
  assert np.isfinite(base).all()


@pytest.mark.parametrize("kind", ["waveform_generator"])
def test_how_many_windows_run_at_once_changes_rounding_alone(kind: str) -> None:
  objective = tiny.objective(kind)
  one, three = (made(objective, windows=InWindows(seconds=0.25, at_once=n)) for n in (1, 3))
  np.testing.assert_allclose(one, three, atol=2e-3)


def test_work_is_that_of_the_windows() -> None:
  objective = tiny.objective("waveform_cascader")
  params = random_params(objective, seed=0)["network"]

  def flops(windows: InWindows | None, seconds: float) -> float:
    asked = request(objective, windows=windows, seconds=seconds)
    arrays = {name: asked[name] for name in ("keys", "text", "signals")}
    fixed = {name: asked[name] for name in ("steps", "sampling")}
    return count_flops(lambda p, a: sample(objective.stage, p, **fixed, **a), params, arrays)

  lie = WINDOWS.on(objective.stage, steps=4_000)
  assert len(lie.starts) == 6
  assert flops(WINDOWS, 1.0) == pytest.approx(6 * flops(None, 0.25), rel=1e-6)


def test_memory_grows_by_the_clips_own_arrays_alone() -> None:
  objective = tiny.objective("super_resolution", network=tiny.network(base_width=32))
  params = random_params(objective, seed=0)["network"]

  def temporary(windows: InWindows | None, seconds: float) -> int:
    asked = request(objective, windows=windows, seconds=seconds)
    program = lower_sample(objective.stage, params, **asked).compile()
    return program.memory_analysis().temp_size_in_bytes

  def growth(windows: InWindows | None) -> float:
    """In arrays of one value a step, from 16 s to 32 s."""
    more = temporary(windows, 32.0) - temporary(windows, 16.0)
    return more / (16 * objective.stage.target.rate_hz * 4)

  # Measured: 6 and 113; the network's own have 32 channels.
  assert growth(WINDOWS) < 10
  assert growth(None) > 80


_EIGHT = """
import sys; sys.path.insert(0, sys.argv[1])
import json, numpy as np, test_cascade
from noise2music.sharding.mesh import MeshShape
from test_long_clips import in_windows
stages, params = test_cascade.cascade()
mesh = MeshShape(**json.loads(sys.argv[3])).build()
made = stages.generate(
  params, ["a jig"] * 8, seeds=range(8), mesh=mesh, seconds=0.5, batch_size=8,
  sampling=in_windows(stages),
)
np.save(sys.argv[2], made["super_resolution"])
"""


def in_windows(cascade) -> dict:
  windows = InWindows(seconds=0.2)
  return {s.name: dataclasses.replace(s.sampling, windows=windows) for s in cascade.stages}


@pytest.mark.parametrize(
  "shape", [pytest.param({}, marks=pytest.mark.slow), {"data": 2, "sequence": 4}]
)
def test_windows_on_eight_devices_give_the_clips_of_one(shape: dict, tmp_path: Path) -> None:
  flags = "--xla_force_host_platform_device_count=8"
  path = tmp_path / "clips.npy"
  subprocess.run(
    [sys.executable, "-c", _EIGHT, str(Path(__file__).parent), str(path), json.dumps(shape)],
    env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    check=True,
  )
  stages, params = test_cascade.cascade()
  one = stages.generate(
    params, ["a jig"] * 8, seeds=range(8), seconds=0.5, batch_size=8, sampling=in_windows(stages)
  )
  np.testing.assert_allclose(np.load(path), one["super_resolution"], atol=5e-3)
