import json

import numpy as np
import pytest
from tiny_encoder import TinyEncoder, write_music, write_vocabulary

from data_pipelines.captions.caption_list import write_list
from data_pipelines.captions.refine import Raw, Rules
from data_pipelines.manifest import read_manifest
from data_pipelines.pseudo_label.embed import clip_items, embed_clips, store_clips
from data_pipelines.pseudo_label.store import Item, fill_store, open_store
from data_pipelines.pseudo_label.vocabularies import (
  evaluation_sentences,
  leaks,
  read_vocabulary,
)
from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import EncoderError
from noise2music.joint_embedding.precomputed import Precomputed

ITEMS = [Item(id=str(i), what=str(i), stamp="s") for i in range(10)]


class Embed:
  """The vector of item i is (i, 1); item 6 has none. Remembers what it was asked."""

  def __init__(self):
    self.asked = []

  def __call__(self, items):
    self.asked += [item.id for item in items]
    return [
      "is poisoned" if item.what == "6" else np.array([item.what, 1], np.float32) for item in items
    ]


def fill(folder, embed, *, items=ITEMS, fingerprint="f"):
  return fill_store(
    folder, items, embed=embed, fingerprint=fingerprint, width=2, shard_rows=4, batch_size=3
  )


def test_shards_hold_every_row_once_and_are_not_made_twice(tmp_path):
  store = fill(tmp_path, first := Embed())
  assert first.asked == [str(i) for i in range(10)]
  assert store.failed == {"6": "is poisoned"}
  assert store.ids == tuple(str(i) for i in range(10) if i != 6)
  assert [len(shard) for shard in store.shards] == [4, 3, 2]
  np.testing.assert_array_equal(store.rows([8, 0, 6]), [[9, 1], [0, 1], [7, 1]])
  again = fill(tmp_path, second := Embed())
  assert second.asked == ["6"]  # what failed is tried again
  np.testing.assert_array_equal(again.rows(range(9)), store.rows(range(9)))


@pytest.mark.parametrize("damage", ["array cut off", "head cut off", "head gone", "other array"])
def test_a_shard_that_is_not_whole_is_made_again(tmp_path, damage):
  fill(tmp_path, Embed())
  array, head = tmp_path / "00002.npy", tmp_path / "00002.json"
  if damage == "array cut off":
    array.write_bytes(array.read_bytes()[:-3])
  elif damage == "head cut off":
    head.write_text(head.read_text()[:-9])
  elif damage == "head gone":
    head.unlink()
  else:
    np.save(array, np.zeros((2, 2), np.float32))
  store = fill(tmp_path, embed := Embed())
  assert embed.asked == ["6", "8", "9"]
  np.testing.assert_array_equal(store.rows([7, 8]), [[8, 1], [9, 1]])


def test_another_encoder_makes_all_and_another_list_what_is_new(tmp_path):
  fill(tmp_path, Embed())
  fill(tmp_path, embed := Embed(), fingerprint="g")
  assert embed.asked == [item.id for item in ITEMS]
  changed = [*ITEMS[:2], Item(id="2", what="20", stamp="t"), ITEMS[3]]
  store = fill(tmp_path, embed := Embed(), items=changed, fingerprint="g")
  assert embed.asked == ["2"]
  assert len(list(tmp_path.glob("*.npy"))) == 1  # shards that are no longer needed are gone
  np.testing.assert_array_equal(open_store(tmp_path).rows(range(4))[:, 0], [0, 1, 20, 3])
  assert store.ids == ("0", "1", "2", "3")


def test_a_folder_without_vectors(tmp_path):
  with pytest.raises(UserError, match="no vectors"):
    open_store(tmp_path)


