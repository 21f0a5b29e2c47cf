from pathlib import Path

import pytest

from data_pipelines.importers.fields import clean_text, read_fields, texts_of
from data_pipelines.importers.folder import title_of
from data_pipelines.importers.found import Found


def read(fields, **found):
  return read_fields(fields, Found(audio=Path("a.wav"), id="a.wav", **found))


def texts(found):
  return [(caption.kind, caption.text) for caption in found.captions]


def test_columns_become_captions_of_their_kind():
  found = read(
    {
      "description": "A slow waltz.",
      "title": "Blue Moon",
      "keywords": "dark, ambient; slow",
      "moods": ["calm", "sad"],
      "Genre": "jazz",
      "instrument": "Mix",
      "artist": "Nobody",
    }
  )
  assert texts(found) == [
    ("long", "A slow waltz."),
    ("title", "Blue Moon"),
    ("short", "dark"),
    ("short", "ambient"),
    ("short", "slow"),
    ("short", "calm"),
    ("short", "sad"),
    ("entity", "jazz"),
    ("entity", "Mix"),
    ("entity", "Nobody"),
  ]
  assert [caption.source for caption in found.captions][-3:] == ["Genre", "instrument", "artist"]
  assert found.extra == {}


def test_commas_do_not_cut_a_sentence():
  assert texts(read({"caption": "Slow, calm; and sad."})) == [("long", "Slow, calm; and sad.")]


def test_tempo_and_key_are_words_and_stay_numbers():
  found = read({"bpm": 92.0, "key": "C minor", "weight": 0.5})
  assert texts(found) == [("short", "92 BPM"), ("short", "in C minor")]
  assert found.extra == {"bpm": 92.0, "key": "C minor", "weight": 0.5}
  assert texts(read({"tempo": "allegro", "bpm": "0"})) == [("short", "allegro")]


@pytest.mark.parametrize("value", [None, "", "  ", "nan", "None", float("nan"), [], [None], {}])
def test_empty_cells_give_nothing(value):
  found = read({"caption": value, "genre": value, "bpm": value, "license": value, "split": value})
  assert (found.captions, found.license, found.split) == ((), None, None)


@pytest.mark.parametrize(
  ("cell", "expected"),
  [
    ("['low quality', \"it's sad\"]", ["low quality", "it's sad"]),
    ('["a", "b"]', ["a", "b"]),
    ("[__import__('os').getcwd()]", ["[__import__('os').getcwd()]"]),
    ("[" * 5000 + "]" * 5000, 1),
    (3, ["3"]),
  ],
)
def test_lists_written_as_text_are_read_but_never_run(cell, expected):
  have = list(texts_of(cell))
  assert len(have) == expected if isinstance(expected, int) else have == expected


def test_licence_and_split_columns_win_over_the_folder():
  found = read({"licence": " CC0 ", "split": "valid"}, split="train", license="other")
  assert (found.license, found.split) == ("CC0", "validation")
  assert read({"split": "fold 3"}).split == "fold 3"
  assert read({}, split="test").split == "test"


def test_whole_captions_keep_kind_and_score_and_bad_ones_are_left_out():
  given = [{"text": "a", "kind": "short", "score": 0.5}, {"text": "b"}, 3]
  found = read({"captions": given})
  assert texts(found) == [("short", "a")]
  assert found.captions[0].score == 0.5


def test_what_we_measure_is_not_taken_from_columns():
  assert read({"path": "x", "duration": 3, "id": "q", "sha256": "0", "other": 1}).extra == {
    "other": 1
  }


def test_the_same_text_is_kept_once():
  found = read({"title": "Blue", "name": "Blue", "caption": "Blue"})
  assert texts(found) == [("title", "Blue"), ("long", "Blue")]


def test_texts_are_one_clean_line():
  assert clean_text(" a\tb\n\nc\x00d\u2028e \ud800f") == "a b c d e f"
  assert clean_text("日本語 😀") == "日本語 😀"


@pytest.mark.parametrize(
  ("name", "title"),
  [
    ("01 - blue_moon.mp3", "blue moon"),
    ("07. Waltz.flac", "Waltz"),
    ("99 luftballons.ogg", "luftballons"),
    ("1999.ogg", "1999"),
    ("夜曲.wav", "夜曲"),
  ],
)
def test_titles_from_file_names(name, title):
  assert title_of(Path(name)) == title
