import pytest

from data_pipelines.pseudo_label.decisions import read_decisions
from noise2music.errors import UserError


def read(tmp_path, *lines: str):
  path = tmp_path / "decisions.jsonl"
  path.write_text("\n".join(lines), encoding="utf-8")
  return read_decisions(path)


def test_no_file_is_no_decision():
  decisions = read_decisions(None)
  assert decisions.of_clip("a", vocabulary="v") == ([], set())
  assert decisions.banned_phrases("anything") == []
  assert decisions.most_rejections() == 0


def test_the_last_word_about_a_label_counts(tmp_path):
  decisions = read(
    tmp_path,
    '{"decision": "accept", "clip": "a", "text": "x"}',
    '{"decision": "accept", "clip": "a", "text": "y", "vocabulary": "w"}',
    '{"decision": "reject", "clip": "a", "text": "z"}',
    '{"decision": "reject", "clip": "b", "text": "x"}',
    '{"decision": "reject", "clip": "a", "text": "x"}',
  )
  assert decisions.of_clip("a", vocabulary="v") == ([], {"x", "z"})
  assert decisions.of_clip("a", vocabulary="w") == (["y"], {"x", "z"})
  assert decisions.of_clip("b", vocabulary="v") == ([], {"x"})
  assert decisions.most_rejections() == 2


@pytest.mark.parametrize(
  ("text", "banned"),
  [("A take, in THIS video.", True), ("in this videotape", False), ("video this in", False)],
)
def test_a_phrase_is_whole_words_in_any_case(tmp_path, text, banned):
  decisions = read(tmp_path, '{"decision": "ban", "phrase": "In this  video!"}')
  assert bool(decisions.banned_phrases(text)) == banned


@pytest.mark.parametrize(
  "line",
  [
    '{"decision": "like", "clip": "a", "text": "x"}',
    '{"decision": "accept", "clip": "a"}',
    '{"decision": "accept", "clip": 3, "text": "x"}',
    '{"decision": "ban", "phrase": "..."}',
    '{"clip": "a", "text": "x"}',
    '["accept"]',
    '{"decision": ',
  ],
)
def test_a_line_that_decides_nothing_is_named(tmp_path, line):
  with pytest.raises(UserError, match=r"decisions.jsonl:2: "):
    read(tmp_path, '{"decision": "ban", "phrase": "x"}', line)
