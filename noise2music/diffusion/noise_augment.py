"""Noise on a conditioning signal, against the gap between real and generated conditions.

A cascader is trained on clean low-fidelity audio but receives its predecessor's output. Diffusing
the condition to a random level during training hides the difference (Ho et al., 2022, "cascaded
diffusion"). The paper does not say that the level is told to the network, and ours is not told.
"""

import dataclasses

import jax

from noise2music.diffusion import gaussian
from noise2music.typing import Keys, NoiseSchedule, Signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseAugment:
  """Diffuses each clip to its own level t ~ U[0, t_max] of `schedule`."""

  t_max: float
  schedule: NoiseSchedule

  def __post_init__(self):
    if not 0 < self.t_max <= 1:
      raise ValueError(f"NoiseAugment needs t_max in (0, 1], not {self.t_max}: leave it out for 0")

  def __call__(self, x: Signal, keys: Keys) -> Signal:
    """x [batch, time, channels], keys [batch] -> x_t of the same shape.

    A clip's draw depends on its own key only, never on its place in the batch.
    """

    def draw(clip: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
      key_t, key_eps = jax.random.split(key)
      t = jax.random.uniform(key_t, maxval=self.t_max)
      return t, jax.random.normal(key_eps, clip.shape)

    t, eps = jax.vmap(draw)(x, keys)
    return gaussian.diffuse(x, eps, alpha=self.schedule.alpha(t), sigma=self.schedule.sigma(t))
