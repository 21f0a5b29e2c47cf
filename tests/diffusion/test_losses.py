import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.diffusion import losses
from noise2music.diffusion.noise_schedules import CosineSchedule, LinearSchedule

OUTPUT = jnp.array([[[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]])
TARGET = jnp.array([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [9.0, 9.0]]])
WEIGHT = jnp.array([2.0, 10.0])


def test_weights_by_hand():
  t = jnp.array([0.0, 0.5, 1.0])
  np.testing.assert_array_equal(losses.SimplifiedWeight()(CosineSchedule(), t), [1, 1, 1])
  sigma = losses.SigmaWeight()
  np.testing.assert_allclose(sigma(CosineSchedule(), t), [2.061e-9, 0.5, 1.0], rtol=1e-3)
  want = -np.expm1(-(0.05 + 9.95 / 4))
  np.testing.assert_allclose(sigma(LinearSchedule(), t)[1], want, rtol=1e-6)


def test_loss_by_hand():
  loss = losses.denoising_loss(OUTPUT, TARGET, weight=WEIGHT)
  np.testing.assert_allclose(loss, [2 * (1 + 4 + 0 + 16) / 4, 10 * (1 + 0 + 64 + 64) / 4])


def test_masked_loss_by_hand():
  mask = jnp.array([[1.0, 1.0], [1.0, 0.0]])
  loss = losses.denoising_loss(OUTPUT, TARGET, weight=WEIGHT, mask=mask)
  np.testing.assert_allclose(loss, [2 * 21 / 4, 10 * 1 / 2])
  np.testing.assert_array_equal(
    losses.denoising_loss(OUTPUT, TARGET, weight=WEIGHT, mask=0 * mask), [0, 0]
  )


@pytest.mark.parametrize("junk", [7.0, jnp.nan, jnp.inf])
def test_padding_changes_neither_loss_nor_gradient(junk):
  mask = jnp.array([[1.0, 1.0], [1.0, 0.0]])

  def loss(output):
    return losses.denoising_loss(output, TARGET, weight=WEIGHT, mask=mask).sum()

  value, gradient = jax.value_and_grad(loss)(OUTPUT.at[1, 1].set(junk))
  want, want_gradient = jax.value_and_grad(loss)(OUTPUT)
  assert value == want
  np.testing.assert_array_equal(gradient, want_gradient)
  np.testing.assert_array_equal(gradient[1, 1], [0, 0])


def test_bfloat16_outputs_are_compared_in_float32():
  output = jnp.full((1, 4096, 1), 0.1, jnp.bfloat16)
  loss = losses.denoising_loss(output, jnp.zeros((1, 4096, 1)), weight=jnp.ones(1))
  assert loss.dtype == jnp.float32
  np.testing.assert_allclose(loss, [float(jnp.bfloat16(0.1)) ** 2], rtol=1e-6)
