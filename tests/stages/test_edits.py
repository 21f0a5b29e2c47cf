"""Edits through whole cascades with random parameters, and what is refused."""

import functools

import numpy as np
import pytest
import tiny
from test_cascade import SPECTROGRAM, WAVEFORM, cascade

from noise2music.audio.recording import Recording
from noise2music.errors import UserError
from noise2music.pipeline import Pipeline
from noise2music.stages import edits
from noise2music.stages.edits import Blend, Continue, FromAudio, InPaint, Loop

pytestmark = pytest.mark.usefixtures("light_compilation")

SECONDS = 0.32
FIRST = WAVEFORM[:1]  # a cascade of one stage, at 1 kHz, for what no later stage adds to


@functools.cache
def pipeline(route=WAVEFORM) -> Pipeline:
  stages, params = cascade(route)
  return Pipeline(cascade=stages, params=tuple(params))


def tune(seconds: float = SECONDS) -> Recording:
  t = np.arange(round(seconds * tiny.RATE)) / tiny.RATE
  tone = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * 1_200 * t * (1 + t))
  return Recording(audio=tone, sample_rate_hz=tiny.RATE)


def make(*asked, route=WAVEFORM, prompt="a jig", seed=7, duration=SECONDS, **more):
  return pipeline(route).generate(
    prompt, seed=seed, duration=duration, edits=asked, batch_size=1, **more
  )


@pytest.mark.parametrize("route", [WAVEFORM, SPECTROGRAM])
def test_what_is_kept_is_the_given_audio_in_every_stage(route) -> None:
  edit = InPaint(start_seconds=0.12, end_seconds=0.2)
  made = make(edit, route=route, init_audio=tune())
  given = tune().audio
  front, back = round((0.12 - edit.fade_seconds) * tiny.RATE), round(0.22 * tiny.RATE)
  np.testing.assert_allclose(made.audio[0, :front], given[0, :front], atol=1e-6)
  np.testing.assert_allclose(made.audio[0, back:], given[0, back:], atol=1e-6)
  assert np.abs(made.audio - given)[0, front:back].max() > 0.05
  for objective in pipeline(route).cascade.objectives:
    target = objective.stage.target
    known = np.asarray(target.encode(given, sample_rate_hz=tiny.RATE))
    front = int((0.12 - edit.fade_seconds) * target.rate_hz)
    signal = made.signals[objective.stage.name]
    np.testing.assert_allclose(signal[:, :front], known[:, :front], atol=1e-5)


def test_a_continuation_is_as_long_as_what_is_kept_and_what_is_asked() -> None:
  made = make(Continue(seconds=0.1), route=FIRST, init_audio=tune(), duration=0.2)
  assert made.audio.shape == (1, 300)
  np.testing.assert_allclose(made.audio[0, :80], tune().at(1_000).audio[0, :80], atol=1e-6)
  whole = make(Continue(), route=FIRST, init_audio=made, duration=0.1)  # what was made goes on
  assert whole.audio.shape == (1, 400)
  np.testing.assert_allclose(whole.audio[0, :280], made.audio[0, :280], atol=1e-6)


def test_the_file_may_have_any_rate_and_each_prompt_its_own_audio() -> None:
  two = Recording(audio=np.concatenate([tune().audio, -tune().audio / 2]), sample_rate_hz=tiny.RATE)
  request = {"prompt": ["a jig", "a reel"], "edits": (Continue(seconds=0.2),), "duration": 0.1}
  made = pipeline(FIRST).generate(**request, seed=3, init_audio=two, batch_size=2)
  np.testing.assert_allclose(made.audio[:, :180], two.at(1_000).audio[:, :180], atol=1e-6)
  one = tune().at(6_000)
  made = pipeline(FIRST).generate(**request, seed=3, init_audio=one, batch_size=2)
  wanted = one.at(1_000).audio[0, :180]
  np.testing.assert_allclose(made.audio[:, :180], [wanted, wanted], atol=1e-6)
  with pytest.raises(UserError, match="3 prompts need one clip of audio or 3"):
    pipeline(FIRST).generate(**{**request, "prompt": ["a", "b", "c"]}, init_audio=two)


def test_full_strength_is_generation_and_little_strength_stays_near() -> None:
  near = lambda s: make(FromAudio(strength=s), route=FIRST, init_audio=tune()).audio  # noqa: E731
  np.testing.assert_array_equal(near(1.0), make(route=FIRST).audio)
  given = tune().at(1_000).audio
  distance = [np.abs(near(strength) - given).mean() for strength in (0.02, 0.3, 1.0)]
  assert distance == sorted(distance)
  assert distance[0] < 0.2 * distance[-1]


