"""Group norm in one pass: equal to the textbook form, also where the naive form has no digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.nn.norms import GroupNormSwish, group_count, group_norm_swish, group_statistics


def _two_pass(x: np.ndarray, *, groups: int) -> tuple[np.ndarray, np.ndarray]:
  batch, time, channels = x.shape
  x = x.astype(np.float64).reshape(batch, time, groups, channels // groups)
  mean = x.mean(axis=(1, 3), keepdims=True)
  variance = np.square(x - mean).mean(axis=(1, 3), keepdims=True)
  repeat = lambda a: np.repeat(a[:, 0, :, 0], channels // groups, axis=-1)  # noqa: E731
  return repeat(mean), repeat(variance)


@pytest.mark.parametrize(
  ("channels", "most", "groups"), [(256, 32, 32), (48, 32, 24), (20, 32, 20), (7, 4, 1), (1, 32, 1)]
)
def test_as_many_groups_as_divide(channels, most, groups):
  assert group_count(channels, most=most) == groups


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e3])
def test_statistics_are_exact_for_a_large_mean(mean):
  x = np.random.default_rng(0).normal(mean, 1.0, (2, 4096, 8)).astype(np.float32)
  x[1, 0] += 4  # a first sample that is far out
  want_mean, want_variance = _two_pass(x, groups=4)
  have_mean, have_variance = jax.jit(group_statistics, static_argnames="groups")(x, groups=4)
  np.testing.assert_allclose(have_mean, want_mean, atol=1e-6 * max(1, abs(mean)))
  np.testing.assert_allclose(have_variance, want_variance, rtol=2e-5)


@pytest.mark.parametrize("mean", [30.0, -100.0])
def test_bfloat16_statistics_are_those_of_its_values_for_a_large_mean(mean):
  x = jnp.asarray(np.random.default_rng(0).normal(mean, 1.0, (1, 18_432, 8)), jnp.bfloat16)
  want_mean, want_variance = _two_pass(np.asarray(x.astype(jnp.float32)), groups=4)
  have_mean, have_variance = jax.jit(group_statistics, static_argnames="groups")(x, groups=4)
  np.testing.assert_allclose(have_mean, want_mean, rtol=1e-6)
  np.testing.assert_allclose(have_variance, want_variance, rtol=1e-2)


def test_the_naive_one_pass_form_would_fail_that_test():
  x = np.random.default_rng(0).normal(1e3, 1.0, (2, 4096, 8)).astype(np.float32)
  naive = jnp.mean(jnp.square(x), axis=1) - jnp.square(jnp.mean(x, axis=1))
  assert np.abs(naive - x.astype(np.float64).var(axis=1)).max() > 1e-3


def test_channels_of_one_group_may_lie_far_apart():
  offsets = np.array([0.0, 500.0, -1e3, 3.0])
  x = np.random.default_rng(1).normal(offsets, 1.0, (2, 512, 4)).astype(np.float32)
  _, want = _two_pass(x, groups=2)
  np.testing.assert_allclose(group_statistics(jnp.asarray(x), groups=2)[1], want, rtol=1e-5)


def test_output_and_gradient_equal_the_textbook_form():
  def textbook(params, x):
    grouped = x.reshape(2, 12, 2, 3)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    normed = ((grouped - mean) / jnp.sqrt(variance + 1e-5)).reshape(x.shape)
    return jax.nn.swish(normed * params["scale"] + params["bias"])

  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  x, weight = 3 + draw(2, 12, 6), draw(2, 12, 6)
  params = {"scale": draw(6), "bias": draw(6)}
  ours = lambda params, x: GroupNormSwish(groups=2).apply({"params": params}, x)  # noqa: E731
  np.testing.assert_allclose(ours(params, x), textbook(params, x), atol=1e-5)
  have, want = (
    jax.jit(jax.grad(lambda p, x, f=f: jnp.sum(weight * f(p, x)), argnums=(0, 1)))(params, x)
    for f in (ours, textbook)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), have, want)


def test_a_constant_signal_stays_finite():
  x = jnp.full((1, 8, 4), 1e3)
  loss = lambda x: group_norm_swish(x, jnp.ones(4), jnp.zeros(4), 2, 1e-5).whole.sum()  # noqa: E731
  grad = jax.jit(jax.grad(loss))(x)
  assert np.isfinite(grad).all()


def test_bfloat16_input_has_float32_statistics():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4096, 4)), jnp.bfloat16)
  mean, variance = group_statistics(x, groups=2)
  want_mean, want_variance = _two_pass(np.asarray(x.astype(jnp.float32)), groups=2)
  np.testing.assert_allclose(mean, want_mean, atol=1e-5)
  np.testing.assert_allclose(variance, want_variance, rtol=1e-5)
  norm = GroupNormSwish(groups=2, dtype=jnp.bfloat16)
  assert norm.apply(norm.init(jax.random.key(0), x), x).dtype == jnp.bfloat16
