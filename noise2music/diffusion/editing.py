"""Editing a given signal with the samplers there are: wrappers around eps, the grid and the start.

  known parts   the predicted x is the given signal where it is known (`keeping`), so that there x_t
                is alpha given + sigma noise at every step, as the process has it (Song et al.,
                2021, appendix I.2, for a solver that draws no noise of its own)
  audio again   sampling starts at a time t < 1 from alpha given + sigma noise (SDEdit, Meng et al.,
                2022): `grid_from` and `noised`
  loops         the signal lies on a circle, which is cut open elsewhere at every step (`circular`)
  two prompts   the eps of one and of the other, mixed (`mixed`)

Each runs with a lambda as network, and they combine.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from noise2music.diffusion.guidance import change_prediction
from noise2music.typing import Array, EpsFn, Level, NoiseSchedule, OtherSignal, Signal

Signals: TypeAlias = Mapping[str, OtherSignal]  # what a network listens to, [batch, _, _] each
# (x_t, t, signals) -> eps, each of the same stretch of time
HearingEpsFn: TypeAlias = Callable[[Signal, Level, Signals], Signal]
GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, are spread evenly however many there are


def known_outside(
  *, start: float, end: float, fade_seconds: float, steps: int, rate_hz: int
) -> Float[np.ndarray, "time"]:
  """float32 [steps]: 0 from start to end (in seconds), 1 from fade_seconds away on, a raised cosine
  between."""
  time = (np.arange(steps) + 0.5) / rate_hz
  distance = np.maximum(start - time, time - end)
  rise = np.clip(distance / fade_seconds, 0.0, 1.0) if fade_seconds else distance > 0
  return (0.5 - 0.5 * np.cos(np.pi * rise)).astype(np.float32)


def replaced(x: Signal, given: Signal, keep: Float[Array, "time"]) -> Signal:
  """x + keep (given - x); where keep is 1, `given` bit for bit."""
  keep = jnp.asarray(keep)[:, None]
  return jnp.where(keep == 1, given, x + keep * (given - x))


def keeping(
  eps_fn: EpsFn, given: Signal, *, keep: Float[Array, "time"], schedule: NoiseSchedule
) -> EpsFn:
  """The eps whose x is `given` where keep is 1, the network's where it is 0."""
  return change_prediction(eps_fn, lambda x: replaced(x, given, keep), schedule=schedule)


def grid_from(times: np.ndarray, start: float, *, schedule: NoiseSchedule) -> np.ndarray:
  """The grid from time `start` in (0, 1] on: `start`, then the times below it.

  The nearest of these is left out where it is so near that it would make a step of less than half
  the log-SNR of the one it was cut from: solvers of second order extrapolate over such steps.
  """
  times = np.asarray(times, np.float64)
  if not 0 < start <= 1:
    raise ValueError(f"sampling starts at a time in (0, 1], not {start}")
  if start >= times[0]:
    return times
  first = int(np.argmax(times < start))
  with jax.ensure_compile_time_eval():
    at = np.array([times[first - 1], start, times[first]])
    before, here, after = np.asarray(schedule.logsnr(at), np.float64)
  if after - here < (after - before) / 2 and first < len(times) - 1:
    first += 1
  return np.concatenate([[start], times[first:]])


def noised(given: Signal, noise: Signal, *, time: float, schedule: NoiseSchedule) -> Signal:
  """alpha given + sigma noise at `time`."""
  with jax.ensure_compile_time_eval():
    at = np.full(1, time)
    alpha, sigma = (float(np.asarray(f(at))[0]) for f in (schedule.alpha, schedule.sigma))
  return alpha * given + sigma * noise


def circular(
  eps_fn: HearingEpsFn, signals: Signals, *, times: np.ndarray, length: int, multiple: int = 1
) -> EpsFn:
  """eps of clips whose end meets their beginning, from a network that knows of no circles.

  Before each call the clips and all that they listen to are turned by a part of the circle, another
  one at each time of the grid, and after it eps is turned back. So the edges that the network sees
  never lie in one place, and across the join it sees what it sees anywhere else (the tiling of
  panoramas, e.g. Bar-Tal et al., 2023, on a circle). A clip that is shorter than `length` goes on
  from its beginning until it is that long, and eps is cropped.

  signals: as long as the clips or a whole number of times shorter. times: the sampler's. length:
  what the network takes. multiple: turns are multiples of it; it divides by each of those numbers.
  """
  grid = jnp.asarray(np.asarray(times)[::-1].copy(), jnp.float32)

  def whole(x_t: Signal, t: Level) -> Signal:
    steps = x_t.shape[1]
    # All clips are at one time; samplers between two times of the grid turn as at the one before.
    index = len(grid) - jnp.searchsorted(grid, jnp.max(t), side="left")
    turn = multiple * jnp.floor((index * GOLDEN) % 1 * max(1, steps // multiple)).astype(jnp.int32)

    def turned(signal: OtherSignal) -> jax.Array:
      ratio, rest = divmod(steps, signal.shape[1])
      if rest or multiple % ratio:
        raise ValueError(f"{signal.shape[1]} steps cannot be turned along with {steps}")
      signal = jnp.roll(signal, -(turn // ratio), axis=1)
      missing = length // ratio - signal.shape[1]
      return jnp.pad(signal, ((0, 0), (0, missing), (0, 0)), mode="wrap")

    eps = eps_fn(turned(x_t), t, {name: turned(signal) for name, signal in signals.items()})
    return jnp.roll(eps[:, :steps], turn, axis=1)

  return whole


def mixed(first: EpsFn, second: EpsFn, *, weight: Float[Array, "time"]) -> EpsFn:
  """(1 - weight) eps_first + weight eps_second.

  eps is -sigma times the gradient of log p_t, so this leads to where the weighted product of both
  distributions is large. weight: [1] for all of a clip, or [time].
  """
  weight = jnp.asarray(weight, jnp.float32)[:, None]

  def both(x_t: Signal, t: Level) -> Signal:
    eps = first(x_t, t)
    return eps + weight * (second(x_t, t) - eps)

  return both
