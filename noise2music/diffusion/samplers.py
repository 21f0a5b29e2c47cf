"""From noise to a signal: ancestral, DDIM, DPM-Solver++(2M) with and without noise, Heun.

All of them walk a fixed grid of times with coefficients that the schedule alone gives. Those are
tabulated on the host in float64, where differences of nearly equal levels are harmless, and the
device runs one `lax.scan` over the table, a row for each call of the network: it is traced once and
only the current signal (and the last prediction, or the start of Heun's step) is kept.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from noise2music.diffusion.time_steps import time_of_logsnr
from noise2music.typing import Array, EpsFn, Level, NoiseSchedule, PyTree, Signal

# noise_fn(step) -> standard normal [batch, time, channels]; step counts 0 .. N-1 and is traced.
# The caller keys it by clip and step, so noise does not depend on a clip's place in the batch.
NoiseFn: TypeAlias = Callable[[Int[Array, ""]], Signal]
Table: TypeAlias = dict[str, jax.Array]  # name -> [N], one row a step


@runtime_checkable
class Sampler(Protocol):
  """Runs the reverse process over a grid of times."""

  def calls(self, steps: int) -> int:
    """How often the network is asked over a grid of `steps` steps."""

  def __call__(
    self,
    eps_fn: EpsFn,
    x_1: Signal,
    *,
    times: np.ndarray,
    schedule: NoiseSchedule,
    noise_fn: NoiseFn | None = None,
  ) -> Signal:
    """Noise at times[0] -> float32 signal at times[-1], of the same shape.

    eps_fn: noise in x_t [batch, time, channels] at t [batch].
    x_1: standard normal noise.
    times: [N + 1] strictly falling, known ahead (see time_steps).
    noise_fn: required where the sampler adds noise, else unused.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ancestral:
  """The sampler of the paper (appendix A, equation 4).

  With r = 1 - exp(logsnr_t - logsnr_s), a step from t to s < t is

    x_s = (alpha_s / alpha_t) (x_t - r sigma_t eps)
          + (sqrt(r) sigma_s)^(1 - gamma) (sqrt(r) sigma_t)^gamma noise.

  gamma: in [0, 1]; 0 has the variance of q(x_s | x_t, x), 1 that of q(x_t | x_s).
  last_noise: True follows the equation down to s = 0. There gamma = 0 adds nearly nothing
    (sigma_0 is 4.5e-5), gamma = 1 still adds sqrt(r) sigma_t. False ends on the mean, as in the
    algorithm of Ho et al. (2020), which leaves less hiss where the last step is large.
  """

  gamma: float = 0.0
  last_noise: bool = True

  def __post_init__(self):
    if not 0.0 <= self.gamma <= 1.0:
      raise ValueError(f"Ancestral needs gamma in [0, 1], not {self.gamma}")

  def calls(self, steps: int) -> int:
    return steps

  def __call__(
    self,
    eps_fn: EpsFn,
    x_1: Signal,
    *,
    times: np.ndarray,
    schedule: NoiseSchedule,
    noise_fn: NoiseFn | None = None,
  ) -> Signal:
    if noise_fn is None:
      raise ValueError("Ancestral draws noise at every step: give it a noise_fn")
    alpha, sigma, logsnr = _levels(schedule, times)
    r = -np.expm1(logsnr[:-1] - logsnr[1:])
    ratio = alpha[1:] / alpha[:-1]
    noise_scale = np.sqrt(r) * sigma[1:] ** (1 - self.gamma) * sigma[:-1] ** self.gamma
    if not self.last_noise:
      noise_scale[-1] = 0.0
    table = _table(
      times[:-1], x=ratio, eps=-ratio * r * sigma[:-1], noise=noise_scale, step=np.arange(len(r))
    )

    def step(x_t: jax.Array, row: Table) -> jax.Array:
      eps = eps_fn(x_t, _each_clip(row["t"], x_t))
      return row["x"] * x_t + row["eps"] * eps + row["noise"] * noise_fn(row["step"])

    return _run(step, jnp.asarray(x_1, jnp.float32), table)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM:
  """x_s = alpha_s x + sigma_s eps with x = (x_t - sigma_t eps) / alpha_t (Song et al., 2021).

  First order and without noise: the exponential Euler method of the probability-flow equation.
  """

  def calls(self, steps: int) -> int:
    return steps

  def __call__(
    self,
    eps_fn: EpsFn,
    x_1: Signal,
    *,
    times: np.ndarray,
    schedule: NoiseSchedule,
    noise_fn: NoiseFn | None = None,
  ) -> Signal:
    alpha, sigma, _ = _levels(schedule, times)
    ratio = alpha[1:] / alpha[:-1]
    table = _table(times[:-1], x=ratio, eps=sigma[1:] - ratio * sigma[:-1])

    def step(x_t: jax.Array, row: Table) -> jax.Array:
      return row["x"] * x_t + row["eps"] * eps_fn(x_t, _each_clip(row["t"], x_t))

    return _run(step, jnp.asarray(x_1, jnp.float32), table)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolverPP2M:
  """DPM-Solver++(2M) in log-SNR (Lu et al., 2022, algorithm 2): second order, one call a step.

  With the half log-SNR l = logsnr / 2, h = l_s - l_t, k = h_before / h, and the predicted signal x:

    D = (1 + 1 / (2 k)) x - 1 / (2 k) x_before,
    x_s = (sigma_s / sigma_t) exp(-eta h) x_t + alpha_s (1 - exp(-(1 + eta) h)) D
          + sigma_s sqrt(1 - exp(-2 eta h)) noise.

  The first step has no predecessor and the last one ends where the equation is stiff: both are
  of first order (D = x). Best on UniformLogSnrSteps, 10 to 30 of them.

  eta: 0 follows the probability-flow equation, without noise. 1 is SDE-DPM-Solver++(2M) of the same
    paper, whose fresh noise forgets the errors of earlier steps, at the price of more steps.
  """

  eta: float = 0.0

  def __post_init__(self):
    if not 0.0 <= self.eta <= 1.0:
      raise ValueError(f"DPMSolverPP2M needs eta in [0, 1], not {self.eta}")

  def calls(self, steps: int) -> int:
    return steps

  def __call__(
    self,
    eps_fn: EpsFn,
    x_1: Signal,
    *,
    times: np.ndarray,
    schedule: NoiseSchedule,
    noise_fn: NoiseFn | None = None,
  ) -> Signal:
    if self.eta and noise_fn is None:
      raise ValueError("DPMSolverPP2M with eta above 0 draws noise: give it a noise_fn")
    alpha, sigma, logsnr = _levels(schedule, times)
    h = np.diff(logsnr) / 2
    before = np.zeros_like(h)  # the weight 1 / (2 k) of the last prediction
    before[1:-1] = h[1:-1] / (2 * h[:-2])
    table = _table(
      times[:-1],
      x=sigma[1:] / sigma[:-1] * np.exp(-self.eta * h),
      d=-alpha[1:] * np.expm1(-(1 + self.eta) * h),
      before=before,
      clean_x=1 / alpha[:-1],
      clean_eps=-sigma[:-1] / alpha[:-1],
      noise=sigma[1:] * np.sqrt(-np.expm1(-2 * self.eta * h)),
      step=np.arange(len(h)),
    )

    def step(carry: tuple[jax.Array, jax.Array], row: Table) -> tuple[jax.Array, jax.Array]:
      x_t, x_before = carry
      eps = eps_fn(x_t, _each_clip(row["t"], x_t))
      x = row["clean_x"] * x_t + row["clean_eps"] * eps
      d = x + row["before"] * (x - x_before)
      x_s = row["x"] * x_t + row["d"] * d
      if self.eta:
        x_s += row["noise"] * noise_fn(row["step"])
      return x_s, x

    x_1 = jnp.asarray(x_1, jnp.float32)
    return _run(step, (x_1, jnp.zeros_like(x_1)), table)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun:
  """Heun's method of second order with churn (Karras et al., 2022, algorithm 2), two calls a step.

  In y = x_t / alpha_t and n = sigma_t / alpha_t the probability-flow equation is dy/dn = eps. From
  t to s, with e = eps at (y, n_t):

    y' = y + (n_s - n_t) e,    y_s = y + (n_s - n_t) (e + eps at (y', n_s)) / 2.

  The first and last step are y' alone: from pure noise n_t is so large (e^10 where log-SNR begins
  at -20) that halving the slopes would magnify what they differ by. Best on `time_steps.EDMSteps`.

  churn: S_churn of the paper. Before each step the noise is raised to (1 + g) n_t with fresh noise,
    g = min(churn / N, sqrt(2) - 1), where the schedule reaches so far.
  """

  churn: float = 0.0

  def __post_init__(self):
    if not self.churn >= 0.0:
      raise ValueError(f"Heun needs a churn of at least 0, not {self.churn}")

  def calls(self, steps: int) -> int:
    return max(2 * steps - 2, 1)

  def __call__(
    self,
    eps_fn: EpsFn,
    x_1: Signal,
    *,
    times: np.ndarray,
    schedule: NoiseSchedule,
    noise_fn: NoiseFn | None = None,
  ) -> Signal:
    if self.churn and noise_fn is None:
      raise ValueError("Heun with churn draws noise: give it a noise_fn")
    alpha, sigma, _ = _levels(schedule, times)
    raised_times = self._raised(times, schedule)
    raised_alpha, raised_sigma, _ = _levels(schedule, raised_times, falling=False)
    n, raised = sigma / alpha, raised_sigma / raised_alpha
    steps = len(n) - 1

    # A step is two rows, at its start and at its end; the first and the last step lack the second.
    asked = np.ones((steps, 2), bool)
    asked[[0, -1], 1] = False

    def rows(first: np.ndarray, second: np.ndarray) -> np.ndarray:
      return np.stack([first, second], axis=1)[asked]

    same = lambda column: rows(column, column)  # noqa: E731
    zero = np.zeros(steps)
    table = _table(
      rows(raised_times, np.asarray(times)[1:]),
      correct=rows(zero.astype(np.int64), np.ones(steps, np.int64)),
      raise_x=rows(raised_alpha / alpha[:-1], zero),
      noise=rows(raised_alpha * np.sqrt(np.maximum(raised**2 - n[:-1] ** 2, 0)), zero),
      x=same(alpha[1:] / raised_alpha),
      slope=same(alpha[1:] * (n[1:] - raised)),
      step=same(np.arange(steps)),
    )

    def step(carry: tuple[jax.Array, jax.Array, jax.Array], row: Table) -> tuple:
      x_t, start, first = carry
      correct = row["correct"] == 1
      if self.churn:
        x_t = jnp.where(correct, x_t, row["raise_x"] * x_t + row["noise"] * noise_fn(row["step"]))
      eps = eps_fn(x_t, _each_clip(row["t"], x_t))
      start, first = jnp.where(correct, start, x_t), jnp.where(correct, first, eps)
      return row["x"] * start + row["slope"] * (first + eps) / 2, start, first

    x_1 = jnp.asarray(x_1, jnp.float32)
    return _run(step, (x_1, x_1, jnp.zeros_like(x_1)), table)[0]

  def _raised(self, times: np.ndarray, schedule: NoiseSchedule) -> np.ndarray:
    """The time that each step starts from, [N]: of (1 + g) times its noise."""
    starts = np.asarray(times, np.float64)[:-1]
    g = min(self.churn / len(starts), math.sqrt(2) - 1)
    if not g:
      return starts
    wanted = _levels(schedule, starts, falling=False)[2] - 2 * np.log1p(g)
    reached = wanted > float(np.asarray(schedule.logsnr(np.ones(1)))[0])
    return np.where(reached, time_of_logsnr(schedule, wanted), starts)


