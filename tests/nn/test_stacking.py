"""Scanned and unrolled blocks: one parameter tree, the same numbers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.nn import axes
from noise2music.nn.blocks import Block, BlockInputs, FullyConnected, Identity, TextInput
from noise2music.nn.stacking import Auto, Scanned, Stack, Unrolled

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 8, 4)).astype(np.float32)
INPUTS = BlockInputs(
  RNG.normal(size=(2, 4)).astype(np.float32),
  TextInput(
    RNG.normal(size=(2, 3, 5)).astype(np.float32),
    np.ones((2, 3), np.bool_),
    np.array([True, False]),
  ),
)


def _stack(stacking, *, attention=False, count=2) -> Stack:
  block = functools.partial(
    Block,
    kernel_size=3,
    groups=2,
    heads=2,
    self_attention=attention,
    cross_attention=attention,
    residual=FullyConnected(),
  )
  return Stack(block=block, count=count, stacking=stacking)


@functools.cache
def _variables(attention: bool):
  """Parameters away from their initial zeros."""
  stack = _stack(Unrolled(), attention=attention)
  variables = nn.meta.unbox(jax.jit(stack.init)(KEY, X, INPUTS))
  noise = lambda a: np.asarray(a + 0.2 * RNG.normal(size=a.shape), np.float32)  # noqa: E731
  return jax.tree.map(noise, variables)


def _computed(stacking, *, attention):
  """Output and gradients, from the same variables whatever the stacking."""
  stack = _stack(stacking, attention=attention)

  def loss(variables, x):
    y = stack.apply(variables, x, INPUTS)
    return jnp.mean(jnp.sin(y)), y

  grads, y = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(_variables(attention), X)
  return y, grads


_unrolled = functools.cache(functools.partial(_computed, Unrolled()))


@pytest.mark.parametrize(
  ("stacking", "attention"),
  [
    (Scanned(), True),
    (Scanned(), False),
    (Scanned(remat=False), False),
    (Unrolled(remat=True), False),
  ],
)
def test_outputs_and_gradients_are_equal(stacking, attention):
  have_y, have_grads = _computed(stacking, attention=attention)
  want_y, want_grads = _unrolled(attention=attention)
  np.testing.assert_allclose(have_y, want_y, rtol=1e-5, atol=1e-5)
  for have, want in zip(jax.tree.leaves(have_grads), jax.tree.leaves(want_grads), strict=True):
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_block():
  _, (grads, _) = _unrolled(attention=False)
  kernels = grads["params"]["blocks"]["conv_1"]["kernel"]
  assert (np.abs(kernels).max(axis=(1, 2, 3)) > 1e-5).all()


def test_init_does_not_depend_on_the_stacking():
  a, b = (jax.jit(_stack(stacking).init)(KEY, X, INPUTS) for stacking in (Unrolled(), Scanned()))
  assert jax.tree.structure(a) == jax.tree.structure(b)
  assert all((p == q).all() for p, q in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
  kernel = nn.meta.unbox(a)["params"]["blocks"]["conv_1"]["kernel"]
  assert not np.allclose(kernel[0], kernel[1]), "each block draws its own parameters"


def test_boxed_variables_may_be_applied_as_they_are():
  stack = _stack(Unrolled())
  boxed = jax.jit(stack.init)(KEY, X, INPUTS)
  apply = jax.jit(stack.apply)
  assert (apply(boxed, X, INPUTS) == apply(nn.meta.unbox(boxed), X, INPUTS)).all()
  assert boxed["params"]["blocks"]["conv_1"]["bias"].names == (axes.LAYERS, axes.CHANNELS)


def test_unrolled_gradient_holds_no_loop_and_scanned_one_does():
  def text(stacking):
    stack = _stack(stacking)
    variables = jax.eval_shape(stack.init, KEY, X, INPUTS)
    loss = lambda v: jnp.sum(stack.apply(v, X, INPUTS))  # noqa: E731
    return str(jax.make_jaxpr(jax.grad(loss))(nn.meta.unbox(variables)))

  assert "scan[" not in text(Unrolled())
  assert "scan[" in text(Scanned())


def test_auto_follows_the_backend(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
  assert Auto().at(1) == Auto().at(2) == Unrolled()
  monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
  assert Auto().at(1) == Unrolled(remat=True)
  assert Auto().at(2) == Scanned(remat=True)
  assert Auto(elsewhere=Unrolled()).at(2) == Unrolled()


def test_a_fresh_block_passes_its_input_on_with_either_residual_path():
  make = functools.partial(
    Block, kernel_size=3, groups=2, heads=2, self_attention=False, cross_attention=False
  )
  with_layer, without = make(residual=FullyConnected()), make(residual=Identity())
  params = dict(nn.meta.unbox(jax.jit(with_layer.init)(KEY, X, INPUTS))["params"])
  y = jax.jit(with_layer.apply)({"params": params}, X, INPUTS)
  np.testing.assert_allclose(y, X, atol=1e-6)
  assert params.pop("residual")["kernel"].tolist() == np.eye(4).tolist()
  np.testing.assert_allclose(jax.jit(without.apply)({"params": params}, X, INPUTS), y, atol=1e-6)


def test_the_size_of_a_signal_is_multiplied_by_one_residual_path_and_not_by_the_other():
  """Why a long network of the one can leave float32, and one of the other cannot."""
  sizes = {}
  for residual in (FullyConnected(), Identity()):
    block = Block(
      kernel_size=3,
      groups=2,
      heads=2,
      self_attention=False,
      cross_attention=False,
      residual=residual,
    )
    x = X
    for depth in range(40):
      key = jax.random.fold_in(KEY, depth)
      fresh = nn.meta.unbox(block.init(key, X, INPUTS))["params"]
      leaves, tree = jax.tree.flatten(fresh)
      keys = jax.random.split(key, len(leaves))
      moved = [
        leaf + 0.3 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)
      ]
      x = block.apply({"params": jax.tree.unflatten(tree, moved)}, x, INPUTS)
    sizes[type(residual)] = float(jnp.abs(x).max() / jnp.abs(X).max())
  assert sizes[FullyConnected] > 1_000
  assert sizes[Identity] < 20
