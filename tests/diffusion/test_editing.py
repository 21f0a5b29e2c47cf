"""Editing with the exact eps of Gaussian processes in place of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusion_grids import COSINE, gaussian_eps

from noise2music.diffusion import editing, gaussian
from noise2music.diffusion.samplers import DDIM, Ancestral, DPMSolverPP2M
from noise2music.diffusion.time_steps import UniformLogSnrSteps, UniformSteps

STEPS, CLIPS = 96, 64
TIMES = UniformLogSnrSteps(count=40).times(COSINE)


def covariance(steps: int = STEPS, length: float = 6.0) -> np.ndarray:
  """Of a smooth process that knows of no circle: neighbours are alike, the two ends are not."""
  distance = np.arange(steps)[:, None] - np.arange(steps)
  return 0.25 * np.exp(-(distance**2) / (2 * length**2)) + 1e-4 * np.eye(steps)


def process_eps(matrix: np.ndarray):
  """eps = sigma (alpha^2 C + sigma^2)^-1 x_t, exact for x ~ N(0, C)."""
  values, vectors = np.linalg.eigh(matrix)
  values, vectors = jnp.asarray(values, jnp.float32), jnp.asarray(vectors, jnp.float32)

  def eps_fn(x_t, t):
    alpha, sigma = gaussian.expand(COSINE.alpha(t), x_t), gaussian.expand(COSINE.sigma(t), x_t)
    parts = jnp.einsum("ij,bic->bjc", vectors, x_t)
    parts = parts * sigma / (alpha**2 * values[:, None] + sigma**2)
    return jnp.einsum("ij,bjc->bic", vectors, parts)

  return eps_fn


def noise(step=-1, *, steps: int = STEPS, clips: int = CLIPS):
  return jax.random.normal(jax.random.fold_in(jax.random.key(7), step + 1), (clips, steps, 1))


def drawn(matrix: np.ndarray, *, seed: int = 3) -> np.ndarray:
  """One clip of the process, [1, steps, 1]."""
  normal = np.random.default_rng(seed).normal(size=len(matrix))
  return (np.linalg.cholesky(matrix) @ normal)[None, :, None].astype(np.float32)


def levels(t: float) -> tuple[float, float]:
  """alpha, sigma."""
  return float(COSINE.alpha(np.full(1, t))[0]), float(COSINE.sigma(np.full(1, t))[0])


def jumps(x: np.ndarray, *, at: int) -> tuple[float, float]:
  """Root mean square step from `at` - 1 to `at`, and of all others."""
  steps = np.asarray(x)[..., 0] - np.roll(np.asarray(x)[..., 0], 1, axis=1)
  size = np.sqrt(np.mean(steps**2, axis=0))
  return float(size[at]), float(np.delete(size, [0, at]).mean())


def test_what_is_known_by_hand():
  settings = {"steps": 10, "rate_hz": 10}
  hard = editing.known_outside(start=0.3, end=0.6, fade_seconds=0.0, **settings)
  np.testing.assert_array_equal(hard, [1, 1, 1, 0, 0, 0, 1, 1, 1, 1])
  soft = editing.known_outside(start=0.3, end=0.6, fade_seconds=0.2, **settings)
  low, high = 0.5 - 0.5 * np.cos(np.pi / 4), 0.5 + 0.5 * np.cos(np.pi / 4)
  np.testing.assert_allclose(soft, [1, high, low, 0, 0, 0, low, high, 1, 1], atol=1e-6)
  front = editing.known_outside(start=0.3, end=np.inf, fade_seconds=0.0, **settings)
  np.testing.assert_array_equal(front, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
  "sampler", [DDIM(), Ancestral(), DPMSolverPP2M(), DPMSolverPP2M(eta=1.0)], ids=repr
)
def test_what_is_known_stays_and_the_rest_fits_it(sampler) -> None:
  matrix = covariance()
  given = jnp.asarray(np.repeat(drawn(matrix), CLIPS, axis=0))
  keep = editing.known_outside(start=48, end=np.inf, fade_seconds=0, steps=STEPS, rate_hz=1)
  settings = {"times": TIMES, "schedule": COSINE, "noise_fn": noise}
  free = sampler(process_eps(matrix), noise(), **settings)
  eps_fn = editing.keeping(process_eps(matrix), given, keep=keep, schedule=COSINE)
  made = editing.replaced(sampler(eps_fn, noise(), **settings), given, keep)
  np.testing.assert_array_equal(made[:, :48], given[:, :48])
  seam, elsewhere = jumps(made, at=48)
  pasted, _ = jumps(editing.replaced(free, given, keep), at=48)
  assert seam < 2.5 * elsewhere
  assert pasted > 5 * elsewhere
  assert np.std(made[:, 80:], axis=0).mean() > 0.35, "far from what is known, clips differ"


def test_where_a_clip_is_known_its_noisy_form_is_that_of_the_process() -> None:
  given = jnp.asarray(np.repeat(drawn(covariance()), 2, axis=0))
  seen = []

  def wrong(x_t, t):  # whatever a network says there
    jax.debug.callback(lambda x, t: seen.append((np.asarray(x), float(t[0]))), x_t, t)
    return 3 * x_t + 1

  start = noise(clips=2)
  eps_fn = editing.keeping(wrong, given, keep=np.ones(STEPS, np.float32), schedule=COSINE)
  DDIM()(eps_fn, start, times=UniformSteps(count=8).times(COSINE), schedule=COSINE)
  jax.effects_barrier()
  assert len(seen) == 8
  for x_t, t in seen[1:]:  # the first is noise alone
    alpha, sigma = levels(t)
    np.testing.assert_allclose(x_t, alpha * given + sigma * start, atol=0.01)  # 1 / alpha is 2e4


def test_a_grid_is_cut_where_sampling_starts() -> None:
  times = UniformSteps(count=10).times(COSINE)
  np.testing.assert_array_equal(editing.grid_from(times, 1.0, schedule=COSINE), times)
  cut = editing.grid_from(times, 0.56, schedule=COSINE)
  np.testing.assert_allclose(cut, [0.56, 0.5, 0.4, 0.3, 0.2, 0.1, 0], atol=1e-12)
  near = editing.grid_from(times, 0.501, schedule=COSINE)
  np.testing.assert_allclose(near, [0.501, 0.4, 0.3, 0.2, 0.1, 0], atol=1e-12)
  np.testing.assert_allclose(editing.grid_from(times, 0.001, schedule=COSINE), [0.001, 0])
  for wrong in (0.0, 1.5):
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
      editing.grid_from(times, wrong, schedule=COSINE)


def from_given(given, strength: float, *, times, eps_fn, sampler):
  start = editing.noised(given, noise(), time=strength, schedule=COSINE)
  grid = editing.grid_from(times, strength, schedule=COSINE)
  return np.asarray(sampler(eps_fn, start, times=grid, schedule=COSINE, noise_fn=noise))


def test_audio_again_is_what_the_flow_makes_of_it() -> None:
  """Of N(m, v) the flow leads x_t to m + (x_t - alpha m) sqrt(v / (alpha^2 v + sigma^2))."""
  given = jnp.full((CLIPS, STEPS, 1), 0.8)
  times = UniformLogSnrSteps(count=1_000).times(COSINE)
  eps_fn = gaussian_eps(COSINE, 0.2, 0.09)
  made = from_given(given, 0.45, times=times, eps_fn=eps_fn, sampler=DDIM())
  alpha, sigma = levels(0.45)
  x_t = alpha * 0.8 + sigma * np.asarray(noise())
  exact = 0.2 + (x_t - alpha * 0.2) * np.sqrt(0.09 / (alpha**2 * 0.09 + sigma**2))
  np.testing.assert_allclose(made, exact, atol=0.02)


@pytest.mark.parametrize("sampler", [Ancestral(), DPMSolverPP2M()], ids=repr)
def test_the_stronger_the_farther_from_the_given_audio(sampler) -> None:
  matrix = covariance()
  given = jnp.asarray(np.repeat(drawn(matrix), CLIPS, axis=0))
  distances = [
    np.sqrt(
      np.mean(
        (from_given(given, s, times=TIMES, eps_fn=process_eps(matrix), sampler=sampler) - given)
        ** 2
      )
    )
    for s in (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
  ]
  assert distances == sorted(distances)
  assert distances[0] < 0.05
  assert distances[-1] > 0.4


@pytest.mark.parametrize(("steps", "length"), [(STEPS, STEPS), (90, STEPS)])
def test_the_end_of_a_circle_meets_its_beginning(steps: int, length: int) -> None:
  matrix = covariance(length)
  hearing = lambda x_t, t, signals: process_eps(matrix)(x_t, t)  # noqa: E731
  round_ = editing.circular(hearing, {}, times=TIMES, length=length, multiple=6)
  noise_fn = lambda step: noise(step, steps=steps)  # noqa: E731
  settings = {"times": TIMES, "schedule": COSINE, "noise_fn": noise_fn}
  looped = DPMSolverPP2M()(round_, noise_fn(-1), **settings)
  join, elsewhere = jumps(looped, at=0)
  assert join < 1.5 * elsewhere
  open_ = DPMSolverPP2M()(process_eps(covariance(steps)), noise_fn(-1), **settings)
  join, elsewhere = jumps(open_, at=0)
  assert join > 5 * elsewhere


def test_what_a_clip_listens_to_turns_with_it() -> None:
  turns = set()

  def hearing(x_t, t, signals):
    assert x_t.shape[1] == 16
    jax.debug.callback(lambda first: turns.add(float(first)), signals["same"][0, 0, 0])
    slow = jnp.repeat(signals["slow"], 4, axis=1)
    return x_t + 10 * signals["same"] + 100 * slow

  same = jnp.arange(12.0)[None, :, None]
  slow = jnp.arange(3.0)[None, :, None]
  x = noise(steps=12, clips=1)
  times = UniformSteps(count=8).times(COSINE)
  eps_fn = editing.circular(
    hearing, {"same": same, "slow": slow}, times=times, length=16, multiple=4
  )
  wanted = x + 10 * same + 100 * jnp.repeat(slow, 4, axis=1)
  for t in times[:-1]:
    np.testing.assert_allclose(eps_fn(x, jnp.full(1, t, jnp.float32)), wanted, rtol=1e-6)
  jax.effects_barrier()
  assert turns == {0.0, 4.0, 8.0}
  with pytest.raises(ValueError, match="cannot be turned along"):
    editing.circular(hearing, {"same": same, "slow": slow[:, :1]}, times=times, length=16)(
      x, jnp.full(1, 0.5)
    )


def test_two_prompts_mixed_lead_between_them() -> None:
  """Of N(m1, v) and N(m2, v), the product with weights 1 - w and w is N((1-w) m1 + w m2, v)."""
  first, second = gaussian_eps(COSINE, -0.5, 0.01), gaussian_eps(COSINE, 0.5, 0.01)

  def made(weight):
    eps_fn = editing.mixed(first, second, weight=np.asarray(weight, np.float32))
    return np.asarray(DPMSolverPP2M()(eps_fn, noise(), times=TIMES, schedule=COSINE))[..., 0]

  assert made([0.25]).mean() == pytest.approx(-0.25, abs=0.01)
  assert made([0.25]).std() == pytest.approx(0.1, rel=0.1)
  along = made(np.linspace(0, 1, STEPS)).mean(axis=0)
  np.testing.assert_allclose(along, np.linspace(-0.5, 0.5, STEPS), atol=0.06)
  np.testing.assert_array_equal(
    editing.mixed(first, second, weight=np.zeros(1, np.float32))(noise(), jnp.full(CLIPS, 0.5)),
    first(noise(), jnp.full(CLIPS, 0.5)),
  )
