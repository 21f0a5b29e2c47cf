"""Vocabularies of captions that people wrote: cleaned, split, judged, each kept once."""

import itertools
import json

import pytest

from data_pipelines import command
from data_pipelines.captions.about_music import is_about_music, is_chatter
from data_pipelines.captions.caption_list import EmptyList, read_list, write_list
from data_pipelines.captions.cleaning import clean_caption, normal_form, split_sentences
from data_pipelines.captions.duplicates import Duplicates
from data_pipelines.captions.refine import SHORT_RULES, Dropped, Raw, Rules, refine
from data_pipelines.captions.written import plain, rated
from noise2music.errors import UserError
from tests.data_pipelines.test_import_tables import MUSICCAPS


@pytest.mark.parametrize(
  ("text", "clean"),
  [
    ("  A\tslow\u00a0 tune.\r\n", "A slow tune."),
    ("- 1. **A slow tune.**", "A slow tune."),
    ("• (2) A slow tune.", "A slow tune."),
    ("b) \u201cA slow tune.\u201d", "A slow tune."),
    ('It says "no" and "yes"', 'It says "no" and "yes"'),
    ("'Tis a rock 'n' roll tune", "'Tis a rock 'n' roll tune"),
    ("the singer\u2019s voice", "the singer's voice"),
    ("3/4 time, 80s synth, 1.5 beats", "3/4 time, 80s synth, 1.5 beats"),
    ("e\u0301tude\u200b \ufeffin\x00D", "étude in D"),
    ("نغمه\u200cها", "نغمه\u200cها"),
    ("half \ud83d a pair", "half a pair"),
    ("-- ***", ""),
    ("♪♫", ""),
    ("", ""),
  ],
)
def test_cleaning_takes_off_what_is_no_text(text, clean):
  assert clean_caption(text) == clean
  assert clean_caption(clean) == clean


@pytest.mark.parametrize(
  ("text", "sentences"),
  [
    ("A tune. it is slow! Why? \u201cSo.\u201d", ["A tune.", "it is slow!", "Why?", "So."]),
    ("A tune\nof two lines. The end", ["A tune of two lines.", "The end"]),
    ("It is slow.The voice is low.", ["It is slow.", "The voice is low."]),
    ("Fast, e.g. 120.5 BPM, feat. J. S. Bach.", ["Fast, e.g. 120.5 BPM, feat. J. S. Bach."]),
    ("Symphony no. 5 is on. He says no. It ends.",
     ["Symphony no. 5 is on.", "He says no.", "It ends."]),
    ("It fades... Then (softly.) it ends.", ["It fades...", "Then (softly.)", "it ends."]),
    ("静かな曲。速い！", ["静かな曲。", "速い！"]),
    ("...", []),
  ],
)  # fmt: skip
def test_sentences(text, sentences):
  assert split_sentences(text) == sentences


def test_equal_but_for_spelling():
  assert normal_form("The Singer's  VOICE — is (very) low!") == "the singer s voice is very low"
  assert normal_form("singer\u2019s") == normal_form("singer's")
  known = Duplicates(similarity=1.0)
  assert known.add("Café music.") is None
  assert known.add("café  MUSIC") == "a duplicate"
  assert known.add("♪") is None
  assert known.add("♫") is None


def test_near_duplicates_by_pairs_of_words():
  words = [f"w{index}" for index in range(40)]
  known = Duplicates(similarity=0.9)
  assert known.add(" ".join(words)) is None
  # 39 pairs each; one word changed in the middle leaves 37 of 41, at the end 38 of 40.
  assert known.add(" ".join([*words[:20], "x", *words[21:]])) == "a near-duplicate"
  assert known.add(" ".join([*words[:39], "x"])) == "a near-duplicate"
  # Two words apart leave 35 of 43.
  assert known.add(" ".join([*words[:10], "x", *words[11:20], "y", *words[21:]])) is None
  assert known.add("no drums at all") is None
  assert known.add("no guitars at all") is None  # short texts differ by a word
  strict = Duplicates(similarity=1.0)
  assert strict.add(" ".join(words)) is None
  assert strict.add(" ".join([*words[:39], "x"])) is None


