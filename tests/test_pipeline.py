"""What is asked of a pipeline, before and around the sampling itself."""

import dataclasses
from pathlib import Path

import pytest

from noise2music import pipeline
from noise2music.diffusion.noise_schedules import CosineSchedule
from noise2music.diffusion.samplers import DPMSolverPP2M
from noise2music.diffusion.time_steps import UniformLogSnrSteps
from noise2music.errors import UserError
from noise2music.nn.unet1d import UNet1D
from noise2music.stages import conditioning
from noise2music.stages.representations import Waveform
from noise2music.stages.spec import InWindows, Sampling, Stage


def _stage(*, text: bool, sampling: Sampling) -> Stage:
  return Stage(
    name="stage",
    target=Waveform(sample_rate_hz=1_000),
    network=UNet1D(
      out_channels=1,
      base_width=8,
      strides=(2,),
      width_multipliers=(1,),
      blocks=(1,),
      cross_attention=(text,),
      heads=2,
    ),
    noise_schedule=CosineSchedule(),
    conditions={"text": conditioning.CrossAttention()} if text else {},
    sampling=sampling,
  )


OWN = Sampling(time_steps=UniformLogSnrSteps(count=9, inner=(-6.0, 8.0)), start_noise=0.5)


def test_nothing_asked_for_leaves_the_stage_its_own_sampling() -> None:
  stage = _stage(text=True, sampling=OWN)
  assert pipeline.override(stage, steps=None, cfg_scale=None) == OWN


def test_steps_take_the_fast_solver_on_the_stages_own_range() -> None:
  made = pipeline.override(_stage(text=True, sampling=OWN), steps=5, cfg_scale=None)
  assert made == dataclasses.replace(
    OWN,
    sampler=DPMSolverPP2M(),
    time_steps=UniformLogSnrSteps(count=5, inner=(-6.0, 8.0)),
  )


def test_two_steps_leave_no_inner_range() -> None:
  made = pipeline.override(_stage(text=True, sampling=OWN), steps=2, cfg_scale=None)
  assert made.time_steps == UniformLogSnrSteps(count=2)


def test_guidance_reaches_stages_with_text_alone() -> None:
  hears = pipeline.override(_stage(text=True, sampling=OWN), steps=None, cfg_scale=4.0)
  deaf = pipeline.override(_stage(text=False, sampling=OWN), steps=None, cfg_scale=4.0)
  assert hears.guidance_scale == 4.0
  assert deaf.guidance_scale == 1.0


def test_a_clip_too_long_for_one_piece_is_made_in_windows_or_refused() -> None:
  own = dataclasses.replace(OWN, windows=InWindows())
  pipeline.check_length(600, sampling=[OWN])
  pipeline.check_length(3_600, sampling=[own])
  with pytest.raises(UserError, match="at most 600 seconds, got 601: make it in windows"):
    pipeline.check_length(601, sampling=[own, OWN])
  stage = _stage(text=False, sampling=OWN)
  assert pipeline.override(stage, steps=None, cfg_scale=None, windows=InWindows()) == own


def test_a_vocabulary_is_found_beside_a_run_that_was_moved(tmp_path: Path) -> None:
  run = tmp_path / "moved" / "stage"
  run.mkdir(parents=True)
  config = "tokenizer.path = '/gone/vocabulary.model'\nother = 'x.wav'\n"
  assert pipeline._with_vocabulary_nearby(config, folder=run) == config, "there is none anywhere"
  beside = run.parent / "vocabulary.model"
  beside.touch()
  assert pipeline._with_vocabulary_nearby(config, folder=run) == config.replace(
    "/gone/vocabulary.model", str(beside)
  )
  inside = run / "vocabulary.model"
  inside.touch()
  assert str(inside) in pipeline._with_vocabulary_nearby(config, folder=run)


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(tmp_path: Path) -> None:
  (tmp_path / "file").touch()
  with pytest.raises(UserError, match="cannot write into"):
    pipeline.make_output_folder(tmp_path / "file" / "clip.wav")
  pipeline.make_output_folder(tmp_path / "new" / "clip.wav")
  assert list((tmp_path / "new").iterdir()) == [], "nothing is left behind"


@pytest.mark.parametrize(
  ("request_", "message"),
  [
    ({"prompts": []}, "the prompt is empty"),
    ({"prompts": ["  "]}, "the prompt is empty"),
    ({"duration": -1.0}, "longer than 0 seconds, got -1"),
    ({"duration": float("inf")}, "longer than 0 seconds"),
    ({"duration": 1e9}, "at most 3,600 seconds"),
    ({"steps": 10_000_000}, "at most 10,000"),
    ({"seed": -2}, "the seed must be"),
    ({"seed": 2**63}, "the seed must be"),
    ({"steps": 0}, "the steps must be at least 1"),
    ({"batch_size": 0}, "the batch size must be at least 1"),
    ({"cfg_scale": float("nan")}, "guidance scale"),
    ({"negative_prompt": " "}, "negative prompt is empty"),
    ({"output": "clip.txt"}, "end its name in one of .wav"),
  ],
)
def test_mistakes_are_named_before_anything_is_loaded(request_: dict, message: str) -> None:
  with pytest.raises(UserError, match=message):
    pipeline.check_request(**{"prompts": ["a jig"], **request_})


@pytest.mark.parametrize("prompt", ["日本の静かな笛の曲", "a jig " * 500])
def test_any_language_and_any_length_is_a_prompt(prompt: str) -> None:
  pipeline.check_request([prompt])