def test_a_clip_that_upsets_the_encoder_does_not_cost_the_others(tmp_path):
  manifest = write_music(tmp_path / "music", count=4)
  items = clip_items(read_manifest(manifest), folder=manifest.parent)
  encoder = TinyEncoder()
  store = store_clips(tmp_path / "vectors", items, encoder=encoder)
  assert store.ids == ("clip-0", "clip-1", "clip-2", "clip-3")
  assert set(store.failed) == {"words", "silent", "missing"}
  alone = embed_clips(encoder, [item for item in items if item.id == "clip-2"])[0]
  np.testing.assert_array_equal(alone, store.rows([2])[0])


def test_an_encoder_that_takes_nothing_is_an_error_and_no_dead_letter(tmp_path):
  class Broken(TinyEncoder):
    def embed_audio(self, clips):
      raise RuntimeError("no memory")

  manifest = write_music(tmp_path / "music", count=2)
  items = clip_items(read_manifest(manifest), folder=manifest.parent)
  with pytest.raises(EncoderError, match=r"takes no clip .*no memory"):
    embed_clips(Broken(), items)


def test_clips_are_looked_up_where_vectors_were_made_elsewhere(tmp_path):
  np.savez(
    tmp_path / "v.npz",
    clip_ids=np.array(["a"]),
    clip_vectors=np.eye(2)[:1],
    texts=np.array(["x"]),
    text_vectors=np.eye(2)[1:],
    fingerprint="f",
  )
  found = embed_clips(
    Precomputed(path=tmp_path / "v.npz"), [Item(id="a", what=""), Item(id="b", what="")]
  )
  np.testing.assert_array_equal(found[0], [1, 0])
  assert "add its id" in found[1]


def test_a_vocabulary_is_read_line_by_line(tmp_path):
  path = write_vocabulary(
    tmp_path / "v.txt", ["one", "two", "", " one ", "x" * 10_001], kind="short"
  )
  path.write_bytes(path.read_bytes() + b"caf\xe9\nthree")
  vocabulary = read_vocabulary(path)
  assert vocabulary.captions == ("one", "two", "three")
  assert (vocabulary.name, vocabulary.kind, vocabulary.dropped) == ("v", "short", 2)


def test_a_vocabulary_that_was_made_and_then_changed_is_refused(tmp_path):
  path = tmp_path / "made.txt"
  write_list(path, [Raw(place="", text="The piano is soft.")], rules=Rules(), source="me")
  assert read_vocabulary(path).captions == ("The piano is soft.",)
  path.write_text("Another text.\n")
  with pytest.raises(UserError, match="not as it was made"):
    read_vocabulary(path)


@pytest.mark.parametrize(
  ("text", "kind", "said"),
  [("\n \n", {"kind": "long"}, "holds no caption"), ("a", {"kind": "odd"}, "long or short"),
   ("a", {}, "does not say")],
)  # fmt: skip
def test_a_vocabulary_that_cannot_be_used(tmp_path, text, kind, said):
  path = write_vocabulary(tmp_path / "v.txt", [text], kind="long")
  path.with_suffix(".json").write_text(json.dumps(kind))
  with pytest.raises(UserError, match=said):
    read_vocabulary(path)


def test_a_leak_is_a_shared_sentence_whatever_its_case_and_punctuation(tmp_path):
  path = tmp_path / "eval.txt"
  path.write_text("A slow waltz, with strings. It is sad!\nRock music\n")
  evaluation = evaluation_sentences([path])
  assert leaks("a SLOW waltz with strings", evaluation)
  assert leaks("Nice. It is sad.", evaluation)
  assert not leaks("A slow waltz with horns.", evaluation)
  assert not leaks("rock music", evaluation)  # a tag is no sentence


def test_every_cell_of_an_evaluation_table_counts(tmp_path):
  table = tmp_path / "captions.csv"
  table.write_text('id,caption\n-x,"A slow waltz, for two flutes. It\nhas a calm mood."\n')
  found = evaluation_sentences([table])
  assert leaks("A slow waltz, for two flutes.", found)
  assert leaks("Has a calm mood!", found)
  assert not leaks("A fast waltz, for two flutes.", found)
