import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_grids import COSINE, GRIDS, LINEAR, gaussian_eps, noise_pixels

from noise2music.diffusion import gaussian
from noise2music.diffusion.samplers import DDIM, Ancestral, DPMSolverPP2M, Heun
from noise2music.diffusion.time_steps import EDMSteps, UniformLogSnrSteps, UniformSteps

MEAN, VARIANCE = 0.5, 0.25
PIXELS = noise_pixels()
SAMPLERS = {
  "gamma_0": Ancestral(gamma=0.0),
  "gamma_half": Ancestral(gamma=0.5),
  "gamma_1": Ancestral(gamma=1.0),
  "ddim": DDIM(),
  "dpm": DPMSolverPP2M(),
  "dpm_sde": DPMSolverPP2M(eta=1.0),
  "heun": Heun(),
  "heun_churn": Heun(churn=2.0),
}


def noise_like(x, seed=5):
  """Noise of [batch, time, channels], keyed by step and clip."""
  keys = jax.vmap(lambda b: jax.random.fold_in(jax.random.key(seed), b))(jnp.arange(x.shape[0]))

  def noise_fn(step):
    steps = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step)
    return jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(steps)

  return noise_fn


def sample(sampler, x_1, *, times, schedule):
  run = jax.jit(
    lambda x_1: sampler(
      gaussian_eps(schedule, MEAN, VARIANCE),
      x_1,
      times=times,
      schedule=schedule,
      noise_fn=noise_like(x_1),
    )
  )
  return run(x_1)


def exact_moments(times, schedule, gamma):
  """Mean and variance that equation 4 of the paper gives, in float64, step by step."""
  mean, variance = 0.0, 1.0
  for t, s in itertools.pairwise(times):
    (alpha_t, alpha_s), (sigma_t, sigma_s), (logsnr_t, logsnr_s) = (
      f(np.array([t, s])) for f in (schedule.alpha, schedule.sigma, schedule.logsnr)
    )
    slope = sigma_t / (alpha_t**2 * VARIANCE + sigma_t**2)  # eps = slope (x_t - alpha_t m)
    r = 1 - np.exp(logsnr_t - logsnr_s)
    factor = alpha_s / alpha_t * (1 - r * sigma_t * slope)
    mean = factor * mean + alpha_s / alpha_t * r * sigma_t * slope * alpha_t * MEAN
    noise = (np.sqrt(r) * sigma_s) ** (1 - gamma) * (np.sqrt(r) * sigma_t) ** gamma
    variance = factor**2 * variance + noise**2
  return mean, variance


@pytest.mark.parametrize("gamma", ["gamma_0", "gamma_1"])
@pytest.mark.parametrize("name", GRIDS)
def test_ancestral_sampling_of_a_gaussian_on_the_grids_of_table_7(name, gamma):
  grid = GRIDS[name]
  sampler = SAMPLERS[gamma]
  x = np.asarray(sample(sampler, PIXELS, times=grid.times, schedule=grid.schedule), np.float64)
  # The formula itself, to within four standard errors of the sample.
  mean, variance = exact_moments(grid.times, grid.schedule, sampler.gamma)
  assert abs(x.mean() - mean) < 4 * np.sqrt(variance / x.size)
  assert abs(x.var() - variance) < 4 * variance * np.sqrt(2 / x.size)
  # The data, but for what a finite grid leaves: below the sampling error of the variance (0.8 %)
  # on the fine lists, more on the vocoder's hundred steps and on lists that are coarse near t = 0.
  off_by = {"vocoder": 0.06, "waveform_reversed": 0.07, "spectrogram": 0.09}.get(name, 0.01)
  assert abs(mean - MEAN) < 0.002
  assert abs(variance / VARIANCE - 1) < off_by


@pytest.mark.parametrize("solver", ["ddim", "dpm", "dpm_sde", "heun", "heun_churn"])
@pytest.mark.parametrize("name", GRIDS)
def test_solvers_of_a_gaussian_on_the_grids_of_table_7(name, solver):
  grid = GRIDS[name]
  x = sample(SAMPLERS[solver], PIXELS, times=grid.times, schedule=grid.schedule)
  off_by = {"vocoder": 0.04, "waveform_reversed": 0.03, "spectrogram": 0.04}.get(name, 0.01)
  # Those that draw noise are as far off as samples are: four standard errors.
  drawn = 4 / np.sqrt(x.size) if solver in ("dpm_sde", "heun_churn") else 0.0
  assert abs(float(x.mean()) - MEAN) < 0.003 + drawn * np.sqrt(VARIANCE)
  assert abs(float(x.var()) / VARIANCE - 1) < off_by + drawn * np.sqrt(2)