def test_near_duplicates_agree_with_comparing_all(tmp_path):
  texts = [
    " ".join(f"w{(index * 7 + place * (1 + index % 3)) % 29}" for place in range(24 + index % 5))
    for index in range(120)
  ]
  texts += [text + " end" for text in texts[::3]]

  def pairs(text):
    words = text.split()
    return {*itertools.pairwise(words)}

  kept = []
  for text in texts:
    alike = (len(pairs(text) & pairs(k)) / len(pairs(text) | pairs(k)) for k in kept)
    if max(alike, default=0) < 0.9:
      kept.append(text)
  known = Duplicates(similarity=0.9)
  assert [text for text in texts if known.add(text) is None] == kept
  assert 0 < len(kept) < len(texts)


def test_a_similarity_that_cannot_be():
  for bad in (0.0, 1.1, float("nan")):
    with pytest.raises(UserError, match="above 0 and at most 1"):
      Rules(similarity=bad)
  with pytest.raises(UserError, match="kind long or short"):
    Rules(kind="title")


@pytest.mark.parametrize("text", [
  "A lonesome voice.", "It has a groove.", "Flutes trill.", "This is lo-fi.", "Singing is heard.",
  "Children play in a park.",
])  # fmt: skip
def test_words_of_the_field_pass(text):
  assert is_about_music(text)


@pytest.mark.parametrize("text", [
  "It would suit a rainy afternoon.", "He was born in 1950 in Ohio.", "Buy two tickets now!", "",
])  # fmt: skip
def test_other_words_do_not(text):
  assert not is_about_music(text)


def test_chatter_of_models():
  for text in (
    "As an AI language model, I know songs.", "Here are three captions:", "Sure! Some music.",
    "I'm sorry, but the song is unknown.", "I don't have a recording.", "See https://a.b/c",
  ):  # fmt: skip
    assert is_chatter(text), text
  for text in ("Here the drums enter.", "The singer sings that he is sorry.", "A sure beat."):
    assert not is_chatter(text), text


def test_every_piece_has_one_fate():
  raws = [
    Raw(place="a:1", text="A slow tune. A SLOW tune! Nice."),
    Dropped(place="a:2", reason="not UTF-8"),
    Raw(place="a:3", text="x" * (1 << 20) + " x"),
    Raw(place="a:4", text=" . "),
    Raw(place="a:5", text="静かな曲。"),
  ]
  results = list(refine(raws, rules=Rules()))
  assert [item for item in results if isinstance(item, str)] == ["A slow tune.", "静かな曲。"]
  assert [item.reason for item in results if isinstance(item, Dropped)] == [
    "a duplicate",
    "fewer than 3 words",
    "not UTF-8",
    "longer than 1000 characters",
    "no letter or digit",
  ]
  short = list(refine([Raw(place="", text="No. drums"), Raw(place="", text="sad")],
                      rules=SHORT_RULES))  # fmt: skip
  assert short == ["No. drums", "sad"]


def test_a_text_file_loses_single_lines(tmp_path, capsys):
  source, out = tmp_path / "texts.txt", tmp_path / "made" / "mine.txt"
  lines = [
    b"\xef\xbb\xbfThe piano is soft.",
    b"",
    b"A caf\xe9 song is heard.",
    b"The song " + b"goes on " * (1 << 17),
    b"He went to the bank.",
    b"The end of a song.",
  ]
  source.write_bytes(b"\n".join(lines))
  assert command.main(["captions", "text", str(source), "--out", str(out), "--about-music"]) == 0
  assert "2 long captions of 5 texts; 3 dropped" in capsys.readouterr().out
  made = read_list(out)
  assert made.captions == ("The piano is soft.", "The end of a song.")
  assert (made.kind, made.source) == ("long", "texts.txt")
  about = json.loads(out.with_suffix(".json").read_text())
  assert about["read"] == about["captions"] + sum(about["dropped"].values()) == 5
  dropped = [json.loads(line) for line in out.with_suffix(".dropped.jsonl").open()]
  assert [(line["place"].rpartition(":")[2], line["reason"]) for line in dropped] == [
    ("3", "not UTF-8"),
    ("4", "a line of 1 MB or more"),
    ("5", "likely not about music"),
  ]
  first = out.read_bytes()
  command.main(["captions", "text", str(source), "--out", str(out), "--about-music"])
  assert out.read_bytes() == first


