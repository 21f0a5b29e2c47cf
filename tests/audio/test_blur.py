import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.audio.blur import gaussian_blur_1d, gaussian_blur_2d

STD = jnp.array([0.1, 1.0, 5.0])


def impulse(shape, at):
  return jnp.zeros((3, *shape)).at[(slice(None), *at)].set(1.0)


def test_impulse_gives_the_kernel_of_each_clips_own_width():
  y = gaussian_blur_1d(impulse((21, 1), (10, 0)), STD)[..., 0]
  offsets = np.arange(-5, 5)
  for row, std in zip(y, STD, strict=True):
    want = np.exp(-0.5 * (offsets / float(std)) ** 2)
    np.testing.assert_allclose(row[10 - offsets], want / want.sum(), atol=1e-6)
    assert (np.abs(row) > 1e-12).sum() <= 10


def test_small_width_changes_nothing_and_constants_stay():
  x = jax.random.normal(jax.random.key(0), (3, 30, 2))
  zero = jnp.zeros(3)
  np.testing.assert_array_equal(gaussian_blur_1d(x, zero), x)
  np.testing.assert_array_equal(gaussian_blur_2d(x, zero), x)
  np.testing.assert_allclose(gaussian_blur_1d(jnp.full((3, 9, 1), 0.7), STD), 0.7, rtol=1e-6)
  np.testing.assert_allclose(gaussian_blur_2d(jnp.full((3, 9, 4), 0.7), STD), 0.7, rtol=1e-6)


def test_2d_is_the_outer_product_and_symmetric():
  y = gaussian_blur_2d(impulse((11, 11), (5, 5)), STD)
  line = np.exp(-0.5 * (np.arange(-2, 3) / 1.0) ** 2)
  line /= line.sum()
  np.testing.assert_allclose(y[1, 3:8, 3:8], np.outer(line, line), atol=1e-6)
  np.testing.assert_allclose(y, y[:, ::-1, ::-1], atol=1e-7)
  np.testing.assert_allclose(y, y.transpose(0, 2, 1), atol=1e-7)
  np.testing.assert_allclose(y.sum(axis=(1, 2)), 1, rtol=1e-6)


def test_refuses_no_taps():
  with pytest.raises(ValueError, match="tap"):
    gaussian_blur_1d(jnp.zeros((1, 4, 1)), jnp.ones(1), size=0)
