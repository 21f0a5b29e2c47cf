"""Texts to ids and back, in several scripts, whole and cut."""

import numpy as np
import pytest
import sentencepiece

from noise2music.errors import UserError
from noise2music.text.tokenizer import ByteTokenizer, SentencePieceTokenizer, tokenize

TEXTS = ["a slow waltz", "ゆっくりしたワルツ", "🎻🎶 très lent", "ночь\nи день", "x\0y"]
LINES = [
  "a slow waltz for piano",
  "a fast jig for fiddle",
  "slow airs and fast reels",
  "waltz",
] * 20


def _train(path, **options) -> str:
  with path.open("wb") as file:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(LINES),
      model_writer=file,
      hard_vocab_limit=False,
      minloglevel=2,
      **{"vocab_size": 60, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} | options,
    )
  return str(path)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
  return SentencePieceTokenizer(path=_train(tmp_path_factory.mktemp("pieces") / "t5.model"))


def test_ids_are_those_of_byt5():
  assert ByteTokenizer().encode("Aé") == [ord("A") + 3, 0xC3 + 3, 0xA9 + 3]
  assert ByteTokenizer().vocab_size == 384


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_round_trip(text):
  tokenizer = ByteTokenizer()
  tokens, mask = tokenize([text], tokenizer=tokenizer, length=64)
  count = len(text.encode())
  assert tokens.shape == mask.shape == (1, 64)
  assert (tokens.dtype, mask.dtype) == (np.int32, np.bool_)
  assert tokens[0, count] == 1
  assert not tokens[0, count + 1 :].any()
  np.testing.assert_array_equal(mask[0], np.arange(64) <= count)
  assert tokenizer.decode(tokens[0]) == text


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_are_cut_between_characters(text):
  tokenizer = ByteTokenizer()
  for length in range(5, len(text.encode()) + 3):
    tokens, mask = tokenize([text], tokenizer=tokenizer, length=length)
    kept = tokenizer.decode(tokens[0])
    used = mask[0].sum()
    assert text.startswith(kept)
    assert tokens[0, used - 1] == 1
    assert used == len(kept.encode()) + 1
    # Nothing more would have fitted.
    assert kept == text or used + len(text[len(kept)].encode()) > length


def test_decoding_skips_what_is_no_text():
  assert ByteTokenizer().decode([0, 1, 2, 100, 259, 383, 1, 0]) == "a"
  assert ByteTokenizer().decode([0xE3 + 3]) == "\ufffd"


def test_sentencepiece_round_trip_and_cut(pieces):
  text = "a slow reel for fiddle"
  tokens, mask = tokenize([text, "waltz"], tokenizer=pieces, length=40)
  assert [pieces.decode(row) for row in tokens] == [text, "waltz"]
  assert tokens.max() < pieces.vocab_size
  whole = mask[0].sum()
  cut, mask = tokenize([text], tokenizer=pieces, length=int(whole) - 2)
  assert mask.all()
  assert cut[0, -1] == 1
  np.testing.assert_array_equal(cut[0, :-1], tokens[0, : whole - 3])
  assert pieces.encode("🎻")[-1] == 2  # unknown to pieces without bytes


def test_byte_pieces_are_cut_between_characters(tmp_path):
  path = _train(tmp_path / "bytes.model", byte_fallback=True, vocab_size=320)
  tokenizer = SentencePieceTokenizer(path=path)
  text = "waltz 🎻🎶"
  whole = len(tokenizer.encode(text))
  kept = [tokenizer.decode(tokenizer.encode(text, limit=n)) for n in range(whole + 1)]
  assert kept[-1] == text
  assert kept[-2] == kept[-5] == "waltz 🎻"
  assert all(text.startswith(k) for k in kept)


def test_sentencepiece_refuses_other_files(tmp_path):
  with pytest.raises(UserError, match=r"no sentencepiece model at .*none\.model.*byte tokenizer"):
    SentencePieceTokenizer(path=tmp_path / "none.model")
  with pytest.raises(UserError, match="no sentencepiece model"):
    SentencePieceTokenizer(path=tmp_path)
  for content in (b"", b"no model at all", bytes(range(256))):
    (tmp_path / "bad.model").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.model is not a sentencepiece model"):
      SentencePieceTokenizer(path=tmp_path / "bad.model")
  other = _train(tmp_path / "other.model", pad_id=-1, bos_id=1, unk_id=0, eos_id=2)
  with pytest.raises(UserError, match="pads with id -1 and ends with id 2"):
    SentencePieceTokenizer(path=other)


@pytest.mark.parametrize("text", ["", "   ", "\t\n", "\u3000"])
def test_empty_texts_are_refused(text, pieces):
  for tokenizer in (ByteTokenizer(), pieces):
    with pytest.raises(UserError, match="text 2 of 2 is empty"):
      tokenize(["ok", text], tokenizer=tokenizer, length=8)


def test_other_bad_texts_are_refused(pieces):
  for tokenizer in (ByteTokenizer(), pieces):
    with pytest.raises(UserError, match="broken character"):
      tokenize(["half \ud83c of a violin"], tokenizer=tokenizer, length=8)
  with pytest.raises(UserError, match="nothing is left"):
    tokenize(["🎻"], tokenizer=ByteTokenizer(), length=4)
  with pytest.raises(UserError, match="list of texts"):
    tokenize("slow", tokenizer=ByteTokenizer(), length=8)
  with pytest.raises(UserError, match="at least 2"):
    tokenize(["slow"], tokenizer=ByteTokenizer(), length=1)


def test_no_texts_give_no_rows():
  tokens, mask = tokenize([], tokenizer=ByteTokenizer(), length=8)
  assert tokens.shape == mask.shape == (0, 8)
