import json

import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.evaluation.alignment import Aligner, window_correlation
from noise2music.evaluation.memorisation import (
  ClipSet,
  check_memorisation,
  nearest_clips,
)

RATE = 8_000
ALIGNER = Aligner(window_seconds=3.0)


def _music(seed: int, *, seconds: float = 12.0) -> np.ndarray:
  """Decaying notes of a pentatonic scale, with overtones: all pieces share key and instrument."""
  rng = np.random.default_rng(seed)
  out = np.zeros(int(seconds * RATE), np.float32)
  time = np.arange(RATE // 2) / RATE
  for onset in np.arange(0, seconds - 0.5, 0.125):
    if rng.random() < 0.7:
      hz = 110 * 2 ** (rng.choice([0, 3, 5, 7, 10, 12, 15, 17, 19, 22, 24]) / 12)
      note = sum(np.sin(2 * np.pi * hz * k * time) / k for k in range(1, 7)) * np.exp(-6 * time)
      start = int(onset * RATE)
      out[start : start + len(time)] += rng.uniform(0.3, 1) * note
  return (0.2 * out / np.abs(out).max()).astype(np.float32)


def _noisy(clip: np.ndarray, *, below_db: float, seed: int = 0) -> np.ndarray:
  noise = np.random.default_rng(seed).normal(size=clip.shape)
  rms = np.sqrt(np.mean(clip**2))
  return (clip + rms * 10 ** (-below_db / 20) * noise).astype(np.float32)


def _features(clip: np.ndarray) -> np.ndarray:
  return ALIGNER.features(clip, sample_rate_hz=RATE)


def test_a_planted_copy_is_found_where_it_lies() -> None:
  training, other = _music(1), _music(2)
  # 5 s from 4.1 s on, at a fifth of the level, after 2.5 s of other music.
  copy = 0.2 * training[int(4.1 * RATE) : int(9.1 * RATE)]
  clip = np.concatenate([other[: int(2.5 * RATE)], copy, 0.7 * other[-2 * RATE :]])
  span = ALIGNER.align(_features(_noisy(clip, below_db=20)), _features(training))
  assert span.score > 0.8
  assert span.offset_seconds == pytest.approx(1.6, abs=0.05)
  assert span.generated_start_seconds == pytest.approx(2.5, abs=0.3)
  assert span.length_seconds == pytest.approx(5.0, abs=0.6)
  assert span.to_json()["offset_seconds"] == span.offset_seconds


def test_other_pieces_of_the_same_kind_stay_apart() -> None:
  pieces = [_features(_music(seed)) for seed in range(6)]
  scores = [ALIGNER.align(a, b).score for a in pieces for b in pieces if a is not b]
  assert max(scores) < 0.6
  assert ALIGNER.align(pieces[0], pieces[0]).score == pytest.approx(1.0)


def test_silence_and_constant_sound_are_like_nothing() -> None:
  silence, tone = np.zeros(5 * RATE, np.float32), np.ones(5 * RATE, np.float32)
  for clip in (silence, tone):
    span = ALIGNER.align(_features(clip), _features(_music(1)))
    assert np.isfinite(span.score)
    assert span.score < 0.6
  assert ALIGNER.align(_features(silence), _features(silence)).score == 0


def test_a_common_pause_is_no_likeness_and_a_low_level_no_difference() -> None:
  # Both begin after two seconds: every band steps up together.
  pause = np.concatenate([np.zeros(2 * RATE), np.ones(2 * RATE)]).astype(np.float32)
  first, second = (_music(seed)[: 4 * RATE] * pause for seed in (1, 2))
  assert ALIGNER.align(_features(first), _features(second)).score < 0.6
  quiet = (0.003 * _music(1)).astype(np.float32)
  assert ALIGNER.align(_features(quiet), _features(_music(1))).score == pytest.approx(1, abs=1e-3)


def test_correlation_is_pearsons_at_every_offset() -> None:
  rng = np.random.default_rng(0)
  window, frames = rng.normal(size=(7, 3)) + 5, rng.normal(size=(20, 3)) - 2
  expected = []
  for start in range(14):
    a, b = window - window.mean(0), frames[start : start + 7] - frames[start : start + 7].mean(0)
    expected.append(np.sum(a * b) / np.sqrt(np.sum(a**2) * np.sum(b**2)))
  assert window_correlation(window, frames) == pytest.approx(np.array(expected), abs=1e-12)
  assert window_correlation(window, 3 * window + [1, 2, 3]) == pytest.approx(1)
  assert window_correlation(np.ones((4, 3)), frames).tolist() == [0] * 17


def test_what_cannot_be_aligned_is_refused() -> None:
  with pytest.raises(UserError, match="shorter window"):
    _features(np.zeros(2 * RATE))
  with pytest.raises(UserError, match="must be at 8000 Hz"):
    ALIGNER.features(np.zeros(9 * RATE), sample_rate_hz=16_000)
  with pytest.raises(UserError, match="NaN"):
    _features(np.full(9 * RATE, np.nan))
  with pytest.raises(UserError, match="longer one"):
    Aligner(window_seconds=0.04)


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_neighbours_are_exact_in_any_chunks(chunk: int) -> None:
  rng = np.random.default_rng(0)
  queries, training = (
    rng.normal(size=(11, 5)),
    rng.normal(size=(40, 5)) * rng.uniform(1, 9, (40, 1)),
  )
  cosines = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
    training / np.linalg.norm(training, axis=1, keepdims=True)
  ).T
  order = np.argsort(-cosines, axis=1)[:, :4]
  near = nearest_clips(queries, training, count=4, chunk=chunk)
  assert near.rows.tolist() == order.tolist()
  assert near.similarity == pytest.approx(np.take_along_axis(cosines, order, 1), abs=1e-6)


