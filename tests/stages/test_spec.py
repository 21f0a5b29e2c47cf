import dataclasses

import pytest
import tiny

from noise2music.diffusion.noise_schedules import CosineSchedule
from noise2music.diffusion.time_steps import UniformLogSnrSteps
from noise2music.stages import conditioning
from noise2music.stages.spec import InWindows, Sampling, Stage


def _stage(**changes) -> Stage:
  settings = {
    "name": "s", "target": tiny.LOW, "network": tiny.network(), "noise_schedule": CosineSchedule(),
  }  # fmt: skip
  return Stage(**{**settings, **changes})


def test_a_stage_without_conditions_is_legal() -> None:
  assert _stage().signals == {}
  assert _stage().text is None


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"target": tiny.MEL}, "out_channels"),
    ({"sampling": Sampling(guidance_scale=3.0)}, "text condition"),
    ({"conditions": {"text": tiny.text()}}, "cross-attention"),
    ({"network": tiny.network(cross_attention=(False, True))}, "cross-attention"),
    ({"conditions": {"low": tiny.text()}}, "cannot be CrossAttention"),
    ({"conditions": {"text": conditioning.Stacked(source=tiny.LOW)}}, "cannot be Stacked"),
    ({"network": tiny.network(aligned=True)}, "Aligned"),
    (
      {
        "network": tiny.network(strides=(5, 2)),
        "conditions": {"mel": conditioning.Aligned(source=tiny.MEL)},
      },
      "UNet1D.aligned",
    ),
    (
      {
        "network": tiny.network(aligned=True),
        "conditions": {"mel": conditioning.Aligned(source=tiny.MEL)},
      },
      "strides must multiply to 10",
    ),
    ({"network": tiny.network(combine=True)}, "combine"),
    ({"sampling": Sampling(keep_low_band=True)}, "lower rate"),
    ({"train_seconds": 0.0}, "train_seconds"),
    (
      {"sampling": Sampling(time_steps=UniformLogSnrSteps(count=5, inner=(-500.0, 0.0)))},
      "within the schedule's",
    ),
  ],
)
def test_refuses_what_it_could_not_honour(changes: dict, message: str) -> None:
  with pytest.raises(ValueError, match=message):
    _stage(**changes)


@pytest.mark.parametrize(
  "settings",
  [
    {"guidance_scale": float("nan")},
    {"guidance_scale": 2.0, "guidance_interval": (3.0, -3.0)},
    {"guidance_scale": 2.0, "guidance_rescale": 1.5},
    {"guidance_interval": (-3.0, 3.0)},
    {"guidance_rescale": 0.5},
    {"clip_percentile": 0.0},
    {"clip_percentile": 101.0},
    {"start_noise": -0.1},
    {"start_noise": 1.5},
  ],
)
def test_sampling_refuses_numbers_that_mean_nothing(settings: dict) -> None:
  with pytest.raises(ValueError, match=list(settings)[-1]):
    Sampling(**settings)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"seconds": 0.0}, "seconds of a window"),
    ({"seconds": float("inf")}, "seconds of a window"),
    ({"overlap": -0.1}, "overlap of windows"),
    ({"overlap": 0.6}, "overlap of windows"),
    ({"at_once": 0}, "at least one window"),
  ],
)
def test_windows_refuse_numbers_that_mean_nothing(settings: dict, message: str) -> None:
  with pytest.raises(ValueError, match=message):
    InWindows(**settings)


def test_windows_are_as_long_as_what_the_stage_was_trained_on_where_nothing_else_is_said() -> None:
  stage = tiny.objective("spectrogram_vocoder").stage  # of .5 s at 4,000 Hz, stride 40
  assert InWindows().on(stage, steps=2_000) is None
  lie = InWindows().on(stage, steps=2_001)
  assert (lie.steps, lie.length, lie.overlap, lie.multiple) == (2_040, 2_000, 500, 40)
  assert InWindows(seconds=0.001).on(stage, steps=80).length == 40, "at least one stride"


def test_text_and_conditioner_go_together() -> None:
  objective = tiny.objective("waveform_generator")
  with pytest.raises(ValueError, match="needs a text_conditioner"):
    dataclasses.replace(objective, text_conditioner=None)
  with pytest.raises(ValueError, match="drop the text_conditioner"):
    dataclasses.replace(
      tiny.objective("super_resolution"), text_conditioner=tiny.text_conditioner()
    )
