"""The protocol on sounds whose answers are known: tones, the same tones again, and noise."""

import numpy as np
import pytest

from noise2music.audio.log_mel import LogMel
from noise2music.evaluation.classifier import LinearDiscriminant
from noise2music.evaluation.embedders.log_mel_statistics import LogMelStatistics
from noise2music.evaluation.learning import LabelledAudio, learned_and_listens

RATE = 8_000
EMBEDDER = LogMelStatistics(log_mel=LogMel(sample_rate_hz=RATE, bands=20), window_seconds=0.5)
PITCHES = {"low": 300.0, "high": 1500.0}


def _tones(labels: list[str], *, seed: int) -> LabelledAudio:
  rng = np.random.default_rng(seed)
  t = np.arange(RATE) / RATE
  audio = [
    0.3 * np.sin(2 * np.pi * PITCHES[label] * rng.uniform(0.9, 1.1) * t)
    + 0.01 * rng.normal(size=RATE)
    for label in labels
  ]
  return LabelledAudio(audio=np.float32(audio), sample_rate_hz=RATE, labels=labels)


def _noise(labels: list[str], *, seed: int) -> LabelledAudio:
  audio = 0.3 * np.random.default_rng(seed).normal(size=(len(labels), RATE))
  return LabelledAudio(audio=np.float32(audio), sample_rate_hz=RATE, labels=labels)


def _run(generated: LabelledAudio) -> dict:
  labels = ["low", "high"] * 12
  return learned_and_listens(
    real_train=_tones(labels, seed=0),
    real_held_out=_tones(labels, seed=1),
    generated=generated,
    untrained=_noise(labels, seed=2),
    embedder=EMBEDDER,
  )


def test_good_clips_reach_the_ceiling() -> None:
  result = _run(_tones(["low", "high"] * 12, seed=3))
  assert result["frechet_log_mel"]["ratio_to_untrained"] < 0.1
  assert result["agreement"]["generated"]["value"] == 1
  assert result["agreement"]["real_held_out"]["value"] == 1
  assert result["agreement"]["times_chance"] == 2
  assert result["agreement"]["shuffled_prompts"]["value"] < 0.9


def test_intervals_hold_their_values() -> None:
  result = _run(_noise(["low", "high"] * 12, seed=3))
  for figures in (result["frechet_log_mel"], result["agreement"]):
    for entry in figures.values():
      if isinstance(entry, dict) and "interval_95" in entry:
        low, high = entry["interval_95"]
        assert low <= entry["value"] <= high


def test_noise_stays_at_the_floor() -> None:
  result = _run(_noise(["low", "high"] * 12, seed=3))
  assert result["frechet_log_mel"]["ratio_to_untrained"] > 0.5
  assert result["agreement"]["generated"]["value"] < 0.8


def test_clips_that_ignore_the_prompt_agree_by_chance_alone() -> None:
  tones = _tones(["low"] * 24, seed=3)
  asked = LabelledAudio(audio=tones.audio, sample_rate_hz=RATE, labels=["low", "high"] * 12)
  result = _run(asked)
  assert result["agreement"]["generated"]["value"] == 0.5
  assert result["agreement"]["heard_by_label"] == {"high": {"low": 12}, "low": {"low": 12}}


def test_same_seed_same_figures() -> None:
  clips = _tones(["low", "high"] * 12, seed=3)
  assert _run(clips) == _run(clips)


def test_windows_shorter_than_the_clip_are_refused() -> None:
  with pytest.raises(ValueError, match="shorter than the window"):
    EMBEDDER(np.zeros((2, 100), np.float32), sample_rate_hz=RATE)


def test_discriminant_finds_the_plane_between_two_gaussians() -> None:
  rng = np.random.default_rng(0)
  centre = np.array([2.0, 0.0])
  x = np.concatenate([rng.normal(size=(500, 2)) + centre, rng.normal(size=(500, 2)) - centre])
  fitted = LinearDiscriminant.fit(x, ["right"] * 500 + ["left"] * 500, shrinkage=0.0)
  assert fitted.labels == ("left", "right")
  direction = fitted.weights[:, 1] - fitted.weights[:, 0]
  assert abs(direction[1] / direction[0]) < 0.1
  assert fitted.predict(np.array([[[3.0, 5.0]], [[-3.0, 5.0]]])) == ["right", "left"]


def test_one_class_cannot_be_told_apart() -> None:
  with pytest.raises(ValueError, match="two classes"):
    LinearDiscriminant.fit(np.zeros((3, 2)), ["a"] * 3)
