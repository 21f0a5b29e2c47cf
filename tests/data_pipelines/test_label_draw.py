import itertools
import math

import pytest

from data_pipelines.pseudo_label.draw import Found, Wanted, draw_labels, frequencies, key

TEXTS = ("a", "b", "c", "d")
COUNTS = {"a": 1, "b": 2, "c": 4, "d": 8}
FOUND = Found(candidates=tuple((t, 0.9 - i / 10) for i, t in enumerate(TEXTS)), beyond=0.45)


def draw(clip: str, found: Found = FOUND, *, labels: int = 2, seed: int = 0):
  wanted = [Wanted(name="v", kind="long", labels=labels)]
  return draw_labels(clip, {"v": found}, {"v": COUNTS}, wanted=wanted, seed=seed, encoder="e")


def chances(pair: tuple[str, str]) -> float:
  """Of drawing first one and then the other, without replacement, weights 1 / count."""
  weights = {text: 1 / count for text, count in COUNTS.items()}
  first, second = (weights[text] for text in pair)
  total = sum(weights.values())
  return first / total * second / (total - first)


def test_the_draw_follows_the_weights_without_replacement():
  clips = 20_000
  seen = dict.fromkeys(itertools.combinations(TEXTS, 2), 0)
  for clip in range(clips):
    seen[tuple(label.text for label in draw(str(clip)))] += 1
  for pair, count in seen.items():
    wanted = clips * (chances(pair) + chances(pair[::-1]))
    assert abs(count - wanted) < 5 * math.sqrt(wanted), pair


def test_keys_are_exponential_and_belong_to_their_names():
  keys = [key(0, str(i), "v", "text") for i in range(20_000)]
  assert sum(keys) / len(keys) == pytest.approx(1, abs=0.05)
  assert sum(k > 1 for k in keys) / len(keys) == pytest.approx(math.exp(-1), abs=0.02)
  names = [(0, "a", "v", "t"), (1, "a", "v", "t"), (0, "b", "v", "t"), (0, "a", "w", "t"),
           (0, "a", "v", "u"), (0, "a", "vt", "")]  # fmt: skip
  assert len({key(*name) for name in names}) == len(names)


def test_a_label_says_how_it_came_about():
  label = draw("x", labels=4)[1]
  assert label.to_json() == {
    "clip": "x",
    "text": "b",
    "kind": "long",
    "vocabulary": "v",
    "rank": 2,
    "score": 0.8,
    "margin": 0.35,
    "frequency": 2,
    "encoder": "e",
    "given_by": "draw",
  }


def test_accepted_labels_come_first_and_take_a_place():
  accepted = (("far", 0.1), ("c", 0.7))
  found = Found(candidates=FOUND.candidates, accepted=accepted)
  labels = draw("x", found, labels=3)
  assert [label.text for label in labels][:2] == ["far", "c"]
  assert [label.rank for label in labels][:2] == [None, 3]
  assert [label.given_by for label in labels] == ["decision", "decision", "draw"]
  assert labels[0].margin is None
  assert [label.text for label in draw("x", found, labels=1)] == ["far", "c"]


def test_frequencies_count_candidates_over_clips():
  assert frequencies([FOUND, Found(candidates=(("a", 0.1),))]) == {"a": 2, "b": 1, "c": 1, "d": 1}


def test_found_survives_json():
  found = Found(candidates=FOUND.candidates, beyond=0.4, accepted=(("é", 0.1),))
  assert Found.from_json(found.to_json()) == found
