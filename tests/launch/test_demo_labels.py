"""The half of the demo's corpus that loses its captions, and how its labels are judged."""

from pathlib import Path

import pytest

from data_pipelines.manifest import Caption, Clip, read_manifest, write_manifest
from launch.demo_labels import HIDDEN, PAIRED, hide_captions, precision

JIG = {"instrument": "flute", "tempo_word": "fast", "genre": "jig", "work_key": "a"}
SLIP_JIG = {"instrument": "organ", "tempo_word": "slow", "genre": "slip jig", "work_key": "b"}


def clip(name: str, *, split: str = "train", **extra: str) -> Clip:
  told = (Caption(text=f"About {name}.", kind="long"),)
  return Clip(
    path=f"{name}.wav",
    id=name,
    duration=1.0,
    sample_rate=24_000,
    split=split,
    captions=told,
    extra=extra,
  )


def test_clips_of_a_work_lose_their_captions_together(tmp_path: Path) -> None:
  clips = [clip(f"{work}-{n}", work_key=f"work {work}") for work in range(40) for n in range(3)]
  kept_aside = clip("other", split="validation", work_key="work x")
  manifest = tmp_path / "manifest.jsonl"
  write_manifest(manifest, [*clips, kept_aside])
  hide_captions(manifest, seed=0)
  paired, hidden = (list(read_manifest(tmp_path / name)) for name in (PAIRED, HIDDEN))
  assert sorted(c.id for c in paired + hidden) == sorted(c.id for c in clips)
  assert all(c.captions for c in paired)
  assert not any(c.captions for c in hidden)
  works = [{c.extra["work_key"] for c in some} for some in (paired, hidden)]
  assert not works[0] & works[1]
  assert 10 < len(works[0]) < 30
  hide_captions(manifest, seed=1)
  assert {c.id for c in read_manifest(tmp_path / HIDDEN)} != {c.id for c in hidden}


def test_labels_that_tell_a_fact_are_counted_right_or_wrong() -> None:
  truth = {"1": clip("1", **JIG), "2": clip("2", **SLIP_JIG)}
  labels = [
    ("1", "A jig for flute."),
    ("1", "A lively piece for organ."),  # the tempo by another word, the instrument wrong
    ("2", "A slip jig, slow."),  # not a jig
    ("2", "A jig for flute and organ."),  # names two instruments
    ("2", "Nothing is told."),
  ]
  found = precision(labels, truth, vocabulary=["A fast jig for flute."], seed=0)
  told = {fact: found[fact]["labels"] for fact in found}
  assert (told["instrument"]["value"], told["instrument"]["n_labels"]) == (1 / 3, 3)
  assert (told["tempo"]["value"], told["tempo"]["n_labels"]) == (1, 2)
  assert (told["genre"]["value"], told["genre"]["n_labels"]) == (pytest.approx(2 / 3), 3)
  # The one caption of the vocabulary suits the first clip alone, which has two of five labels.
  for fact in found:
    assert found[fact]["random"]["value"] == pytest.approx(2 / 5)
    assert found[fact]["random"]["interval_95"] == (0, 1)
