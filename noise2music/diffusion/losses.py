"""Denoising losses: E[w(t) |output - target|^2], t uniform on [0, 1] (the paper's equation 1)."""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float

from noise2music.diffusion import gaussian
from noise2music.typing import Array, Level, NoiseSchedule, Signal


@runtime_checkable
class LossWeight(Protocol):
  """w(t), [batch] -> [batch] float32."""

  def __call__(self, schedule: NoiseSchedule, t: Level) -> Level: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimplifiedWeight:
  """w = 1 (Ho et al., 2020)."""

  def __call__(self, schedule: NoiseSchedule, t: Level) -> Level:
    return jnp.ones_like(t, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaWeight:
  """w = sigma(t)^2, which leans on noisy times; the spectrogram generator needs it to converge."""

  def __call__(self, schedule: NoiseSchedule, t: Level) -> Level:
    return jnp.square(schedule.sigma(jnp.asarray(t, jnp.float32)))


def denoising_loss(
  output: Signal,
  target: Signal,
  *,
  weight: Level,
  mask: Float[Array, "batch time"] | None = None,
) -> Float[jax.Array, " batch"]:
  """weight * mean squared error of each clip, over its valid times and all channels.

  Args:
    output, target: [batch, time, channels], any float type; the arithmetic is float32.
    weight: [batch].
    mask: [batch, time], non-zero where the time is real; None: all of it is. What lies under a
      zero changes neither loss nor gradient, whatever it is, NaN included.

  Returns:
    float32 [batch]; a clip without any valid time gives 0.
  """
  error = output.astype(jnp.float32) - target.astype(jnp.float32)
  axes = tuple(range(1, error.ndim))
  if mask is None:
    return weight * jnp.mean(jnp.square(error), axis=axes)
  valid = gaussian.expand(mask, error) != 0
  # Selecting before squaring, not multiplying after: 0 * NaN would be NaN, here and in gradients.
  total = jnp.sum(jnp.square(jnp.where(valid, error, 0.0)), axis=axes)
  count = jnp.sum(valid, axis=axes) * error.shape[-1]
  return weight * total / jnp.maximum(count, 1)
