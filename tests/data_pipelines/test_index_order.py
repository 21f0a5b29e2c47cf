"""The order of a run: a permutation each epoch, weights by block, the same numbers for ever."""

import numpy as np
import pytest

from data_pipelines.index_order import IndexOrder, block_counts, draw, draw_below, permute
from noise2music.errors import UserError


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 100, 257, 4096, 5000])
def test_permute_reaches_every_index_exactly_once(size):
  keys = tuple(draw(0, "order", 0, 0, i) for i in range(6))
  out = [permute(i, size=size, keys=keys) for i in range(size)]
  assert sorted(out) == list(range(size))


def test_every_epoch_holds_each_clip_once_in_an_order_of_its_own():
  order = IndexOrder(sizes=(97,), seed=3)
  epochs = [[order.at(e * 97 + i)[1] for i in range(97)] for e in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(97))
  assert epochs[0] != epochs[1] != epochs[2]


def test_order_depends_on_the_seed_and_on_nothing_else():
  def first(seed):
    order = IndexOrder(sizes=(1000,), seed=seed)
    return [order.at(g)[1] for g in range(50)]

  assert first(1) == first(1)
  assert first(1) != first(2)


def test_these_numbers_are_what_old_checkpoints_mean():
  order = IndexOrder(sizes=(1000,), seed=7)
  assert [order.at(g)[1] for g in (0, 1, 2, 999, 1000, 10**12)] == [500, 496, 843, 725, 110, 497]
  assert draw(7, "crop", 5) == 17066682062652626638


def test_jump_needs_no_walk():
  order = IndexOrder(sizes=(3, 5), weights=(1, 2), seed=1)
  walked = [order.at(g) for g in range(3000)]
  assert IndexOrder(sizes=(3, 5), weights=(1, 2), seed=1).at(2999) == walked[2999]


def test_shuffled_order_looks_uniform():
  # 400 epochs of 20 clips: how often clip k stands at place p. Expected 20 each, chi-square
  # with 361 degrees of freedom: mean 361, standard deviation 27.
  order = IndexOrder(sizes=(20,), seed=0)
  counts = np.zeros((20, 20))
  for e in range(400):
    for p in range(20):
      counts[p, order.at(e * 20 + p)[1]] += 1
  assert 361 - 5 * 27 < ((counts - 20) ** 2 / 20).sum() < 361 + 5 * 27


def test_neighbours_do_not_stay_neighbours():
  keys = tuple(draw(1, "order", 0, 0, i) for i in range(6))
  out = np.array([permute(i, size=10_000, keys=keys) for i in range(10_000)], np.float64)
  assert abs(np.corrcoef(out[:-1], out[1:])[0, 1]) < 0.04
  assert abs(np.corrcoef(out, np.arange(10_000))[0, 1]) < 0.04


def test_without_shuffle_front_to_back():
  order = IndexOrder(sizes=(4,), shuffle=False)
  assert [order.at(g) for g in range(6)] == [(0, 0), (0, 1), (0, 2), (0, 3), (0, 0), (0, 1)]


def test_mixture_keeps_its_proportions_in_every_block_and_each_source_its_epochs():
  order = IndexOrder(sizes=(6, 10), weights=(3.0, 1.0), seed=5)
  drawn = [order.at(g) for g in range(160)]
  for block in range(40):
    which = [w for w, _ in drawn[4 * block : 4 * block + 4]]
    assert sorted(which) == [0, 0, 0, 1]
  first = [k for w, k in drawn if w == 0]
  second = [k for w, k in drawn if w == 1]
  for e in range(len(first) // 6):
    assert sorted(first[6 * e : 6 * e + 6]) == list(range(6))
  for e in range(len(second) // 10):
    assert sorted(second[10 * e : 10 * e + 10]) == list(range(10))
  assert len({tuple(w for w, _ in drawn[4 * b : 4 * b + 4]) for b in range(40)}) == 4


def test_default_weights_are_the_sizes():
  order = IndexOrder(sizes=(3, 1), seed=0)
  drawn = [order.at(g) for g in range(4)]
  assert sorted(drawn) == [(0, 0), (0, 1), (0, 2), (1, 0)]


@pytest.mark.parametrize(
  ("weights", "counts"),
  [((1, 1), [1, 1]), ((2, 4), [1, 2]), ((0.3, 0.7), [3, 7]), ((1, 1, 4094), [1, 1, 4094])],
)
def test_block_counts(weights, counts):
  assert block_counts(weights).tolist() == counts


def test_irrational_weights_round_to_the_nearest():
  counts = block_counts((np.pi, 1.0))
  assert counts.sum() == 4096
  assert counts[0] == round(4096 * np.pi / (np.pi + 1))


@pytest.mark.parametrize(
  "arguments",
  [
    {"sizes": ()},
    {"sizes": (3, 0)},
    {"sizes": (3, 3), "weights": (1.0,)},
    {"sizes": (3, 3), "weights": (1.0, 0.0)},
    {"sizes": (3, 3), "weights": (1.0, float("nan"))},
    {"sizes": (3, 3), "weights": (1.0, 1e-6)},
  ],
)
def test_refuses_what_it_cannot_honour(arguments):
  with pytest.raises(UserError):
    IndexOrder(**arguments)


def test_draw_below_is_even():
  counts = np.bincount([draw_below(7, 0, "x", i) for i in range(7000)], minlength=7)
  assert counts.size == 7
  assert (abs(counts - 1000) < 150).all()