def test_raters_of_musiccaps(tmp_path, capsys):
  table = tmp_path / "musiccaps-public.csv"
  table.write_text(MUSICCAPS.replace('"singer\'s choice"', '""singer\'s choice""'))
  out = tmp_path / "rater.txt"
  assert command.main(["captions", "rater", str(table), "--out", str(out)]) == 0
  said = capsys.readouterr()
  assert "1 long captions of 4 texts; 3 dropped\n  3 fewer than 3 words" in said.out
  assert "cannot be judged by MusicCaps" in said.err
  assert read_list(out).captions == ("It is slow, and sad.",)
  few = ["--least-words", "1"]
  command.main(["captions", "rater", str(table), "--out", str(out), *few])
  assert read_list(out).captions == ("A piano.", "It is slow, and sad.", "Drums.", "No audio.")
  command.main(["captions", "rater", str(table), "--out", str(out), *few, "--split", "train"])
  assert read_list(out).captions == ("Drums.", "No audio.")
  command.main(["captions", "rater", str(table), "--out", str(out), "--kind", "short"])
  assert read_list(out).captions == ("piano", "singer's choice", "drums", "lost")
  assert read_list(out).kind == "short"


def test_tables_of_other_raters(tmp_path):
  table = tmp_path / "song_describer.csv"
  table.write_text('caption_id,caption,tags\n1,"A song, slow. It ends.","a, b;c"\n2,x,y,z\n')
  rows = list(rated(table, kind="long"))
  assert rows[0].text == "A song, slow. It ends."
  assert rows[1].reason == "a row that cannot be read"
  tags = list(rated(table, kind="short", column="tags"))
  assert [row.text for row in tags[:3]] == ["a", "b", "c"]
  with pytest.raises(UserError, match="no column aspect_list"):
    list(rated(table, kind="short"))
  with pytest.raises(UserError, match="has no split train"):
    list(rated(table, kind="long", split="train"))
  table.write_text(MUSICCAPS)
  with pytest.raises(UserError, match=r"only the columns caption and aspect_list of .*author_id"):
    list(rated(table, kind="long", column="author_id", split="train"))


def test_nothing_left_is_one_sentence_and_the_old_list_stays(tmp_path, capsys):
  source, out = tmp_path / "texts.txt", tmp_path / "mine.txt"
  source.write_text("The piano is soft.\n")
  arguments = ["captions", "text", str(source), "--out", str(out)]
  assert command.main(arguments) == 0
  for content, why in (("", "it is empty"), ("ab\n\n..\n", "1 fewer than 3 words")):
    source.write_text(content)
    assert command.main(arguments) == 2
    assert why in capsys.readouterr().err
  assert read_list(out).captions == ("The piano is soft.",)
  source.write_text("a b c\n", encoding="utf-16")
  assert command.main(arguments) == 2
  assert "is not UTF-8; save it as UTF-8" in capsys.readouterr().err
  assert command.main(["captions", "text", "nowhere.txt", "--out", str(out)]) == 2
  assert "cannot read nowhere.txt" in capsys.readouterr().err
  with pytest.raises(EmptyList):
    write_list(out, plain([]), rules=Rules(), source="nothing")


def test_a_list_that_is_not_as_it_was_made(tmp_path):
  out = tmp_path / "mine.txt"
  write_list(out, [Raw(place="", text="The piano is soft.")], rules=Rules(), source="me")
  out.write_text("Another text.\n")
  with pytest.raises(UserError, match="not as it was made"):
    read_list(out)
  for content in ("[]", "{}", "{", '"kind"'):
    out.with_suffix(".json").write_text(content)
    with pytest.raises(UserError, match=r"does not say what mine\.txt holds"):
      read_list(out)
  out.with_suffix(".json").write_text('{"kind": "long"}')
  assert read_list(out).captions == ("Another text.",)  # written by hand
  out.with_suffix(".json").unlink()
  with pytest.raises(UserError, match="make both files with `n2m data captions text"):
    read_list(out)
  out.write_text("")
  empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  about = {"kind": "long", "source": "", "sha256": empty}
  out.with_suffix(".json").write_text(json.dumps(about))
  with pytest.raises(UserError, match="holds no caption"):
    read_list(out)
