"""The members of a text batch, which of them is drawn, and the token rows of a batch."""

import numpy as np
import pytest

from data_pipelines.manifest import Caption
from data_pipelines.text_batches import TextBatch, token_rows
from noise2music.errors import UserError
from noise2music.text.tokenizer import ByteTokenizer

BYTES = ByteTokenizer()


def captions(**texts):
  return [Caption(text=text, kind=kind) for kind, list_ in texts.items() for text in list_]


def test_long_ones_stand_alone_and_the_rest_is_joined():
  clip = captions(
    short=["calm", "slow"], long=["A flute.", "A drum."], entity=["folk"], title=["Morning"]
  )
  got = TextBatch().members(clip, tokenizer=BYTES, token_length=64)
  assert got == ["A flute.", "A drum.", "Morning, folk, calm, slow"]


@pytest.mark.parametrize(
  ("token_length", "want"), [(13, "aaaa, bbbb"), (11, "aaaa, bbbb"), (10, "aaaa"), (3, "aaaa")]
)
def test_cut_between_labels(token_length, want):
  clip = captions(short=["aaaa", "bbbb", "cccc"])
  assert TextBatch().members(clip, tokenizer=BYTES, token_length=token_length) == [want]


def test_further_segments_become_members_when_asked_for():
  clip = captions(short=["aaaa", "bbbb", "cccc", "dddd", "eeee"])
  got = TextBatch(short_members=2).members(clip, tokenizer=BYTES, token_length=11)
  assert got == ["aaaa, bbbb", "cccc, dddd"]


def test_same_label_twice_is_said_once():
  clip = captions(entity=["piano"], short=["piano", "soft"])
  assert TextBatch().members(clip, tokenizer=BYTES, token_length=64) == ["piano, soft"]


def test_kinds_left_out_are_never_trained_on():
  clip = captions(title=["Song 2"], short=["loud"])
  batch = TextBatch(short_kinds=("short",), separator="; ")
  assert batch.members(clip, tokenizer=BYTES, token_length=64) == ["loud"]


def test_draw_is_even_and_named_by_seed_and_index():
  clip = captions(long=["a", "b", "c"], short=["d"])

  def drawn(seed):
    return [
      TextBatch().draw(clip, tokenizer=BYTES, token_length=8, seed=seed, global_index=g)
      for g in range(2000)
    ]

  counts = [drawn(0).count(text) for text in "abcd"]
  assert sum(counts) == 2000
  assert min(counts) > 400  # 500 expected, standard deviation 19
  assert drawn(0) == drawn(0)
  assert drawn(0) != drawn(1)


def test_no_captions_is_text_dropped():
  assert TextBatch().draw([], tokenizer=BYTES, token_length=8, seed=0, global_index=0) == ""
  tokens, mask = token_rows(["", "hi"], tokenizer=BYTES, length=4)
  np.testing.assert_array_equal(tokens, [[0, 0, 0, 0], [ord("h") + 3, ord("i") + 3, 1, 0]])
  np.testing.assert_array_equal(mask, [[False] * 4, [True, True, True, False]])
  assert tokens.dtype == np.int32
  assert mask.dtype == np.bool_


def test_a_text_of_which_no_token_is_left_is_no_member():
  class Deaf(ByteTokenizer):
    def encode(self, text, *, limit=None):
      return [] if text == "mute" else super().encode(text, limit=limit)

  clip = captions(long=["mute", "heard"])
  assert TextBatch().members(clip, tokenizer=Deaf(), token_length=8) == ["heard"]


@pytest.mark.parametrize(
  "wrong", [{"short_kinds": ("long",)}, {"short_kinds": ("mood",)}, {"short_members": 0}]
)
def test_refuses_settings_it_cannot_honour(wrong):
  with pytest.raises(UserError):
    TextBatch(**wrong)
