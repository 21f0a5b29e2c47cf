import numpy as np
import pytest

from data_pipelines.pseudo_label.search import Search
from data_pipelines.pseudo_label.store import Store


def unit(rows: int, *, seed: int, width: int = 24) -> np.ndarray:
  vectors = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
  return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def store_of(captions: np.ndarray, *, cuts: tuple[int, ...] = (), ids=None) -> Store:
  return Store(
    ids=tuple(ids if ids is not None else (f"{i:08d}" for i in range(len(captions)))),
    failed={},
    shards=tuple(np.split(captions, cuts)),
    width=captions.shape[1],
    made=0,
  )


def by_hand(clips, captions, *, ids, depth, allowed):
  """All scores in float64, sorted by score and then by id."""
  scores = np.round(clips.astype(np.float64) @ captions.T.astype(np.float64), 6)
  scores[:, ~allowed] = -np.inf
  order = [np.lexsort((np.array(ids), -row))[:depth] for row in scores]
  return np.array(order), np.take_along_axis(scores, np.array(order), axis=1)


@pytest.mark.parametrize("cuts", [(), (700,), (1, 2, 999, 1000)])
@pytest.mark.parametrize("search", [Search(), Search(captions=130, clips=3)])
def test_the_nearest_are_those_of_a_full_sort(search, cuts):
  captions, clips = unit(1500, seed=0), unit(7, seed=1)
  allowed = np.random.default_rng(2).random(1500) < 0.8
  store = store_of(captions, cuts=cuts)
  rows, scores = search(clips, store, depth=11, allowed=allowed)
  wanted, cosines = by_hand(clips, captions, ids=store.ids, depth=11, allowed=allowed)
  np.testing.assert_array_equal(rows, wanted)
  np.testing.assert_allclose(scores, cosines, atol=1.5e-6)


def test_equal_captions_are_told_apart_by_id_however_many_there_are():
  captions, clips = unit(600, seed=0), unit(2, seed=1)
  captions[100:400] = clips[0]  # far more than are fetched
  ids = [f"{i:08x}" for i in np.random.default_rng(5).permutation(600)]
  store = store_of(captions, cuts=(200,), ids=ids)
  rows, scores = Search(captions=128)(clips, store, depth=11)
  wanted, _ = by_hand(clips, captions, ids=ids, depth=11, allowed=np.ones(600, bool))
  np.testing.assert_array_equal(rows, wanted)
  np.testing.assert_allclose(scores[0], 1.0, atol=1e-6)
  assert list(np.array(ids)[rows[0]]) == sorted(np.array(ids)[100:400])[:11]


def test_a_small_vocabulary_leaves_places_empty():
  captions, clips = unit(5, seed=0), unit(3, seed=1)
  rows, scores = Search()(clips, store_of(captions), depth=8, allowed=np.arange(5) != 2)
  assert (rows[:, 4:] == -1).all()
  assert np.isneginf(scores[:, 4:]).all()
  assert [set(row[:4]) for row in rows] == [{0, 1, 3, 4}] * 3


def test_neighbours_and_their_number_do_not_change_a_score():
  captions, clips = unit(900, seed=0), unit(40, seed=1)
  store = store_of(captions)
  together = Search()(clips, store, depth=5)
  for row in (0, 17, 39):
    alone = Search(clips=1, captions=256)(clips[row : row + 1], store, depth=5)
    for a, b in zip(alone, together, strict=True):
      assert a[0].tobytes() == b[row].tobytes()
