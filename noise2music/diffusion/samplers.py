"""From noise to a signal: ancestral, DDIM and DPM-Solver++(2M).

All three walk a fixed grid of times with coefficients that depend on the schedule alone. Those are
tabulated on the host in float64, where differences of nearly equal levels are harmless, and the
device runs one `lax.scan` over the table: the network is traced once and only the current signal
(for DPM-Solver++ also the last prediction) is kept.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from noise2music.typing import Array, EpsFn, Level, NoiseSchedule, PyTree, Signal

# noise_fn(step) -> standard normal [batch, time, channels]; step counts 0 .. N-1 and is traced.
# The caller keys it by clip and step, so noise does not depend on a clip's place in the batch.
NoiseFn: TypeAlias = Callable[[Int[Array, ""]], Signal]
Table: TypeAlias = dict[str, jax.Array]  # name -> [N], one row a step


@runtime_checkable
class Sampler(Protocol):
  """Runs the reverse process over a grid of times."""

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
      times, x=ratio, eps=-ratio * r * sigma[:-1], noise=noise_scale, step=np.arange(len(r))
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
    table = _table(times, x=ratio, eps=sigma[1:] - ratio * sigma[:-1])

    def step(x_t: jax.Array, row: Table) -> jax.Array:
      return row["x"] * x_t + row["eps"] * eps_fn(x_t, _each_clip(row["t"], x_t))

    return _run(step, jnp.asarray(x_1, jnp.float32), table)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolverPP2M:
  """DPM-Solver++(2M) in log-SNR (Lu et al., 2022, algorithm 2): second order, one call a step.

  With the half log-SNR l = logsnr / 2, h = l_s - l_t, k = h_before / h, and the predicted signal x:

    D = (1 + 1 / (2 k)) x - 1 / (2 k) x_before,
    x_s = (sigma_s / sigma_t) x_t - alpha_s (exp(-h) - 1) D.

  The first step has no predecessor and the last one ends where the equation is stiff: both are
  of first order (D = x). Best on UniformLogSnrSteps, 10 to 30 of them.
  """

  def __call__(
    self,
    eps_fn: EpsFn,
    x_1: Signal,
    *,
    times: np.ndarray,
    schedule: NoiseSchedule,
    noise_fn: NoiseFn | None = None,
  ) -> Signal:
    alpha, sigma, logsnr = _levels(schedule, times)
    h = np.diff(logsnr) / 2
    before = np.zeros_like(h)  # the weight 1 / (2 k) of the last prediction
    before[1:-1] = h[1:-1] / (2 * h[:-2])
    table = _table(
      times,
      x=sigma[1:] / sigma[:-1],
      d=-alpha[1:] * np.expm1(-h),
      before=before,
      clean_x=1 / alpha[:-1],
      clean_eps=-sigma[:-1] / alpha[:-1],
    )

    def step(carry: tuple[jax.Array, jax.Array], row: Table) -> tuple[jax.Array, jax.Array]:
      x_t, x_before = carry
      eps = eps_fn(x_t, _each_clip(row["t"], x_t))
      x = row["clean_x"] * x_t + row["clean_eps"] * eps
      d = x + row["before"] * (x - x_before)
      return row["x"] * x_t + row["d"] * d, x

    x_1 = jnp.asarray(x_1, jnp.float32)
    return _run(step, (x_1, jnp.zeros_like(x_1)), table)[0]


def _levels(
  schedule: NoiseSchedule, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """alpha, sigma, logsnr at the times, each float64 [N + 1]."""
  times = np.asarray(times, np.float64)
  if times.ndim != 1 or len(times) < 2 or not (np.diff(times) < 0).all():
    raise ValueError("the times of a sampler must be a strictly falling list of at least two")
  if times[0] > 1 or times[-1] < 0:
    raise ValueError(f"the times of a sampler must lie in [0, 1], not {times[0]} to {times[-1]}")
  with jax.ensure_compile_time_eval():  # a schedule written in jnp would be traced under jit
    levels = (schedule.alpha(times), schedule.sigma(times), schedule.logsnr(times))
    return tuple(np.asarray(level, np.float64) for level in levels)


def _table(times: np.ndarray, **columns: np.ndarray) -> Table:
  """float32 columns (integers stay int32) and the time each step starts from, as `t`."""
  columns["t"] = np.asarray(times)[:-1]
  return {
    name: jnp.asarray(column, jnp.int32 if column.dtype.kind == "i" else jnp.float32)
    for name, column in columns.items()
  }


def _each_clip(t: jax.Array, x_t: jax.Array) -> Level:
  return jnp.broadcast_to(t, x_t.shape[:1])


def _run(step: Callable[[PyTree, Table], PyTree], carry: PyTree, table: Table) -> PyTree:
  """The last carry of `step` over the rows of the table."""
  return jax.lax.scan(lambda carry, row: (step(carry, row), None), carry, table)[0]