def _levels(
  schedule: NoiseSchedule, times: np.ndarray, *, falling: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """alpha, sigma, logsnr at the times, each float64 and as long; `falling` times are a grid."""
  times = np.asarray(times, np.float64)
  if falling and (times.ndim != 1 or len(times) < 2 or not (np.diff(times) < 0).all()):
    raise ValueError("the times of a sampler must be a strictly falling list of at least two")
  if times.max() > 1 or times.min() < 0:
    raise ValueError(f"the times of a sampler must lie in [0, 1], not {times[0]} to {times[-1]}")
  with jax.ensure_compile_time_eval():  # a schedule written in jnp would be traced under jit
    levels = (schedule.alpha(times), schedule.sigma(times), schedule.logsnr(times))
    return tuple(np.asarray(level, np.float64) for level in levels)


def _table(starts: np.ndarray, **columns: np.ndarray) -> Table:
  """float32 columns (integers stay int32) and the time at which each row asks the network, `t`."""
  columns["t"] = np.asarray(starts)
  return {
    name: jnp.asarray(column, jnp.int32 if column.dtype.kind == "i" else jnp.float32)
    for name, column in columns.items()
  }


def _each_clip(t: jax.Array, x_t: jax.Array) -> Level:
  return jnp.broadcast_to(t, x_t.shape[:1])


def _run(step: Callable[[PyTree, Table], PyTree], carry: PyTree, table: Table) -> PyTree:
  """The last carry of `step` over the rows of the table."""
  return jax.lax.scan(lambda carry, row: (step(carry, row), None), carry, table)[0]
