"""Scores of made-up embeddings of which the answer is known, and what must come with them."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.evaluation import evaluator
from noise2music.evaluation.embeddings import Embeddings
from noise2music.evaluation.evaluator import Setting
from noise2music.evaluation.frechet import Gaussian, frechet_distance
from noise2music.evaluation.scores import Score, check_comparable, compare
from noise2music.evaluation.similarity import cosines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
  """Of vectors that are made up."""

  name: str = "made"
  protocol: str = "as they are"
  width: int = 8
  sample_rate_hz: int = 16_000
  shortest_seconds: float = 0.1
  fingerprint: str = "f"

  def embed(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    raise NotImplementedError


SETTING = Setting(encoder=Made(), protocol="folder, whole clips", rounds=60)


def clips(
  count: int, *, seed: int, offset: float = 0.0, rows: int = 12, width: int = 8
) -> Embeddings:
  """Each clip has a place of its own, around which its rows lie."""
  rng = np.random.default_rng(seed)
  places = rng.normal(size=(count, 1, width)) * 0.5 + offset
  vectors = (places + rng.normal(size=(count, rows, width)) * 0.5).astype(np.float32)
  return Embeddings.of((f"{k:03d}", vectors[k], 10.0) for k in range(count))


def units(vectors: np.ndarray) -> Embeddings:
  vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
  return Embeddings.of(
    (f"{k:03d}", row[None].astype(np.float32), 10.0) for k, row in enumerate(vectors)
  )


def test_frechet_comes_with_all_that_it_hangs_on() -> None:
  a, b, noise = clips(60, seed=0, offset=0.5), clips(80, seed=1), clips(60, seed=2, offset=9)
  score = evaluator.frechet(a, b, SETTING, name="real", noise=noise)
  plain = frechet_distance(Gaussian.fit(a.vectors), Gaussian.fit(b.vectors))
  assert score.value == pytest.approx(plain, rel=1e-5)
  low, high = score.estimate.interval_95
  assert low < score.value < high
  assert score.ceiling.value < score.value < score.floor.value
  assert (score.metric, score.estimate.n, score.n_reference) == ("fad_made", 60, 80)
  assert (score.rows, score.seconds) == ((720, 960), 600.0)
  assert score.encoder["fingerprint"] == "f"
  assert score.details["expected_bias"] < score.value / 4
  assert score.details["fad_infinity"]["value"] == pytest.approx(score.value, rel=0.2)
  assert score.details["fad_infinity"]["drawn"] == "clips, without replacement"
  assert not score.warnings
  assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score


def test_the_interval_is_about_as_wide_as_new_clips_make_it() -> None:
  reference = clips(200, seed=1)
  values = [
    evaluator.frechet(clips(40, seed=s, offset=0.5), reference, SETTING, name="r")
    for s in range(10, 22)
  ]
  seen = np.std([score.value for score in values]) * 3.92
  told = np.mean([np.diff(score.estimate.interval_95)[0] for score in values])
  assert 0.5 < told / seen < 2


def test_a_value_that_is_mostly_bias_is_told() -> None:
  score = evaluator.frechet(clips(4, seed=0, rows=5), clips(50, seed=1), SETTING, name="real")
  assert any("number of embeddings" in line for line in score.warnings)


def test_order_and_hosts_change_no_bit() -> None:
  a, b = clips(40, seed=0), clips(50, seed=1)
  parts = [a.take(range(k, 40, 3)) for k in range(3)]
  merged = parts[2].merge(parts[0], parts[1])
  for measure in (evaluator.frechet, evaluator.kernel):
    ours, theirs = (measure(some, b, SETTING, name="real") for some in (a, merged))
    assert ours == theirs


def test_clips_that_are_there_twice_are_refused() -> None:
  a = clips(4, seed=0)
  with pytest.raises(UserError, match="002 is there twice"):
    a.merge(a.take([2]))


def test_too_few_clips_and_rows_are_refused() -> None:
  b = clips(50, seed=1)
  with pytest.raises(UserError, match="1 clip is too few"):
    evaluator.frechet(clips(1, seed=0), b, SETTING, name="r")
  with pytest.raises(UserError, match=r"8 embeddings are no more than they are wide \(8\)"):
    evaluator.frechet(clips(4, seed=0, rows=2), b, SETTING, name="r")


def test_a_clip_unlike_the_others_stands_out() -> None:
  a, b = clips(20, seed=0), clips(50, seed=1)
  odd = Embeddings.of([("odd", np.full((5, 8), 4, np.float32), 1.0)])
  found = evaluator.frechet_of_clips(a.merge(odd), b)
  assert max(found, key=found.get) == "odd"
  assert len(found) == 21


def test_kernel_distance_is_near_zero_for_the_same_music_and_not_for_noise() -> None:
  b, noise = clips(80, seed=1), clips(60, seed=2, offset=9)
  score = evaluator.kernel(clips(60, seed=0), b, SETTING, name="real", noise=noise)
  low, high = score.estimate.interval_95
  assert low < score.value < high
  assert low < 0 < high
  assert score.floor.value > 20
  assert abs(score.ceiling.value) < 2 * (high - low)
  assert score.details["bandwidth_of"] == "reference"


def test_similarity_has_shuffled_pairs_for_a_floor_and_the_truth_for_a_ceiling() -> None:
  rng = np.random.default_rng(0)
  truth, wobble = rng.normal(size=(50, 8)), rng.normal(size=(50, 8))
  texts = units(truth + 0.3 * wobble)
  prompts = dict(zip(texts.ids, texts.vectors, strict=True))
  generated = units(truth + rng.normal(size=(50, 8)))
  score = evaluator.similarity_to_text(generated, prompts, SETTING, truth=units(truth))
  assert score.floor.value < score.estimate.interval_95[0]
  assert score.value < score.ceiling.value < 1
  assert abs(score.floor.value) < 0.2
  other = evaluator.similarity_to_audio(generated, units(truth), SETTING, name="ground truth")
  assert other.floor.value < other.value < other.ceiling.value == 1
  perfect = evaluator.similarity_to_audio(units(truth), units(truth), SETTING, name="t")
  assert perfect.value == pytest.approx(1, abs=1e-6)
  several = clips(4, seed=0)
  with pytest.raises(UserError, match="several vectors a clip"):
    evaluator.similarity_to_text(several, prompts, SETTING)
  with pytest.raises(UserError, match="0 clips have a counterpart"):
    evaluator.similarity_to_text(generated, {"other": np.zeros(8)}, SETTING)


def test_divergence_is_a_mean_of_rows_with_shuffled_pairs_above_it() -> None:
  rng = np.random.default_rng(0)
  truth = Embeddings.of((f"{k}", rng.normal(size=(3, 8)) * 3, 30.0) for k in range(30))
  near = dataclasses.replace(truth, vectors=truth.vectors + 0.3 * rng.normal(size=(90, 8)))
  score = evaluator.divergence(near, truth, SETTING, name="truth")
  assert 0 < score.estimate.interval_95[1] < score.floor.interval_95[0]
  assert evaluator.divergence(truth, truth, SETTING, name="t").value == pytest.approx(0, abs=1e-4)
  assert "KL(generated || reference)" in score.protocol


def test_scores_of_other_prompts_have_another_reference() -> None:
  rng = np.random.default_rng(0)
  generated, texts = units(rng.normal(size=(20, 8))), units(rng.normal(size=(20, 8)))
  prompts = dict(zip(texts.ids, texts.vectors, strict=True))
  whole = evaluator.similarity_to_text(generated, prompts, SETTING)
  some = evaluator.similarity_to_text(generated.take(range(10)), prompts, SETTING)
  assert (whole.n_reference, some.n_reference) == (20, 10)
  with pytest.raises(UserError, match="different references"):
    check_comparable(whole, some)


def scored(**changes):
  base = evaluator.frechet(clips(40, seed=0), clips(50, seed=1), SETTING, name="real")
  return dataclasses.replace(base, **changes)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"metric": "kad_made"}, "different metrics"),
    ({"encoder": {**scored().encoder, "fingerprint": "g"}}, "different encoders"),
    ({"protocol": "musiccaps, middle 10 s"}, "different protocols"),
    ({"resampler": "linear"}, "different resamplers"),
    ({"reference": "other"}, "different references"),
    ({"rows": (479, 600)}, "480 and of 479 embeddings"),
  ],
)
def test_scores_that_do_not_mean_the_same_are_not_compared(changes, message) -> None:
  with pytest.raises(UserError, match=message) as error:
    check_comparable(scored(), scored(**changes))
  assert "\n" not in str(error.value)


def test_a_comparison_says_which_is_better_only_where_intervals_lie_apart() -> None:
  b = clips(50, seed=1)
  good = evaluator.frechet(clips(40, seed=0), b, SETTING, name="real")
  bad = evaluator.frechet(clips(40, seed=0, offset=2), b, SETTING, name="real")
  assert compare(good, bad)["better"] == "a"
  assert compare(bad, good)["better"] == "b"
  assert compare(good, good)["better"] is None
  assert compare(good, good)["decided_by"] == "intervals apart"


def test_pairs_tell_a_difference_that_intervals_do_not() -> None:
  rng = np.random.default_rng(0)
  truth, noise = rng.normal(size=(60, 8)), rng.normal(size=(60, 8))
  texts = units(truth)
  prompts = dict(zip(texts.ids, texts.vectors, strict=True))
  sides, rows = [], []
  for amount in (1.0, 1.05):
    clips_made = units(truth + amount * noise)
    sides.append(evaluator.similarity_to_text(clips_made, prompts, SETTING))
    rows.append(dict(zip(texts.ids, cosines(clips_made.vectors, texts.vectors), strict=True)))
  assert compare(*sides)["better"] is None
  told = compare(*sides, clips=tuple(rows))
  assert told["better"] == "a"
  assert told["decided_by"] == "pairs"
  assert told["difference_95"][0] < told["difference"] < told["difference_95"][1] < 0


@pytest.mark.parametrize("record", [{}, {"metric": "fad"}, {"metric": "fad", "value": 1, "n": 2}])
def test_what_is_no_score_is_refused(record: dict) -> None:
  with pytest.raises(UserError, match=r"no score"):
    Score.from_json(record)


def test_an_interval_needs_rounds() -> None:
  with pytest.raises(UserError, match="give at least 2"):
    dataclasses.replace(SETTING, rounds=1)
