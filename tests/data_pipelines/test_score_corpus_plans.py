"""What a corpus will be before a note is rendered: settings, captions, splits, held-out pairs."""

import dataclasses
import random

import pytest
from tiny_scores import scale

from data_pipelines.datasets.score_corpus import FAST, POLYPHONY, SINGLE_LINE, SLOW, ScoreCorpus
from data_pipelines.datasets.score_corpus import corpus as corpus_module
from data_pipelines.datasets.score_corpus.arrange import Tempo
from data_pipelines.datasets.score_corpus.captions import Facts, captions, long_texts
from data_pipelines.datasets.score_corpus.instruments import INSTRUMENTS
from data_pipelines.datasets.score_corpus.runner import Runner
from noise2music.errors import UserError


@pytest.fixture
def made_up(monkeypatch):
  """Every work of the corpus reads as the same made-up piece: nothing is parsed."""
  piece = scale(parts=3)
  monkeypatch.setattr(corpus_module, "read_score", lambda work, cache: piece)


def facts(**changes) -> Facts:
  known = {"key": "D", "mode": "major", "metre": "6/8", "genre": "jig", "style": "Irish"}
  known |= {"instrument": INSTRUMENTS["oboe"], "tempo": FAST, "bpm": 150, "parts": 1}
  known |= {"texture": SINGLE_LINE, "composer": "N. N.", "title": "The Test"}
  return Facts(**known | changes)


def test_captions_of_each_kind_say_what_is_known():
  made = captions(facts(), random.Random(0))
  kinds = [caption.kind for caption in made]
  assert {kind: kinds.count(kind) for kind in set(kinds)} == {
    "long": 3,
    "short": 4,
    "title": 1,
    "entity": 1,
  }
  assert len({caption.text for caption in made}) == len(made)
  for seed in range(30):
    for text in long_texts(facts(), random.Random(seed), 8):
      assert "oboe" in text.lower()
      assert any(word in text.lower() for word in ("fast", *FAST.synonyms))
      assert text[0].isupper()
      assert text.endswith(".")
      assert "a oboe" not in text.lower()
  assert "four-part polyphony" in " ".join(
    long_texts(facts(texture=POLYPHONY, parts=4), random.Random(0), 8)
  )


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"collections": ("nowhere",)}, "No collection 'nowhere' here: choose from ryansMammoth"),
    ({"instruments": ("kazoo",)}, "No instrument 'kazoo' here: choose from piano"),
    ({"instruments": ()}, "at least one"),
    ({"instruments": ("piano", "piano")}, "none twice"),
    ({"textures": ("thick",)}, "No texture 'thick'"),
    ({"textures": (POLYPHONY,), "instruments": ("flute",)}, "flute plays one note at a time"),
    ({"textures": (POLYPHONY,), "instruments": ("piano",)}, "ryansMammoth has melodies only"),
    (
      {"textures": (SINGLE_LINE, POLYPHONY), "instruments": ("flute", "violin")},
      "None of the instruments plays several notes",
    ),
    ({"clip_seconds": 0.1}, "between 0.5 and 600"),
    ({"hours": -1.0}, "above 0"),
    ({"sample_rate_hz": 10}, "between 1,000"),
    ({"split_shares": (0.5, 0.1, 0.1)}, "add up to 1"),
    ({"held_out": (("kazoo", "fast"),)}, "never play"),
    ({"held_out": (("piano", "slow"), ("piano", "moderate"), ("piano", "fast"))}, "hide 'piano'"),
    ({"tempos": (SLOW, Tempo(word="slow", low_bpm=60, high_bpm=70))}, "different words"),
  ],
)
def test_settings_that_cannot_be_honoured_are_refused(settings, message):
  with pytest.raises(UserError, match=message):
    ScoreCorpus(**settings)


def plans(corpus: ScoreCorpus):
  return corpus._plan(Runner(1), cache=None, progress=None)


def test_splits_share_no_work_and_training_hears_no_held_out_pair(made_up):
  corpus = ScoreCorpus(hours=4.0, clip_seconds=8.0)
  made = plans(corpus)
  assert len(made) == corpus.clip_count == 1800
  keys = {split: {p.work.key for p in made if p.split == split} for split in corpus_module.SPLITS}
  assert all(keys.values())
  assert not keys["train"] & (keys["validation"] | keys["test"])
  assert not keys["validation"] & keys["test"]
  pairs = {
    split: {(p.instrument.name, p.tempo.word) for p in made if p.split == split}
    for split in corpus_module.SPLITS
  }
  assert not set(corpus.held_out) & (pairs["train"] | pairs["validation"])
  assert len(pairs["train"]) == len(corpus.instruments) * 3 - len(corpus.held_out)
  assert set(corpus.held_out) <= pairs["test"]
  assert all(p.held_out == ((p.instrument.name, p.tempo.word) in corpus.held_out) for p in made)
  assert {p.instrument.name for p in made} == set(corpus.instruments)


def test_a_longer_corpus_begins_with_the_shorter_one(made_up):
  short = plans(ScoreCorpus(hours=0.05))
  assert plans(ScoreCorpus(hours=0.1))[: len(short)] == short
  assert plans(ScoreCorpus(hours=0.05, seed=1)) != short


def test_both_textures_are_drawn_where_there_are_parts(made_up):
  corpus = ScoreCorpus(instruments=("piano", "organ"), textures=(SINGLE_LINE, POLYPHONY), hours=0.1)
  made = plans(corpus)
  assert {plan.texture for plan in made} == {SINGLE_LINE, POLYPHONY}
  assert all(plan.score.parts == (1 if plan.texture == SINGLE_LINE else 3) for plan in made)


def test_who_plays_one_note_at_a_time_gets_the_top_part(made_up):
  corpus = ScoreCorpus(instruments=("piano", "flute"), textures=(SINGLE_LINE, POLYPHONY), hours=0.2)
  made = plans(corpus)
  heard = {(plan.instrument.name, plan.texture) for plan in made}
  assert heard == {("piano", SINGLE_LINE), ("piano", POLYPHONY), ("flute", SINGLE_LINE)}
  chorales = dataclasses.replace(corpus, collections=("bachChorales",))
  texts = [prompt.text for prompt in chorales.held_out_prompts(40) if prompt.instrument == "flute"]
  assert texts
  assert not any("polyphony" in text for text in texts)


def test_held_out_prompts_name_their_pair():
  corpus = ScoreCorpus(collections=("ryansMammoth", "bachChorales"))
  prompts = corpus.held_out_prompts(12)
  assert prompts == corpus.held_out_prompts(12)
  assert prompts != corpus.held_out_prompts(12, seed=1)
  assert {(p.instrument, p.tempo_word) for p in prompts} == set(corpus.held_out)
  for prompt in prompts:
    assert prompt.instrument in prompt.text.lower()
    assert prompt.family == INSTRUMENTS[prompt.instrument].family
  with pytest.raises(UserError, match="holds no pair out"):
    ScoreCorpus(held_out=()).held_out_prompts(1)
