"""SpecAugment (Park et al., 2019): bands and stretches of a spectrogram hidden in training."""

import dataclasses

import jax
import jax.numpy as jnp

from noise2music.typing import Keys, LogMel


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecAugment:
  """frequency_masks, time_masks: how many of each. bands, share: the most that one hides, of the
  bands and of the frames. What is hidden takes the clip's mean."""

  frequency_masks: int = 1
  bands: int = 12
  time_masks: int = 1
  share: float = 0.2

  def __call__(self, log_mel: LogMel, keys: Keys) -> LogMel:
    """[batch, frames, bands], one key a clip."""
    return jax.vmap(self._one)(log_mel, keys)

  def _one(self, x, key):
    frames, bands = x.shape
    mean, hidden = jnp.mean(x), jnp.zeros(x.shape, bool)
    most = {"frames": max(1, round(self.share * frames)), "bands": min(self.bands, bands)}
    for k in range(self.frequency_masks):
      hidden |= _stretch(jax.random.fold_in(key, 2 * k), bands, most["bands"])[None, :]
    for k in range(self.time_masks):
      hidden |= _stretch(jax.random.fold_in(key, 2 * k + 1), frames, most["frames"])[:, None]
    return jnp.where(hidden, mean, x)


def _stretch(key, length: int, most: int) -> jax.Array:
  """bool [length]: True in a stretch of 0 to `most`, anywhere."""
  width_key, start_key = jax.random.split(key)
  width = jax.random.randint(width_key, (), 0, most + 1)
  start = jax.random.randint(start_key, (), 0, length - width + 1)
  position = jnp.arange(length)
  return (position >= start) & (position < start + width)
