import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_grids import COSINE, LINEAR

from noise2music.diffusion.noise_augment import NoiseAugment

KEYS = jax.random.split(jax.random.key(7), 512)


def test_levels_are_uniform_and_noise_is_standard():
  augment = NoiseAugment(t_max=0.5, schedule=COSINE)
  noisy = np.asarray(augment(jnp.zeros((512, 64, 1)), KEYS))
  level = noisy.std(axis=(1, 2))  # sigma of each clip, to about 9 %
  angle = np.arcsin(np.clip(level, 0, 1)) / (np.pi / 2)  # t, since sigma = sin(t pi / 2) nearly
  assert abs(angle.mean() - 0.25) < 0.025
  assert angle.max() < 0.7
  assert angle.min() < 0.02
  assert abs(noisy.mean()) < 0.02


def test_signal_is_scaled_by_alpha():
  big = jnp.full((512, 16, 2), 1e4)
  alpha = np.asarray(NoiseAugment(t_max=1.0, schedule=LINEAR)(big, KEYS)).mean(axis=(1, 2)) / 1e4
  assert alpha.max() < 1.0001
  assert alpha.min() < 0.05  # t up to 1
  # E over U[0, 1] of exp(-(0.1 t + 9.95 t^2) / 2), by quadrature
  t = (np.arange(10_000) + 0.5) / 10_000
  want = np.exp(-(0.1 * t + 9.95 * t**2) / 2).mean()
  assert abs(alpha.mean() - want) < 4 * 0.35 / np.sqrt(512)


def test_a_clip_does_not_notice_its_batch():
  augment = jax.jit(NoiseAugment(t_max=1.0, schedule=COSINE).__call__)
  x = jax.random.normal(jax.random.key(0), (4, 32, 1))
  together = augment(x, KEYS[:4])
  np.testing.assert_array_equal(augment(x[2:3], KEYS[2:3]), together[2:3])
  np.testing.assert_array_equal(augment(x[::-1], KEYS[:4][::-1]), together[::-1])


@pytest.mark.parametrize("t_max", [0.0, 1.5])
def test_refuses_levels_outside_of_the_process(t_max):
  with pytest.raises(ValueError, match="t_max"):
    NoiseAugment(t_max=t_max, schedule=COSINE)
