"""Guidance and clipping: functions that take noise predictions and return one."""

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Num, Shaped

from noise2music.diffusion import gaussian
from noise2music.typing import Array, EpsFn, Level, NoiseSchedule, Signal

Scale: TypeAlias = float | Num[Array, ""] | Level  # w; it may be traced, or differ by clip
# (x_t, t) -> (eps with the condition, eps without)
BothEpsFn: TypeAlias = Callable[[Signal, Level], tuple[Signal, Signal]]


def paired(
  first: Shaped[Array, "batch *_"], second: Shaped[Array, "batch *_"]
) -> Shaped[Array, "rows *_"]:
  """The rows of both in turn, so that a clip's two rows stay on one device: [2 batch, ...]."""
  return jnp.stack([first, second], axis=1).reshape(-1, *first.shape[1:])


def in_one(eps_fn: EpsFn) -> BothEpsFn:
  """eps_fn: takes each clip twice, `paired`, and predicts it with the condition, then without."""

  def both(x_t: Signal, t: Level) -> tuple[Signal, Signal]:
    eps = eps_fn(paired(x_t, x_t), paired(t, t)).reshape(len(x_t), 2, *x_t.shape[1:])
    return eps[:, 0], eps[:, 1]

  return both


def in_turn(cond: EpsFn, uncond: EpsFn) -> BothEpsFn:
  """From one function for each."""
  return lambda x_t, t: (cond(x_t, t), uncond(x_t, t))


def guide(
  both: BothEpsFn, *, scale: Scale, rescale: float = 0.0, schedule: NoiseSchedule | None = None
) -> EpsFn:
  """Classifier-free guidance: eps = w eps(x, c) + (1 - w) eps(x, none) (Ho and Salimans, 2022).

  scale: w, of all clips or [batch] of each. rescale: strong guidance makes the predicted signal
  louder than any that was learnt. The share `rescale`, in [0, 1], of it is brought to the standard
  deviation that a clip's signal has with the condition alone (Lin et al., 2024, section 3.4).
  schedule: needed for that.
  """

  def guided(x_t: Signal, t: Level) -> Signal:
    cond, uncond = both(x_t, t)
    w = gaussian.expand(scale, x_t) if jnp.ndim(scale) else scale
    eps = w * cond + (1 - w) * uncond
    if not rescale:
      return eps
    levels = {"alpha": schedule.alpha(t), "sigma": schedule.sigma(t)}
    deviation = lambda e: jnp.std(gaussian.predict_x(x_t, e, **levels), axis=(1, 2))  # noqa: E731
    loud = jnp.maximum(deviation(eps), jnp.finfo(jnp.float32).tiny)
    factor = gaussian.expand(1 - rescale + rescale * deviation(cond) / loud, eps)
    return change_prediction(lambda *_: eps, lambda x: x * factor, schedule=schedule)(x_t, t)

  return guided


def within(
  guided: Callable[[Scale], EpsFn],
  plain: EpsFn,
  *,
  scale: Scale,
  logsnr: tuple[float, float],
  schedule: NoiseSchedule,
) -> EpsFn:
  """`guided(scale)` where the log-SNR of a clip lies in the interval, else `plain` (the condition
  alone), which is all that is computed once every clip is outside (Kynkaanniemi et al., 2024).
  """
  low, high = logsnr

  def chosen(x_t: Signal, t: Level) -> Signal:
    level = schedule.logsnr(t)
    inside = (low <= level) & (level <= high)
    some = guided(jnp.where(inside, scale, 1.0))
    return jax.lax.cond(jnp.any(inside), some, plain, x_t, t)

  return chosen


