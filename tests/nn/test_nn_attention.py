"""Attention against a plain formula; masks and hidden text leave no trace."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.nn.attention import CrossAttention, FeedForward, MultiHeadAttention, SelfAttention

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 4)).astype(np.float32)
TEXT = RNG.normal(size=(2, 3, 5)).astype(np.float32)
MASK = np.array([[True, True, False], [True, False, False]])
KEEP = np.array([True, True])


def _variables(net, *inputs):
  variables = nn.meta.unbox(jax.jit(net.init)(KEY, *inputs))
  noise = lambda a: np.asarray(a + 0.3 * RNG.normal(size=a.shape), np.float32)  # noqa: E731
  return jax.tree.map(noise, variables)


@functools.cache
def _applied(net):
  return jax.jit(net.apply)


def test_multi_head_attention_against_a_loop_over_rows_and_heads():
  net = MultiHeadAttention(heads=2)
  variables = _variables(net, X, TEXT, MASK)
  p = variables["params"]
  q, k, v = (
    np.einsum("btc,chd->bthd", source, p[name]["kernel"]) + p[name]["bias"]
    for source, name in ((X, "query"), (TEXT, "key"), (TEXT, "value"))
  )
  want = np.zeros(X.shape)
  for row in range(2):
    real = np.flatnonzero(MASK[row])
    for head in range(2):
      logits = q[row, :, head] @ k[row, real, head].T / np.sqrt(2)
      weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
      want[row] += weights @ v[row, real, head] @ np.asarray(p["out"]["kernel"][head])
  want += np.asarray(p["out"]["bias"])
  np.testing.assert_allclose(_applied(net)(variables, X, TEXT, MASK), want, atol=1e-5)


def test_hidden_width_of_the_residual_layer_is_twice_the_input():
  shapes = jax.eval_shape(FeedForward().init, KEY, X)["params"]
  assert shapes["hidden"]["kernel"].value.shape == (4, 8)
  assert shapes["out"]["kernel"].value.shape == (8, 4)


def test_self_attention_knows_no_order():
  net = SelfAttention(heads=2)
  variables = _variables(net, X)
  order = np.array([3, 1, 5, 0, 2, 4])
  np.testing.assert_allclose(
    _applied(net)(variables, X[:, order]), _applied(net)(variables, X)[:, order], atol=1e-5
  )


def test_masked_tokens_have_exactly_no_influence():
  net = CrossAttention(heads=2)
  variables = _variables(net, X, TEXT, MASK, KEEP)
  other = np.where(MASK[:, :, None], TEXT, np.float32(1e4))
  have, want = (_applied(net)(variables, X, text, MASK, KEEP) for text in (other, TEXT))
  assert (have == want).all()
  shorter = _applied(net)(variables, X, TEXT[:, :2], MASK[:, :2], KEEP)
  np.testing.assert_allclose(shorter, want, atol=1e-6)


def test_a_row_that_does_not_keep_its_text_passes_through_exactly():
  net = CrossAttention(heads=2)
  variables = _variables(net, X, TEXT, MASK, KEEP)
  y = _applied(net)(variables, X, TEXT, MASK, np.array([False, True]))
  assert (y[0] == X[0]).all()
  assert np.abs(y[1] - X[1]).max() > 0.1


@pytest.mark.parametrize("keep", [True, False])
def test_no_gradient_reaches_the_text_of_a_hidden_row(keep):
  net = CrossAttention(heads=2)
  variables = _variables(net, X, TEXT, MASK, KEEP)
  keep = np.full((2,), keep)
  loss = lambda text: jnp.sum(_applied(net)(variables, X, text, MASK, keep) ** 2)  # noqa: E731
  grad = np.asarray(jax.jit(jax.grad(loss))(TEXT))
  assert (grad != 0).any() == keep[0]
  assert (grad[~MASK] == 0).all()
