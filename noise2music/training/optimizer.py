"""Adam with warm-up and cosine, and the moving average of the weights.

Defaults are the paper's (section 4.1): Adam(0.9, 0.999), peak 1e-4, 10 k steps of warm-up, cosine,
EMA 0.9999 at inference.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from noise2music.errors import UserError
from noise2music.typing import Array, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ema:
  """ema <- d ema + (1 - d) params.

  decay: d. warm_up: use d = min(decay, (1 + n) / (10 + n)) after n updates, so that the average of
  a short run is not mostly the random start: its memory is about n / 9 steps while that is shorter
  than 1 / (1 - decay).
  """

  decay: float = 0.9999
  warm_up: bool = True

  def __post_init__(self):
    if not 0.0 <= self.decay < 1.0:
      raise UserError(f"EMA decay is {self.decay}: give a number in [0, 1), or ema = None")

  def rate(self, step: int | Array) -> jax.Array:
    """d for the update that follows `step` updates."""
    step = jnp.asarray(step, jnp.float32)
    decay = jnp.float32(self.decay)
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step)) if self.warm_up else decay

  def update(self, average: PyTree, params: PyTree, *, step: int | Array) -> PyTree:
    d = self.rate(step)
    return jax.tree.map(lambda a, p: a + (1.0 - d).astype(a.dtype) * (p - a), average, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
  """peak_learning_rate is reached after warmup_steps, then falls as a cosine to final_learning_rate
  at decay_steps.

  decay_steps: None: the last step of the run. (The paper's 2.5 M is beyond the end of its runs.)
  clip_norm: the gradient is scaled down to this global norm; None: never. ema: None: no average.
  """

  peak_learning_rate: float = 1e-4
  warmup_steps: int = 10_000
  decay_steps: int | None = None
  final_learning_rate: float = 0.0
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8
  clip_norm: float | None = 1.0
  ema: Ema | None = Ema()

  def __post_init__(self):
    if self.peak_learning_rate <= 0 or not 0 <= self.final_learning_rate <= self.peak_learning_rate:
      raise UserError(
        f"learning rates {self.peak_learning_rate} (peak) and {self.final_learning_rate} (final): "
        "the peak must be above 0 and the final one between 0 and the peak"
      )
    if self.clip_norm is not None and self.clip_norm <= 0:
      raise UserError(f"clip_norm is {self.clip_norm}: give a number above 0, or None for no clip")
    if not isinstance(self.warmup_steps, int) or self.warmup_steps < 0:
      raise UserError(f"warmup_steps is {self.warmup_steps!r}: give a whole number, 0 for none")

  def check(self, total_steps: int) -> None:
    """Raises UserError where the warm-up does not end before the decay does."""
    last = min(self.decay_steps or total_steps, total_steps)
    if self.warmup_steps >= last:
      raise UserError(
        f"warmup_steps is {self.warmup_steps} and the cosine ends at step {last}: "
        "shorten the warm-up (--gin.WARMUP_STEPS) or train longer (--gin.TRAIN_STEPS)"
      )

  def schedule(self, total_steps: int | jax.Array) -> optax.Schedule:
    """Learning rate of update n = 0, 1, ... of a run of `total_steps`, which may be traced."""
    peak, final = self.peak_learning_rate, self.final_learning_rate
    decay = (self.decay_steps or total_steps) - self.warmup_steps

    def rate(n: int | jax.Array) -> jax.Array:
      done = jnp.clip((n - self.warmup_steps) / decay, 0.0, 1.0)
      cosine = final + (peak - final) * 0.5 * (1 + jnp.cos(jnp.pi * done))
      return jnp.where(n < self.warmup_steps, peak * n / max(self.warmup_steps, 1), cosine)

    return rate

  def transformation(self, total_steps: int | jax.Array) -> optax.GradientTransformation:
    """Clip, then Adam. Frozen parameters never come here: see `step.split`."""
    clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
    adam = optax.adam(self.schedule(total_steps), b1=self.beta1, b2=self.beta2, eps=self.epsilon)
    return optax.chain(clip, adam)