def test_neighbours_refuse_what_has_no_cosine() -> None:
  ones = np.ones((3, 4))
  with pytest.raises(UserError, match="use one encoder"):
    nearest_clips(ones, np.ones((3, 5)))
  with pytest.raises(UserError, match="no 4 nearest"):
    nearest_clips(ones, ones, count=4)
  with pytest.raises(UserError, match="zero or not finite"):
    nearest_clips(ones, np.zeros((3, 4)), count=1)


def _set(prefix: str, clips: list[np.ndarray], *, seed: int) -> ClipSet:
  """Vectors say nothing of the music, so that alignment alone decides."""
  ids = [f"{prefix}-{index}" for index in range(len(clips))]
  vectors = np.random.default_rng(seed).normal(size=(len(clips), 8)) + 2
  return ClipSet(ids=ids, vectors=vectors, load=dict(zip(ids, clips, strict=True)).__getitem__)


def test_a_copying_model_is_caught_and_another_is_not() -> None:
  training = [_music(seed) for seed in range(6)]
  held_out = _set("held-out", [_music(seed, seconds=8) for seed in range(10, 22)], seed=1)
  copy = _noisy(0.3 * training[2][3 * RATE : 9 * RATE], below_db=20)
  fresh = [_music(seed, seconds=8) for seed in range(30, 33)]
  training_set = _set("training", training, seed=0)
  generated = _set("generated", [fresh[0], copy, *fresh[1:]], seed=2)
  # The copy's vector lies where the original's does.
  generated.vectors[1] = training_set.vectors[2] + 1e-3
  found = check_memorisation(
    generated=generated,
    held_out=held_out,
    training=training_set,
    aligner=ALIGNER,
    candidates=3,
    false_alarm_rate=0.0,
  )
  worst = found.findings[0]
  assert (worst.clip, worst.training, worst.nearest) == ("generated-1", "training-2", "training-2")
  assert worst.matched
  assert worst.near
  assert worst.span.offset_seconds == pytest.approx(3.0, abs=0.05)
  assert found.alignment_threshold.value < 0.7 < worst.span.score
  out = found.to_json()
  assert out["matched"]["hits"] == found.matched == sum(f["matched"] for f in out["findings"])
  assert [f.span.score for f in found.findings] == sorted(
    (f.span.score for f in found.findings), reverse=True
  )
  assert all(f.span.score < 0.7 for f in found.findings[1:])
  assert (out["n"], out["n_held_out"], out["n_reference"]) == (4, 12, 6)
  assert out["alignment_threshold"]["false_alarm_rate"] == pytest.approx(1 / 13)
  assert len(out["held_out_score"]) == len(out["held_out_similarity"]) == 12
  assert json.loads(json.dumps(out)) == out


def test_held_out_clips_that_were_trained_on_are_refused() -> None:
  clips = _set("training", [np.zeros(RATE)], seed=0)
  with pytest.raises(UserError, match="'training-0' among them"):
    check_memorisation(generated=clips, held_out=clips, training=clips)
  with pytest.raises(UserError, match="give one each"):
    ClipSet(ids=["a"], vectors=np.ones((2, 3)), load=lambda _: np.zeros(1))
  with pytest.raises(UserError, match="there twice"):
    ClipSet(ids=["a", "a"], vectors=np.ones((2, 3)), load=lambda _: np.zeros(1))
  with pytest.raises(UserError, match="at least one"):
    ClipSet(ids=[], vectors=np.ones((0, 3)), load=lambda _: np.zeros(1))