@pytest.mark.parametrize("schedule", [COSINE, LINEAR])
@pytest.mark.parametrize(("name", "order"), [("gamma_0", 1), ("ddim", 1), ("dpm", 2)])
def test_error_shrinks_with_steps(name, order, schedule):
  errors = []
  for count in (40, 80, 160):
    if name == "gamma_0":
      times = UniformSteps(count=count).times(schedule)
      errors.append(abs(exact_moments(times, schedule, 0.0)[1] - VARIANCE))
    else:
      times = UniformLogSnrSteps(count=count).times(schedule)
      x = sample(SAMPLERS[name], PIXELS, times=times, schedule=schedule)
      errors.append(abs(float(x.std()) - np.sqrt(VARIANCE)))
  for coarse, fine in itertools.pairwise(errors):
    assert fine < coarse / 2 ** (order - 0.5), errors


def mixture_eps(schedule):
  """The exact eps of two Gaussians: 0.3 at -1, 0.7 at 0.6, of standard deviations 0.2 and 0.3."""
  weights, means, deviations = (0.3, 0.7), (-1.0, 0.6), (0.2, 0.3)

  def eps_fn(x_t, t):
    alpha, sigma = gaussian.expand(schedule.alpha(t), x_t), gaussian.expand(schedule.sigma(t), x_t)
    log_p, slopes = [], []
    for weight, mean, deviation in zip(weights, means, deviations, strict=True):
      variance = alpha**2 * deviation**2 + sigma**2
      off = x_t - alpha * mean
      log_p.append(jnp.log(weight) - jnp.log(variance) / 2 - off**2 / (2 * variance))
      slopes.append(off / variance)
    share = jax.nn.softmax(jnp.stack(log_p), axis=0)
    return sigma * jnp.sum(share * jnp.stack(slopes), axis=0)

  return eps_fn


@pytest.mark.parametrize("schedule", [COSINE, LINEAR])
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm", 2), ("heun", 2)])
def test_order_of_convergence_on_a_mixture(name, order, schedule):
  """Halving the steps of a solver of order k divides the error of each sample by 2^k."""
  x_1 = PIXELS[:, :256]
  run = lambda solver, grid: np.asarray(  # noqa: E731
    jax.jit(
      lambda x: solver(mixture_eps(schedule), x, times=grid.times(schedule), schedule=schedule)
    )(x_1)
  )
  # Between times that stay where they are: what the outer steps leave does not shrink.
  ends = {"inner": (-8.0, 8.0)}
  exact = run(Heun(), UniformLogSnrSteps(count=1_026, **ends))
  errors = [
    np.abs(run(SAMPLERS[name], UniformLogSnrSteps(count=count + 2, **ends)) - exact).mean()
    for count in (32, 64, 128)
  ]
  orders = np.log2(np.divide(errors[:-1], errors[1:]))
  assert (np.abs(orders - order) < 0.35).all(), (errors, orders)


@pytest.mark.parametrize(("name", "count"), [("dpm_sde", 60), ("heun_churn", 30), ("gamma_0", 240)])
def test_samplers_with_noise_draw_from_the_mixture(name, count):
  x_1 = jax.random.normal(jax.random.key(3), (16, 1_024, 1))
  times = EDMSteps(count=count).times(COSINE)
  x = SAMPLERS[name](
    mixture_eps(COSINE), x_1, times=times, schedule=COSINE, noise_fn=noise_like(x_1)
  )
  draws = np.random.default_rng(7)
  first = draws.random(x.size) < 0.3
  real = np.where(first, draws.normal(-1.0, 0.2, x.size), draws.normal(0.6, 0.3, x.size))
  # Earth mover's distance of equal counts; two draws of the real mixture are 0.01 apart.
  assert np.abs(np.sort(np.ravel(x)) - np.sort(real)).mean() < 0.03