def dynamic_clip(
  eps_fn: EpsFn, *, schedule: NoiseSchedule, percentile: float, limit: float = 1.0
) -> EpsFn:
  """Dynamic thresholding of the predicted x (Imagen, Saharia et al., 2022, section 2.3).

  s = max(limit, the percentile of |x| over a clip); x is clipped to [-s, s] and scaled by
  limit / s, so that strong guidance cannot drive a clip beyond what data may be. A clip whose x
  lies within the limit keeps its eps bit for bit.

  Args:
    eps_fn: the prediction to be tamed (after guidance).
    schedule: of the process that eps_fn was trained on.
    percentile: in (0, 100]; 100 scales by the maximum and clips nothing.
    limit: the largest |x| of data, 1.0 for audio in [-1, 1] (times its scale, if it is scaled).

  Returns:
    An EpsFn with float32 results, finite on all of [0, 1] where eps_fn is.
  """
  if not 0 < percentile <= 100:
    raise ValueError(f"dynamic_clip needs a percentile in (0, 100], not {percentile}")
  if not limit > 0:
    raise ValueError(f"dynamic_clip needs a limit above 0, not {limit}")

  def tame(x: Signal) -> Signal:
    size = gaussian.expand(percentile_of_size(x, percentile), x)
    size = jnp.maximum(size, limit)
    return jnp.clip(x, -size, size) * (limit / size)

  return change_prediction(eps_fn, tame, schedule=schedule)


def percentile_of_size(x: Signal, percentile: float) -> Level:
  """The percentile of |x| over each clip, as `jnp.percentile` interpolates it, without a sort.

  The bits of floats that are not negative are ordered as the floats are. So the value of a rank is
  found bit by bit, the highest first, each by one count of what lies below: 31 passes, where a sort
  of a clip takes as long as the network on a CPU.
  """
  bits = jax.lax.bitcast_convert_type(jnp.abs(x), jnp.int32)
  count = math.prod(x.shape[1:])
  # A TPU counts in tiles of 8 by 128, of which one long row would fill an eighth. What fills up the
  # last row lies above every value, so no count sees it.
  bits = jnp.pad(
    bits.reshape(len(x), -1), ((0, 0), (0, -count % 128)), constant_values=jnp.iinfo(jnp.int32).max
  ).reshape(len(x), -1, 128)
  position = (count - 1) * percentile / 100
  rank = int(position)

  def with_bit(index: jax.Array, found: jax.Array) -> jax.Array:
    larger = found | (1 << (30 - index))
    return jnp.where(jnp.sum(bits < larger, axis=(1, 2), keepdims=True) <= rank, larger, found)

  found = jax.lax.fori_loop(0, 31, with_bit, jnp.zeros((len(x), 1, 1), jnp.int32))
  value = lambda b: jax.lax.bitcast_convert_type(b[:, 0, 0], jnp.float32)  # noqa: E731
  if rank == position:
    return value(found)
  above = jnp.where(bits > found, bits, jnp.iinfo(jnp.int32).max)
  above = jnp.min(above, axis=(1, 2), keepdims=True)
  again = jnp.sum(bits <= found, axis=(1, 2), keepdims=True) > rank + 1  # equal values share ranks
  low, high = value(found), value(jnp.where(again, found, above))
  return low + (position - rank) * (high - low)


def change_prediction(
  eps_fn: EpsFn, change: Callable[[Signal], Signal], *, schedule: NoiseSchedule
) -> EpsFn:
  """The eps that goes with `change(x)` in place of the predicted x.

  Where change leaves x as it is, eps stays bit for bit. Results are float32.
  """

  def changed(x_t: Signal, t: Level) -> Signal:
    # float32 throughout: at t = 1, x = (x_t - sigma eps) / 4.5e-5 drowns in bfloat16's rounding.
    t = jnp.asarray(t, jnp.float32)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    eps = jnp.asarray(eps_fn(x_t, t), jnp.float32)
    x = gaussian.predict_x(jnp.asarray(x_t, jnp.float32), eps, alpha=alpha, sigma=sigma)
    # As a difference to eps rather than (x_t - alpha x) / sigma: exactly nothing where x stays.
    return eps + gaussian.expand(alpha / sigma, x) * (x - change(x))

  return changed
