"""Shares of a count: their intervals, whether they differ from a half, what a threshold lets by."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from noise2music.errors import UserError

_Z = 1.959963984540054  # of the normal distribution's central 95 %


def wilson(hits: int, count: int) -> tuple[float, float]:
  """The 95 % score interval of a share (Wilson, 1927), which holds for few and for extreme counts.

  With p = hits / count and z = 1.96: (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) /
  (1 + z^2 / n). Nothing counted says nothing: 0 to 1.
  """
  if not 0 <= hits <= count:
    raise ValueError(f"{hits} of {count} is no share")
  if not count:
    return 0.0, 1.0
  share, scale = hits / count, 1 + _Z**2 / count
  middle = (share + _Z**2 / (2 * count)) / scale
  half = _Z / scale * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
  low = 0.0 if hits == 0 else middle - half  # exactly so, and rounding would miss it
  return low, 1.0 if hits == count else middle + half


def sign_test(wins: int, losses: int) -> float:
  """The exact two-sided p value of as many wins and losses, were both equally likely.

  min(1, 2 P(X <= min(wins, losses))) for X binomial with n = wins + losses and 1/2; ties are left
  out before (Dixon and Mood, 1946). 1 where nothing was decided.
  """
  count = wins + losses
  tail = sum(math.comb(count, k) for k in range(min(wins, losses) + 1))
  # Whole numbers are divided last: 2^n is beyond a float from n = 1024 on.
  return min(1.0, 2 * tail / 2**count)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Threshold:
  """A value that few held-out clips lie above, and how few clips like them will.

  above: of `n` held-out clips, those above `value`. false_alarm_rate: (above + 1) / (n + 1), the
  mean of the share of further such clips that lie above it; interval_95: of that share.
  """

  value: float
  above: int
  n: int
  false_alarm_rate: float
  interval_95: tuple[float, float]

  def to_json(self) -> dict[str, Any]:
    return {**dataclasses.asdict(self), "interval_95": list(self.interval_95)}


def calibrate(held_out: Sequence[float] | np.ndarray, *, false_alarm_rate: float) -> Threshold:
  """The lowest held-out value that at most this share of the held-out values lies above.

  With k of n values above it, the share of the whole distribution above it is Beta(k + 1, n - k),
  whatever the distribution, so long as it is continuous (Wilks, 1941): its central 95 % are the
  interval, which few clips leave wide.

  Raises UserError for a rate outside [0, 1), no values, or one that is not finite.
  """
  values = np.sort(np.asarray(held_out, np.float64))
  if not 0 <= false_alarm_rate < 1:
    raise UserError(f"a false alarm rate of {false_alarm_rate:g} is none: give one from 0 to 1")
  if not len(values) or not np.isfinite(values).all():
    raise UserError("a threshold needs held-out clips with finite scores: give some real clips")
  n = len(values)
  allowed = min(n - 1, math.floor(false_alarm_rate * n + 1e-9))
  value = float(values[n - 1 - allowed])
  above = int(np.sum(values > value))  # fewer than allowed where values are equal
  low, high = (_beta_quantile(share, above + 1, n - above) for share in (0.025, 0.975))
  return Threshold(
    value=value,
    above=above,
    n=n,
    false_alarm_rate=(above + 1) / (n + 1),
    interval_95=(low, high),
  )


def _beta_quantile(share: float, a: int, b: int) -> float:
  """x with P(Beta(a, b) <= x) = share, which is P(X >= a) for X binomial with a + b - 1 and x."""
  n = a + b - 1

  def below(x: float) -> float:
    logs = (
      math.lgamma(n + 1)
      - math.lgamma(k + 1)
      - math.lgamma(n - k + 1)
      + k * math.log(x)
      + (n - k) * math.log1p(-x)
      for k in range(a)
    )
    return 1 - math.fsum(map(math.exp, logs))

  return _bisect(below, share)


def _bisect(rising: Callable[[float], float], target: float) -> float:
  low, high = 0.0, 1.0
  for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if rising(middle) < target else (low, middle)
  return (low + high) / 2