def test_sde_without_noise_is_the_ode_and_its_first_step_an_ancestral_one():
  times = np.array([0.7, 0.4])
  x_t, eps, noise = np.random.default_rng(4).normal(size=(3, 2, 5, 1)).astype(np.float32)
  step = lambda solver: solver(  # noqa: E731
    lambda x, t: eps, x_t, times=times, schedule=LINEAR, noise_fn=lambda step: noise
  )
  np.testing.assert_allclose(step(DPMSolverPP2M(eta=1.0)), step(Ancestral()), rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(step(DPMSolverPP2M()), step(DDIM()), rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(step(Heun()), step(DDIM()), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_are_those_that_happen(name, steps):
  times = np.linspace(1, 0, steps + 1)
  asked = []

  def eps_fn(x_t, t):
    jax.debug.callback(lambda t: asked.append(float(t)), t[0])
    return x_t

  jax.block_until_ready(
    SAMPLERS[name](
      eps_fn, jnp.ones((1, 4, 1)), times=times, schedule=COSINE, noise_fn=lambda step: 0.0
    )
  )
  jax.effects_barrier()
  assert len(asked) == SAMPLERS[name].calls(steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_known_signal_is_recovered_from_its_exact_eps(name):
  want = np.random.default_rng(2).uniform(-1, 1, (2, 16, 3)).astype(np.float32)

  def eps_fn(x_t, t):
    return (x_t - COSINE.alpha(t)[:, None, None] * want) / COSINE.sigma(t)[:, None, None]

  x = SAMPLERS[name](
    eps_fn,
    jax.random.normal(jax.random.key(1), want.shape),
    times=UniformSteps(count=12).times(COSINE),
    schedule=COSINE,
    noise_fn=noise_like(want),
  )
  off_by = {"gamma_1": 0.8, "gamma_half": 0.02, "heun": 0.01, "heun_churn": 0.01}.get(name, 1e-3)
  np.testing.assert_allclose(x, want, atol=off_by)
  if name == "gamma_1":  # the noise of the last step, which last_noise=False leaves out
    sigma, r = COSINE.sigma(np.array([1 / 12]))[0], 1.0
    np.testing.assert_allclose(np.std(x - want), np.sqrt(r) * sigma, rtol=0.2)
    quiet = Ancestral(gamma=1.0, last_noise=False)
    times = UniformSteps(count=12).times(COSINE)
    x = quiet(eps_fn, want, times=times, schedule=COSINE, noise_fn=noise_like(want))
    np.testing.assert_allclose(x, want, atol=1e-3)


def test_one_ancestral_step_is_the_equation():
  times = np.array([0.7, 0.4])
  x_t, eps, noise = np.random.default_rng(4).normal(size=(3, 2, 5, 1)).astype(np.float32)
  for gamma in (0.0, 0.3, 1.0):
    x_s = Ancestral(gamma=gamma)(
      lambda x, t: eps, x_t, times=times, schedule=LINEAR, noise_fn=lambda step: noise
    )
    alpha, sigma, logsnr = LINEAR.alpha(times), LINEAR.sigma(times), LINEAR.logsnr(times)
    ratio, r = alpha[1] / alpha[0], 1 - np.exp(logsnr[0] - logsnr[1])
    scale = (np.sqrt(r) * sigma[1]) ** (1 - gamma) * (np.sqrt(r) * sigma[0]) ** gamma
    want = ratio * x_t - r * ratio * sigma[0] * eps + scale * noise
    np.testing.assert_allclose(x_s, want, rtol=1e-5, atol=1e-6)


def test_network_is_traced_once_and_no_step_is_kept():
  calls = []

  def eps_fn(x_t, t):
    calls.append(t.shape)
    return x_t

  for name, sampler in SAMPLERS.items():
    calls.clear()
    x_1 = jnp.ones((2, 8, 1))
    times = UniformSteps(count=500).times(COSINE)
    run = jax.jit(
      lambda x, sampler=sampler, times=times: sampler(
        eps_fn, x, times=times, schedule=COSINE, noise_fn=lambda step: jnp.ones((2, 8, 1))
      )
    )
    lowered = run.lower(x_1).as_text()
    assert calls == [(2,)], name
    assert "500x2x8x1" not in lowered, name


def test_batch_composition_does_not_change_a_clip():
  x_1 = jax.random.normal(jax.random.key(0), (4, 32, 2))
  times = UniformSteps(count=5).times(COSINE)
  together = sample(Ancestral(gamma=1.0), x_1, times=times, schedule=COSINE)
  alone = sample(Ancestral(gamma=1.0), x_1[:1], times=times, schedule=COSINE)
  np.testing.assert_allclose(together[:1], alone, atol=1e-6)


def test_refusals():
  x_1 = jnp.ones((1, 4, 1))
  with pytest.raises(ValueError, match="gamma"):
    Ancestral(gamma=1.5)
  with pytest.raises(ValueError, match="eta"):
    DPMSolverPP2M(eta=-0.1)
  with pytest.raises(ValueError, match="churn"):
    Heun(churn=-1.0)
  for noisy in (Ancestral(), DPMSolverPP2M(eta=0.5), Heun(churn=1.0)):
    with pytest.raises(ValueError, match="noise_fn"):
      noisy(lambda x, t: x, x_1, times=np.array([1.0, 0.0]), schedule=COSINE)
  for times in ([0.0, 1.0], [1.0], [1.0, 0.5, 0.5]):
    with pytest.raises(ValueError, match="falling"):
      DDIM()(lambda x, t: x, x_1, times=np.array(times), schedule=COSINE)
  with pytest.raises(ValueError, match="lie in"):
    DDIM()(lambda x, t: x, x_1, times=np.array([1.5, 0.0]), schedule=COSINE)
