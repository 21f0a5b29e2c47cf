from pathlib import Path

import pytest

from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.manifest import Caption, Clip, write_manifest
from noise2music.errors import UserError
from noise2music.text.tokenizer import SentencePieceTokenizer

TEXTS = [
  f"A {speed} {instrument} plays a {dance} in {key} major."
  for speed in ("slow", "fast")
  for instrument in ("violin", "flute", "piano", "trumpet")
  for dance in ("jig", "reel", "waltz")
  for key in "CDG"
]


def _manifest(folder: Path, texts: list[str], *, split: str = "train") -> Path:
  captions = tuple(Caption(text=text, kind="long") for text in texts)
  clip = Clip(path="a.wav", duration=1.0, sample_rate=24_000, captions=captions, split=split)
  write_manifest(folder / "manifest.jsonl", [clip])
  return folder / "manifest.jsonl"


def test_words_of_the_captions_become_single_tokens_whatever_their_case(tmp_path: Path) -> None:
  path = train_vocabulary(_manifest(tmp_path, TEXTS), tmp_path / "v.model", vocab_size=330)
  tokenizer = SentencePieceTokenizer(path=path)
  assert len(tokenizer.encode("violin")) == 1
  assert tokenizer.encode("Violin") == tokenizer.encode("violin")
  assert tokenizer.encode("flute") != tokenizer.encode("violin")


def test_any_text_can_be_written(tmp_path: Path) -> None:
  path = train_vocabulary(_manifest(tmp_path, TEXTS), tmp_path / "v.model", vocab_size=330)
  tokenizer = SentencePieceTokenizer(path=path)
  assert tokenizer.decode(tokenizer.encode("音楽 zither")) == "音楽 zither"


def test_the_same_captions_give_the_same_bytes(tmp_path: Path) -> None:
  manifest = _manifest(tmp_path, TEXTS)
  first = train_vocabulary(manifest, tmp_path / "a.model", vocab_size=330).read_bytes()
  assert first == train_vocabulary(manifest, tmp_path / "b.model", vocab_size=330).read_bytes()


def test_a_vocabulary_is_known_by_what_it_says_and_not_by_where_it_lies(tmp_path: Path) -> None:
  manifest = _manifest(tmp_path, TEXTS)
  paths = [
    train_vocabulary(manifest, tmp_path / name / "v.model", vocab_size=size)
    for name, size in (("a", 330), ("b", 330), ("c", 290))
  ]
  a, b, c = (SentencePieceTokenizer(path=path).fingerprint() for path in paths)
  assert a == b != c


@pytest.mark.parametrize(("texts", "split"), [([], "train"), (TEXTS, "test")])
def test_no_captions_are_said_to_be_none(tmp_path: Path, texts: list[str], split: str) -> None:
  with pytest.raises(UserError, match="no captions in its train split"):
    train_vocabulary(_manifest(tmp_path, texts, split=split), tmp_path / "v.model")


def test_a_size_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
  with pytest.raises(UserError, match="10 pieces"):
    train_vocabulary(_manifest(tmp_path, TEXTS), tmp_path / "v.model", vocab_size=10)
