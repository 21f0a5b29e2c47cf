import json

import pytest

from noise2music.diffusion.samplers import DDIM, Ancestral, DPMSolverPP2M, Heun
from noise2music.diffusion.time_steps import (
  EDMSteps,
  SegmentedSteps,
  UniformLogSnrSteps,
  UniformSteps,
)
from noise2music.errors import UserError
from noise2music.stages.presets import FILE, from_json, read_presets, to_json, write_presets
from noise2music.stages.spec import InWindows, Sampling

WAYS = {
  "default": Sampling(),
  "dpm": Sampling(
    time_steps=UniformLogSnrSteps(count=9, inner=(-6.0, 8.0)),
    sampler=DPMSolverPP2M(eta=0.5),
    guidance_scale=3.0,
    guidance_interval=(-2.0, 5.0),
    guidance_rescale=0.7,
    clip_percentile=None,
  ),
  "heun": Sampling(time_steps=EDMSteps(count=5, rho=5.0), sampler=Heun(churn=1.0)),
  "segments": Sampling(
    time_steps=SegmentedSteps(segments=((0.5, 3), (0.5, 1)), back_heavy=True),
    sampler=Ancestral(gamma=1.0),
    keep_low_band=True,
    start_noise=0.9,
  ),
  "ddim": Sampling(time_steps=UniformSteps(count=4), sampler=DDIM(), windows=InWindows(at_once=2)),
}


@pytest.mark.parametrize("name", WAYS)
def test_json_brings_back_the_same_object(name):
  record = json.loads(json.dumps(to_json(WAYS[name])))
  assert from_json(record) == WAYS[name]
  assert hash(from_json(record)) == hash(WAYS[name])  # it names a compiled program


def test_defaults_are_not_written_so_that_they_have_one_place():
  assert to_json(Sampling(guidance_scale=2.0)) == {"class": "Sampling", "guidance_scale": 2.0}


def test_presets_lie_beside_the_stages(tmp_path):
  assert read_presets(tmp_path) == {}
  presets = {"draft": {"a": WAYS["dpm"], "b": WAYS["heun"]}, "best": {"a": WAYS["segments"]}}
  assert write_presets(tmp_path, presets) == tmp_path / FILE
  assert read_presets(tmp_path) == presets
  assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("{", "holds no presets"),
    ("[]", "holds no presets"),
    ('{"version": 9, "presets": {}}', "of version 9"),
    ('{"version": 1, "presets": {"x": {"a": {"class": "os.system"}}}}', "no class of a preset"),
    ('{"version": 1, "presets": {"x": {"a": {"class": "DDIM"}}}}', "how each stage is sampled"),
    ('{"version": 1, "presets": {"x": {"a": {"class": "Sampling", "gamma": 1}}}}', "gamma"),
    (
      '{"version": 1, "presets": {"x": {"a": {"class": "Sampling", "start_noise": 7}}}}',
      "start_noise must lie",
    ),
  ],
)
def test_files_that_are_none_get_one_sentence(tmp_path, text, message):
  (tmp_path / FILE).write_text(text)
  with pytest.raises(UserError, match=message):
    read_presets(tmp_path)
