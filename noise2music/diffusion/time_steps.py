"""Which diffusion times a sampler visits: float64 [N + 1], falling from exactly 1 to exactly 0."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from noise2music.typing import NoiseSchedule


@runtime_checkable
class TimeSteps(Protocol):
  """A grid of `count` steps."""

  @property
  def count(self) -> int: ...

  def of(self, count: int) -> "TimeSteps":
    """A grid of the same kind with another number of steps."""

  def times(self, schedule: NoiseSchedule) -> np.ndarray:
    """float64 [count + 1], strictly falling, first 1.0, last 0.0."""


def _check_count(count: int, name: str) -> None:
  if count != int(count) or count < 1:
    raise ValueError(f"{name} needs a whole number of at least one step, not {count}")


def time_of_logsnr(schedule: NoiseSchedule, logsnr: np.ndarray) -> np.ndarray:
  """The times at which a (falling) schedule reaches the given values, by bisection."""
  low, high = np.zeros_like(logsnr), np.ones_like(logsnr)
  for _ in range(80):  # relative precision also of times near 1e-8
    middle = (low + high) / 2
    too_clean = np.asarray(schedule.logsnr(middle)) > logsnr
    low, high = np.where(too_clean, middle, low), np.where(too_clean, high, middle)
  return (low + high) / 2


def _within(schedule: NoiseSchedule, low: float, high: float, name: str) -> None:
  """Raises ValueError where log-SNR from low to high leaves what the schedule has."""
  least, most = (float(v) for v in np.asarray(schedule.logsnr(np.array([1.0, 0.0]))))
  if not least < low < high < most:
    raise ValueError(
      f"{name} ({low:.4g}, {high:.4g}) must lie within the schedule's ({least:.4g}, {most:.4g})"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentedSteps:
  """Equal steps within segments: the lists of the paper's Table 7.

  segments: (total, count) pairs; `count` steps of total / count each. They accumulate from t = 0
    upward, as in the paper, while sampling runs downward; so small steps first means "front-heavy",
    that is fine near t = 0. The totals add up to 1.
  back_heavy: True reverses the list of step sizes. (The paper's "eval" list of the spectrogram
    generator is printed back-heavy already: it is used as it stands.)
  """

  segments: Sequence[Sequence[float | int]]
  back_heavy: bool = False

  def __post_init__(self):
    # Config files hand over lists; tuples keep the value hashable.
    object.__setattr__(self, "segments", tuple((total, count) for total, count in self.segments))
    for total, count in self.segments:
      _check_count(count, "each segment")
      if not total > 0:
        raise ValueError(f"the total of each segment must be above 0, not {total}")
    sum_of_totals = sum(total for total, _ in self.segments)
    if abs(sum_of_totals - 1.0) > 1e-6:
      raise ValueError(f"the totals of the segments must add up to 1, not to {sum_of_totals:.6g}")

  @property
  def count(self) -> int:
    return sum(int(count) for _, count in self.segments)

  def of(self, count: int) -> "SegmentedSteps":
    """Each segment gets its share of `count`; a segment left without a step joins its neighbour."""
    _check_count(count, "SegmentedSteps")
    ends = np.cumsum([0, *(count for _, count in self.segments)]) * (count / self.count)
    segments, waiting = [], 0.0
    for (total, _), steps in zip(self.segments, np.diff(np.round(ends)), strict=True):
      waiting += total
      if steps:
        segments.append((waiting, int(steps)))
        waiting = 0.0
    if waiting:
      segments[-1] = (segments[-1][0] + waiting, segments[-1][1])
    return dataclasses.replace(self, segments=tuple(segments))

  def times(self, schedule: NoiseSchedule) -> np.ndarray:
    sizes = np.concatenate([np.full(int(count), total / count) for total, count in self.segments])
    if self.back_heavy:
      sizes = sizes[::-1]
    times = np.concatenate([[0.0], np.cumsum(sizes)])[::-1].copy()
    times[0] = 1.0  # the sum is off by rounding, and networks are trained on [0, 1]
    return times


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformSteps:
  """`count` equal steps."""

  count: int

  def __post_init__(self):
    _check_count(self.count, "UniformSteps")

  def of(self, count: int) -> "UniformSteps":
    return dataclasses.replace(self, count=count)

  def times(self, schedule: NoiseSchedule) -> np.ndarray:
    return np.linspace(1.0, 0.0, int(self.count) + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformLogSnrSteps:
  """`count` steps, equal in logsnr: what DPM-Solver++ wants.

  inner: None spaces all of them between the ends of the schedule. (low, high) spaces the times
    between the first and the last step from logsnr low to high, and leaves what lies outside to
    those two steps; with few steps that spends them where the signal is decided. Needs 3 steps.
  """

  count: int
  inner: Sequence[float] | None = None

  def __post_init__(self):
    _check_count(self.count, "UniformLogSnrSteps")
    if self.inner is not None:
      object.__setattr__(self, "inner", tuple(self.inner))
    if self.inner is not None and not (self.inner[0] < self.inner[1] and self.count >= 3):
      raise ValueError(
        "UniformLogSnrSteps.inner needs low < high and at least 3 steps, "
        f"not {self.inner} in {self.count} steps"
      )

  def of(self, count: int) -> "UniformLogSnrSteps":
    """Without `inner` where there are too few steps for it."""
    return dataclasses.replace(self, count=count, inner=self.inner if count >= 3 else None)

  def times(self, schedule: NoiseSchedule) -> np.ndarray:
    """Raises ValueError where `inner` leaves the range of the schedule."""
    if self.inner is None:
      ends = np.asarray(schedule.logsnr(np.array([1.0, 0.0])))
      between = np.linspace(*ends, int(self.count) + 1)[1:-1]
    else:
      _within(schedule, *self.inner, "UniformLogSnrSteps.inner")
      between = np.linspace(*self.inner, int(self.count) - 1)
    return np.concatenate([[1.0], time_of_logsnr(schedule, between), [0.0]])


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMSteps:
  """`count` steps between equal distances of n^(1 / rho), n = sigma / alpha (Karras et al., 2022,
  equation 5). The first step comes down from pure noise to sigma_max, the last ends at 0.

  rho: 7 in that paper; the larger, the shorter the steps near sigma_min. sigma_max, sigma_min: of
    data whose standard deviation is 0.5, as theirs.
  """

  count: int
  rho: float = 7.0
  sigma_max: float = 80.0
  sigma_min: float = 0.002

  def __post_init__(self):
    _check_count(self.count, "EDMSteps")
    if self.count < 3 or not self.rho > 0 or not 0 < self.sigma_min < self.sigma_max:
      raise ValueError(
        f"EDMSteps needs at least 3 steps, rho above 0 and 0 < sigma_min < sigma_max, not {self}"
      )

  def of(self, count: int) -> "EDMSteps":
    return dataclasses.replace(self, count=count)

  def times(self, schedule: NoiseSchedule) -> np.ndarray:
    """Raises ValueError where the sigmas leave the range of the schedule."""
    low, high = -2 * math.log(self.sigma_max), -2 * math.log(self.sigma_min)
    _within(schedule, low, high, "log-SNR of EDMSteps")
    ends = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
    sigmas = np.linspace(*ends, int(self.count) - 1) ** self.rho
    return np.concatenate([[1.0], time_of_logsnr(schedule, -2 * np.log(sigmas)), [0.0]])
