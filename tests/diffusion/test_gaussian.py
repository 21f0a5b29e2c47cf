import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.diffusion import gaussian

RNG = np.random.default_rng(1)
X, EPS = RNG.normal(size=(2, 3, 5, 2)).astype(np.float32)
ALPHA = np.array([0.8, 0.6, 1e-3], np.float32)
SIGMA = np.sqrt(1 - ALPHA**2)


def test_diffuse_uses_each_clips_own_level():
  x_t = gaussian.diffuse(X, EPS, alpha=ALPHA, sigma=SIGMA)
  for b in range(3):
    np.testing.assert_allclose(x_t[b], ALPHA[b] * X[b] + SIGMA[b] * EPS[b], rtol=1e-6)


def test_predict_x_inverts_diffuse():
  x_t = gaussian.diffuse(X, EPS, alpha=ALPHA, sigma=SIGMA)
  x = gaussian.predict_x(x_t, EPS, alpha=ALPHA, sigma=SIGMA)
  np.testing.assert_allclose(x[:2], X[:2], atol=1e-6)
  np.testing.assert_allclose(x[2], X[2], atol=5e-4)  # 1 / alpha = 1000


@pytest.mark.parametrize(
  "prediction", [gaussian.EpsPrediction(), gaussian.VPrediction(), gaussian.XPrediction()]
)
def test_a_perfect_output_gives_back_eps(prediction):
  x_t = gaussian.diffuse(X, EPS, alpha=ALPHA, sigma=SIGMA)
  output = prediction.target(X, EPS, alpha=ALPHA, sigma=SIGMA)
  eps = prediction.to_eps(output, x_t, alpha=ALPHA, sigma=SIGMA)
  np.testing.assert_allclose(eps, EPS, atol=1e-6)


def test_v_is_the_velocity_of_the_angle():
  v = gaussian.VPrediction().target(
    jnp.array([[[2.0]]]), jnp.array([[[3.0]]]), alpha=jnp.array([0.8]), sigma=jnp.array([0.6])
  )
  np.testing.assert_allclose(v, [[[0.8 * 3 - 0.6 * 2]]], rtol=1e-6)