@pytest.mark.parametrize("asked", [(FromAudio(strength=0.5),), (Loop(),)], ids=repr)
def test_an_edited_clip_is_a_function_of_its_seed(asked) -> None:
  audio = {"init_audio": tune()} if asked[0].takes_audio else {}
  first, again = (make(*asked, route=FIRST, **audio).audio for _ in range(2))
  np.testing.assert_array_equal(first, again)
  assert np.abs(make(*asked, route=FIRST, seed=8, **audio).audio - first).max() > 1e-3


@pytest.mark.parametrize(("route", "seconds"), [(WAVEFORM, 0.3217), (SPECTROGRAM, 0.3217)])
def test_a_loop_is_a_whole_number_of_steps_in_every_stage(route, seconds: float) -> None:
  made = make(Loop(), route=route, duration=seconds)
  length = {WAVEFORM: 0.321, SPECTROGRAM: 0.32}[route]  # 1,000 steps a second, or 100 frames
  for stage in pipeline(route).cascade.stages:
    assert made.signals[stage.name].shape[1] == round(length * stage.target.rate_hz)


def test_edits_combine() -> None:
  asked = (InPaint(start_seconds=0.12, end_seconds=0.2), FromAudio(strength=0.5), Loop())
  made = make(*asked, init_audio=tune(), duration=None)
  assert made.audio.shape == tune().audio.shape
  np.testing.assert_allclose(made.audio[0, :700], tune().audio[0, :700], atol=1e-6)


def test_a_blend_lies_between_its_prompts() -> None:
  one, other = make().audio, make(prompt="a waltz").audio
  blended = {w: make(blend=Blend(prompt="a waltz", weight=w)).audio for w in (0.0, 0.5, 1.0)}
  np.testing.assert_allclose(blended[0.0], one, atol=2e-3)
  np.testing.assert_allclose(blended[1.0], other, atol=2e-3)
  between = min(np.abs(blended[0.5] - end).mean() for end in (one, other))
  assert between > 0.05 * np.abs(one - other).mean()
  moving = make(blend=Blend(prompt="a waltz", weight=(0.0, 1.0))).audio
  assert np.abs(moving - blended[0.5]).max() > 1e-3
  led_away = make(blend=Blend(prompt="a waltz"), negative_prompt="noise").audio
  assert np.abs(led_away - blended[0.5]).max() > 1e-3


@pytest.mark.parametrize(
  ("asked", "request_", "message"),
  [
    ((Continue(),), {"init_audio": None}, "Continue works on audio: give it"),
    ((), {}, "nothing is to be done with the audio"),
    ((Loop(),), {}, "nothing is to be done with the audio"),
    ((Continue(), InPaint(start_seconds=0, end_seconds=0.1)), {}, "ask for one, then"),
    ((FromAudio(), FromAudio()), {}, "FromAudio is asked for twice"),
    ((Continue(seconds=1.0),), {}, "is 0.32 s long, and 1 s of it should be kept: keep less"),
    ((Continue(seconds=0.01),), {}, "too short to be continued"),
    ((FromAudio(),), {"duration": 2.0}, "0.32 s long and the clip should be 2 s"),
    ((InPaint(start_seconds=0.5, end_seconds=1),), {"duration": None}, "ends at 0.32 s, before"),
    ((Continue(), FromAudio()), {}, "one edit makes a clip of 0.64 s, another of 0.32"),
    (
      (Loop(), Continue()),
      {"blend": Blend(prompt="a reel", weight=(0, 1))},
      "a loop has no start and no end",
    ),
    ((Continue(),), {"duration": 1e4}, "at most 3,600 seconds"),
  ],
)
def test_contradictions_get_one_sentence(asked, request_, message) -> None:
  with pytest.raises(UserError, match=message):
    make(*asked, **{"init_audio": tune(), **request_})


@pytest.mark.parametrize(
  ("edit", "message"),
  [
    (lambda: InPaint(start_seconds=2, end_seconds=1), "must start at 0 s or later and end after"),
    (lambda: InPaint(start_seconds=-1, end_seconds=1), "must start at 0 s or later"),
    (lambda: Continue(seconds=0), "more than 0 s must be kept"),
    (lambda: Continue(fade_seconds=-1), "the fade must be at least 0"),
    (lambda: FromAudio(strength=0), "the strength must be above 0"),
    (lambda: FromAudio(strength=float("nan")), "the strength must be above 0"),
    (lambda: Blend(prompt=" "), "the prompt to blend in is empty"),
    (lambda: Blend(prompt="a reel", weight=(0, 2)), r"must lie in \[0, 1\]"),
  ],
)
def test_an_edit_refuses_what_means_nothing(edit, message: str) -> None:
  with pytest.raises(UserError, match=message):
    edit()


def test_every_edit_keeps_the_protocol() -> None:
  every = (Continue(), InPaint(start_seconds=0, end_seconds=1), FromAudio(), Loop())
  assert all(isinstance(edit, edits.Edit) for edit in every)
