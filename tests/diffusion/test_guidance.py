import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_grids import COSINE, LINEAR

from noise2music.diffusion import gaussian, guidance
from noise2music.diffusion.time_steps import time_of_logsnr

X_T = jax.random.normal(jax.random.key(3), (2, 100, 1))
T = jnp.array([0.3, 0.6])


def test_guide_by_hand():
  def with_and_without(x, t):
    condition = jnp.array([1, 0, 1, 0])[:, None, None]
    np.testing.assert_allclose(t, [0.3, 0.3, 0.6, 0.6])
    return condition * 2 * x + (1 - condition)

  turns = guidance.in_turn(lambda x, t: 2 * x, lambda x, t: 0 * x + 1)
  for both in (guidance.in_one(with_and_without), turns):
    eps = guidance.guide(both, scale=5.0)(X_T, T)
    np.testing.assert_allclose(eps, 5 * 2 * X_T - 4, rtol=1e-5, atol=1e-5)


def test_rescaled_guidance_is_as_loud_as_the_condition_alone():
  cond, uncond = (
    exact(x, COSINE) for x in (X_T * 0.3, jax.random.normal(jax.random.key(9), (2, 100, 1)))
  )
  both = guidance.in_turn(cond, uncond)
  alpha, sigma = COSINE.alpha(T), COSINE.sigma(T)
  x_of = lambda eps_fn: gaussian.predict_x(X_T, eps_fn(X_T, T), alpha=alpha, sigma=sigma)  # noqa: E731
  deviation = lambda eps_fn: np.std(x_of(eps_fn), axis=(1, 2))  # noqa: E731
  plain = guidance.guide(both, scale=6.0)
  whole, half = (
    guidance.guide(both, scale=6.0, rescale=rescale, schedule=COSINE) for rescale in (1.0, 0.5)
  )
  assert (deviation(plain) > 5 * deviation(cond)).all()
  np.testing.assert_allclose(deviation(whole), deviation(cond), rtol=1e-4)
  np.testing.assert_allclose(deviation(half), (deviation(cond) + deviation(plain)) / 2, rtol=1e-4)
  np.testing.assert_allclose(x_of(half), (x_of(plain) + x_of(whole)) / 2, atol=1e-4)


def test_guidance_within_an_interval_spares_the_other_call():
  called = []

  def both(x, t):
    jax.debug.callback(lambda: called.append("both"))
    return 2 * x, 0 * x

  eps_fn = jax.jit(
    guidance.within(
      lambda scale: guidance.guide(both, scale=scale),
      lambda x, t: 2 * x,
      scale=3.0,
      logsnr=(-1.0, 1.0),
      schedule=COSINE,
    )
  )
  at = lambda *logsnr: jnp.asarray(time_of_logsnr(COSINE, np.array(logsnr)), jnp.float32)  # noqa: E731
  for logsnr, factor in ((-3.0, 2), (-0.9, 6), (0.9, 6), (3.0, 2)):
    called.clear()
    np.testing.assert_allclose(eps_fn(X_T, at(logsnr, logsnr)), factor * X_T, rtol=1e-6)
    jax.effects_barrier()
    assert len(called) == (factor == 6)
  each = np.array([2, 6])[:, None, None]  # as in training, where every clip has its own time
  np.testing.assert_allclose(eps_fn(X_T, at(3.0, 0.5)), each * X_T, rtol=1e-6)


def exact(x, schedule):
  """The eps that predicts x."""
  return lambda x_t, t: (
    (x_t - gaussian.expand(schedule.alpha(t), x) * x) / gaussian.expand(schedule.sigma(t), x)
  )


def test_dynamic_clip_by_hand():
  x = jnp.stack([jnp.linspace(-4, 4, 101), jnp.linspace(-0.5, 0.5, 101)])[..., None]
  x_t = jax.random.normal(jax.random.key(0), x.shape)
  clipped = guidance.dynamic_clip(exact(x, COSINE), schedule=COSINE, percentile=75.0, limit=0.8)
  eps = clipped(x_t, T)
  alpha, sigma = COSINE.alpha(T), COSINE.sigma(T)
  got = gaussian.predict_x(x_t, eps, alpha=alpha, sigma=sigma)
  # |x| of the first clip is uniform on [0, 4], so its 75th percentile is 3 (to a step of .08).
  np.testing.assert_allclose(np.abs(got[0]).max(), 0.8, rtol=1e-5)
  np.testing.assert_allclose(got[0, 60, 0], x[0, 60, 0] * 0.8 / 3, rtol=0.02)
  assert (np.abs(got[0]) > 0.7999).sum() == pytest.approx(26, abs=1)
  np.testing.assert_allclose(got[1], x[1], atol=1e-5)
  np.testing.assert_array_equal(eps[1], exact(x, COSINE)(x_t, T)[1])  # bit for bit


@pytest.mark.parametrize("percentile", [0.1, 50.0, 75.0, 99.5, 100.0])
def test_percentiles_are_those_of_a_sort(percentile):
  normal = jax.random.normal(jax.random.key(7), (3, 192, 2))
  ties = jnp.round(normal)  # among which zeros of both signs
  for x in (
    normal,
    ties,
    1e-30 * normal,
    1e30 * normal,
    normal[:, :1, :1],
    normal[:, :101],
    0 * normal,
  ):
    want = np.percentile(np.abs(x).reshape(3, -1), percentile, axis=1)
    got = guidance.percentile_of_size(x, percentile)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_percentile_100_only_rescales():
  x = jnp.linspace(-4, 4, 101)[None, :, None]
  x_t, t = jnp.zeros_like(x), jnp.array([0.5])
  clipped = guidance.dynamic_clip(exact(x, COSINE), schedule=COSINE, percentile=100.0, limit=1.0)
  got = gaussian.predict_x(x_t, clipped(x_t, t), alpha=COSINE.alpha(t), sigma=COSINE.sigma(t))
  np.testing.assert_allclose(got, x / 4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("schedule", [COSINE, LINEAR])
def test_finite_at_both_ends_even_with_a_poor_network(schedule, dtype):
  def poor(x_t, t):
    return (0.9 * x_t + 0.3).astype(dtype)

  clipped = guidance.dynamic_clip(poor, schedule=schedule, percentile=99.5)
  for t in (1.0, 0.0):
    eps = clipped(X_T.astype(dtype), jnp.full((2,), t, dtype))
    assert eps.dtype == jnp.float32
    assert np.isfinite(eps).all()
    alpha, sigma = schedule.alpha(np.array([t] * 2)), schedule.sigma(np.array([t] * 2))
    x = gaussian.predict_x(X_T.astype(dtype).astype(jnp.float32), eps, alpha=alpha, sigma=sigma)
    assert np.abs(x).max() < (1.2 if t == 1.0 else 1.001)  # 1 / alpha is 2e4 there


def test_refusals():
  for percentile, limit in ((0.0, 1.0), (101.0, 1.0), (99.0, 0.0)):
    with pytest.raises(ValueError, match="dynamic_clip"):
      guidance.dynamic_clip(lambda x, t: x, schedule=COSINE, percentile=percentile, limit=limit)
