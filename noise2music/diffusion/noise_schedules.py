"""How much noise at which diffusion time: alpha(t), sigma(t), logsnr(t).

Both schedules are variance preserving, alpha^2 + sigma^2 = 1, and each of the three functions has
its own formula instead of sqrt(1 - other^2), which in float32 loses sigma near t = 0 and alpha
near t = 1. logsnr and its gradient are finite on the whole of [0, 1].

A numpy array in gives a numpy array of the same precision out: samplers build their tables on the
host in float64. Anything else is computed in jnp.
"""

import dataclasses
import math
from types import ModuleType

import jax.numpy as jnp
import numpy as np

from noise2music.typing import Array


def _namespace(t: Array) -> ModuleType:
  return np if isinstance(t, np.ndarray | np.floating) else jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineSchedule:
  """alpha = cos(a t + b), sigma = sin(a t + b), with logsnr falling from logsnr_max to logsnr_min.

  b = atan(exp(-logsnr_max / 2)), a + b = atan(exp(-logsnr_min / 2)). The paper's equation 6, whose
  a = atan(e^10) - atan(e^-10), b = atan(e^-10) are the defaults 20 and -20.
  """

  logsnr_min: float = -20.0
  logsnr_max: float = 20.0

  def __post_init__(self):
    if not -60.0 <= self.logsnr_min < self.logsnr_max <= 60.0:
      raise ValueError(
        "CosineSchedule needs -60 <= logsnr_min < logsnr_max <= 60, "
        f"not {self.logsnr_min} and {self.logsnr_max}"
      )

  @property
  def _start(self) -> float:  # the angle at t = 0
    return math.atan(math.exp(-self.logsnr_max / 2))

  @property
  def _rest(self) -> float:  # a right angle less the angle at t = 1
    return math.atan(math.exp(self.logsnr_min / 2))

  @property
  def _slope(self) -> float:
    return math.pi / 2 - self._start - self._rest

  def alpha(self, t: Array) -> Array:
    # cos(a t + b) written as a sine of what is missing to a right angle: exact near t = 1.
    return _namespace(t).sin(self._slope * (1 - t) + self._rest)

  def sigma(self, t: Array) -> Array:
    return _namespace(t).sin(self._slope * t + self._start)

  def logsnr(self, t: Array) -> Array:
    xp = _namespace(t)
    return 2 * (xp.log(self.alpha(t)) - xp.log(self.sigma(t)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearSchedule:
  """alpha^2 = exp(-(0.1 t + 9.95 t^2)): the linear beta of Ho et al. (2020) in continuous time.

  The paper calls a schedule linear whose sigma^2 runs from 1e-4 to 0.02; such a process never
  reaches noise. Those are the ends of beta over the 1000 steps of Ho et al., whose product of
  (1 - beta) tends to this alpha^2, with rate beta(t) = 0.1 + 19.9 t.

  At t = 0 there is no noise at all and logsnr would be infinite; it is held at `logsnr_max`,
  which it reaches at t = 2e-8 (sigma = 4.5e-5, as at the clean end of the cosine schedule).
  """

  logsnr_max: float = 20.0

  def __post_init__(self):
    if not 0.0 < self.logsnr_max <= 60.0:
      raise ValueError(f"LinearSchedule needs 0 < logsnr_max <= 60, not {self.logsnr_max}")

  def _exponent(self, t: Array) -> Array:  # -ln(alpha^2)
    exponent = (0.1 + 9.95 * t) * t
    return _namespace(t).maximum(exponent, math.log1p(math.exp(-self.logsnr_max)))

  def alpha(self, t: Array) -> Array:
    return _namespace(t).exp(-self._exponent(t) / 2)

  def sigma(self, t: Array) -> Array:
    xp = _namespace(t)
    return xp.sqrt(-xp.expm1(-self._exponent(t)))

  def logsnr(self, t: Array) -> Array:
    xp = _namespace(t)
    exponent = self._exponent(t)
    return -exponent - xp.log(-xp.expm1(-exponent))
