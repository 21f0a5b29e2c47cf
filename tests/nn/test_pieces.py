"""A network computes the same of clips cut into pieces as of whole ones."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from noise2music.nn import conv, pieces, unet1d
from noise2music.nn.norms import group_statistics
from noise2music.nn.unet1d import UNet1D
from noise2music.sharding.rules import LogicalRules

DATA = ("data", "fsdp")
RNG = np.random.default_rng(0)


def draw(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def test_cutting_keeps_the_order_and_joining_undoes_it():
  x = np.arange(24.0).reshape(2, 6, 2)
  assert pieces.cut(x, 3)[1].tolist() == x[0, 2:4].tolist()
  assert (pieces.join(pieces.cut(x, 3), 3) == x).all()


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("count", [2, 4])
def test_convolution_reaches_across_pieces_but_not_across_clips(kernel_size, count):
  x = draw(3, 16, 2)
  make = lambda n: conv.Conv1D(5, kernel_size, pieces=n)  # noqa: E731
  params = make(1).init(jax.random.key(0), x)
  run = lambda n: pieces.join(make(n).apply(params, pieces.cut(x, n)), n)  # noqa: E731
  np.testing.assert_allclose(run(count), run(1), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_statistics_are_those_of_whole_clips(dtype):
  x = jnp.asarray(draw(2, 24, 6) + np.arange(24)[:, None], dtype)  # pieces differ in their means
  have = group_statistics(pieces.cut(x, 4), groups=3, pieces=4)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), have, group_statistics(x, groups=3)
  )


@functools.cache
def _run_of(kernel_size):
  """(run(pieces) -> value and gradients of a network, the same of whole clips)."""

  def network(count):
    return UNet1D(
      out_channels=2,
      base_width=8,
      strides=(2, 4),
      width_multipliers=(1, 2),
      blocks=(1, 2),
      kernel_size=kernel_size,
      self_attention=(False, True),
      cross_attention=(False, True),
      heads=2,
      aligned=True,
      patch=2,
      pieces=count,
    )

  x, t = draw(2, 128, 2), jnp.array([0.2, 0.9])
  inputs = {"text": draw(2, 3, 7), "aligned": draw(2, 8, 5)}
  shapes = jax.eval_shape(network(1).init, jax.random.key(0), x, t, **inputs)
  params = jax.tree.map(lambda leaf: 0.3 * draw(*leaf.shape), shapes)
  weight = draw(*x.shape)

  def run(count):
    def loss(params, x):
      return jnp.sum(weight * network(count).apply(params, x, t, **inputs))

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, x)

  return run, run(1)


@pytest.mark.parametrize("kernel_size", [4, 5])
@pytest.mark.parametrize("cutting", [4, (8, 4, 2), (1, 2, 4)])
@pytest.mark.usefixtures("light_compilation")
def test_network_and_its_gradient_are_the_same_in_pieces(cutting, kernel_size, monkeypatch):
  """Cut alike at the entry and all depths, or into numbers of their own."""
  run, whole = _run_of(kernel_size)
  if isinstance(cutting, tuple):
    counts = dict(zip((64, 32, 8), cutting, strict=True))
    monkeypatch.setattr(unet1d, "best_count", lambda *, length, **_: counts[length])
  cut = run(None if isinstance(cutting, tuple) else cutting)
  scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole))
  assert all(np.any(leaf) for leaf in jax.tree.leaves(whole))

  def near(a, b):
    np.testing.assert_allclose(a, b, atol=1e-5 * scale)
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max() + 1e-6 * scale)

  jax.tree.map(near, cut, whole)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("kernel_size", [1, 3, 4])
def test_entry_and_exit_are_convolutions_of_whole_clips(kernel_size, platform, monkeypatch):
  """Values and gradients, of clips that pass between whole and cut there."""
  monkeypatch.setattr(conv, "platform", lambda: platform)
  x, weight = draw(2, 24, 3), draw(2, 24, 5)
  whole = conv.Conv1D(5, kernel_size)
  params = jax.tree.map(lambda leaf: draw(*leaf.shape), whole.init(jax.random.key(0), x))
  joined = lambda y: pieces.join(y, 4)  # noqa: E731
  ways = [
    lambda params, x: whole.apply(params, x),
    lambda params, x: joined(conv.EntryConv1D(5, kernel_size, pieces=4).apply(params, x)),
    lambda params, x: conv.ExitConv1D(5, kernel_size, pieces=4).apply(params, pieces.cut(x, 4)),
  ]
  loss = lambda way: lambda params, x: jnp.sum(weight * jnp.sin(way(params, x)))  # noqa: E731
  want, *others = [jax.value_and_grad(loss(way), argnums=(0, 1))(params, x) for way in ways]
  for got in others:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, want)


@pytest.mark.parametrize(
  ("rows", "length", "count"),
  [
    (8, 4800, 1),  # eight rows lie as they are
    (4, 4800, 2),
    (2, 4800, 4),
    (1, 4800, 8),
    (12, 4800, 2),  # twelve would leave four of sixteen empty
    (1, 4500, 15),  # 16 and 8 do not divide: 15 of 16 rows
    (2, 736, 1),  # pieces long enough would fill half of the rows
    (1, 100, 1),  # too short to be cut
  ],
)
def test_as_few_pieces_as_fill_the_rows(rows, length, count):
  assert pieces._fullest(rows=rows, length=length) == count


def test_a_processor_is_given_whole_clips():
  assert pieces.best_count(clips=1, length=4_800) == 1


def test_rows_are_counted_for_one_device(monkeypatch):
  monkeypatch.setattr(pieces, "platform", lambda: "tpu")
  assert pieces.best_count(clips=16, length=9_600) == 1
  monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: AbstractMesh((4, 2), DATA))
  with nn.logical_axis_rules(LogicalRules().pairs):
    assert pieces.best_count(clips=16, length=9_600) == 4
  # Where devices share a clip, its pieces would lie on more than one.
  with nn.logical_axis_rules([("batch", "data"), ("time", "fsdp")]):
    assert pieces.best_count(clips=16, length=9_600) == 1
