"""Diffusion time as a vector, and the scale and bias made from it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from noise2music.nn.embeddings import CombineEmbedding, TimeEmbedding, positional_embedding


def test_positional_embedding_in_closed_form():
  have = positional_embedding(jnp.array([0.0, 0.3]), width=4)
  want = [[0, 0, 1, 1], [np.sin(300), np.sin(0.03), np.cos(300), np.cos(0.03)]]
  np.testing.assert_allclose(have, want, atol=1e-4)  # 300 radians in float32


def test_an_odd_width_is_filled_with_zero():
  have = positional_embedding(jnp.array([0.5]), width=5)
  assert have.shape == (1, 5)
  assert have[0, -1] == 0


def test_near_times_are_told_apart():
  a, b = positional_embedding(jnp.array([0.5, 0.501]), width=32)
  assert np.abs(a - b).max() > 0.3


def test_time_embedding_is_linear_in_the_positional_one():
  t = jnp.array([0.1, 0.9])
  net = TimeEmbedding(6)
  variables = nn.meta.unbox(jax.jit(net.init)(jax.random.key(0), t))
  linear = variables["params"]["linear"]
  want = positional_embedding(t, width=6) @ linear["kernel"] + linear["bias"]
  np.testing.assert_allclose(net.apply(variables, t), want, rtol=1e-5)


def test_combine_is_one_plus_scale_and_bias_and_starts_as_identity():
  rng = np.random.default_rng(0)
  x, embedding, kernel = (
    rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 3), (2, 4), (4, 6))
  )
  net = CombineEmbedding()
  variables = nn.meta.unbox(jax.jit(net.init)(jax.random.key(2), x, embedding))
  assert (net.apply(variables, x, embedding) == x).all()
  variables = {"params": {"linear": {"kernel": kernel, "bias": np.zeros(6, np.float32)}}}
  scale, bias = np.split(embedding @ kernel, 2, axis=-1)
  want = x * (1 + scale[:, None]) + bias[:, None]
  np.testing.assert_allclose(net.apply(variables, x, embedding), want, rtol=1e-5, atol=1e-6)
