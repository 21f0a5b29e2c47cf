import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from noise2music.diffusion import gaussian
from noise2music.diffusion.gaussian import EpsPrediction
from noise2music.diffusion.samplers import DDIM
from noise2music.diffusion.time_steps import UniformLogSnrSteps
from noise2music.errors import UserError
from noise2music.sharding.rules import unbox
from noise2music.stages.distillation import TEACHER, Consistency, Progressive, Teacher, Walk, walks
from noise2music.stages.generate import clip_keys, sample
from noise2music.stages.spec import Sampling

KEY = jax.random.key(0)
GRID = UniformLogSnrSteps(count=4, inner=(-4.0, 4.0))
TEACHER_OF = Teacher(model_dir="run", sampling=Sampling(sampler=DDIM()))

pytestmark = pytest.mark.usefixtures("light_compilation")


def stage(**sampling):
  of = tiny.objective("super_resolution").stage
  how = Sampling(time_steps=GRID, sampler=DDIM(), clip_percentile=None, **sampling)
  return dataclasses.replace(of, sampling=how)


def walk_of(eps_fn, points, *, step):
  return Walk(**walks(stage(), points), step=jnp.asarray(step), teacher_eps=eps_fn)


def gaussian_eps(x_t, t):
  """Exact, of data of mean 0.3 and variance 0.25."""
  schedule = stage().noise_schedule
  alpha, sigma = (gaussian.expand(f(t), x_t) for f in (schedule.alpha, schedule.sigma))
  return sigma * (x_t - alpha * 0.3) / (alpha**2 * 0.25 + sigma**2)


def test_parts_lie_within_the_steps_that_sampling_takes():
  tables, grid = walks(stage(), 8), GRID.times(stage().noise_schedule)
  assert tables["times"].shape == (4, 9)
  np.testing.assert_array_equal(tables["times"][:, 0], grid[1:])
  np.testing.assert_array_equal(tables["times"][:, -1], grid[:-1])
  assert (np.diff(tables["times"], axis=1) > 0).all()


@pytest.mark.parametrize("part", [1, 3, 8])
def test_one_step_with_the_wanted_x_ends_where_it_should(part):
  z, end = jax.random.normal(KEY, (2, 4, 16, 1))
  walk = walk_of(gaussian_eps, 8, step=[0, 1, 2, 3])
  part = jnp.full(4, part)
  x = walk.wanted_x(z, end, part)
  levels = walk.levels(part)
  eps = (z - gaussian.expand(levels["alpha"], z) * x) / gaussian.expand(levels["sigma"], z)
  np.testing.assert_allclose(
    walk.ddim(z, eps, of=part, to=jnp.zeros_like(part)), end, rtol=1e-3, atol=2e-3
  )


def test_progressive_ends_where_the_teacher_walks():
  z = jax.random.normal(KEY, (4, 16, 1))
  step, schedule = [0, 1, 2, 3], stage().noise_schedule
  way = Progressive(teacher=TEACHER_OF, substeps=5)
  walk = walk_of(gaussian_eps, way.points, step=step)
  end = way.end(
    z, jax.vmap(way.draw_part)(jax.random.split(KEY, 4)), walk=walk, student=gaussian_eps
  )
  for clip in step:
    times = walks(stage(), 5)["times"][clip][::-1]
    want = DDIM()(gaussian_eps, z[clip : clip + 1], times=times, schedule=schedule)
    np.testing.assert_allclose(end[clip], want[0], rtol=2e-4, atol=2e-4)


def test_consistency_takes_one_step_of_the_teacher_and_the_students_word_for_the_rest():
  z, asked = jax.random.normal(KEY, (4, 16, 1)), []

  def student(x_t, t):
    asked.append(t)
    return gaussian_eps(x_t, t)

  way = Consistency(teacher=TEACHER_OF, parts=4)
  walk = walk_of(gaussian_eps, way.points, step=[1, 1, 1, 1])
  parts = jnp.array([1, 2, 3, 4])
  end = way.end(z, parts, walk=walk, student=student)
  near = walk.teach(z, parts)
  np.testing.assert_array_equal(end[0], near[0])  # it has arrived
  np.testing.assert_allclose(asked[0][1:], walk.time(parts - 1)[1:])
  there = walk.ddim(near, gaussian_eps(near, walk.time(parts - 1)), of=parts - 1, to=parts * 0)
  np.testing.assert_allclose(end[1:], there[1:], rtol=1e-5)
  drawn = jax.vmap(way.draw_part)(jax.random.split(KEY, 200))
  assert set(np.asarray(drawn).tolist()) == {1, 2, 3, 4}


def _like_a_trained_one(params):
  """Off from where it began, so that its eps changes over time."""
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(KEY, len(leaves))
  return jax.tree.unflatten(
    tree, [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
  )


@pytest.mark.parametrize(
  "way",
  [
    functools.partial(Consistency, parts=4),
    pytest.param(functools.partial(Progressive, substeps=4), marks=pytest.mark.slow),
  ],
)
def test_a_student_of_two_steps_comes_nearer_to_its_teachers_clips(way):
  """Floor: the teacher in two steps, unguided. What is learnt takes a quarter off its distance."""
  many = Sampling(
    time_steps=UniformLogSnrSteps(count=8), sampler=DDIM(), clip_percentile=None,
    guidance_scale=3.0,
  )  # fmt: skip
  few = dataclasses.replace(many, time_steps=UniformLogSnrSteps(count=2), guidance_scale=1.0)
  objective = tiny.objective("waveform_generator", sampling=few)
  objective = dataclasses.replace(
    objective, distillation=way(teacher=Teacher(model_dir="run", sampling=many))
  )
  batch = tiny.batch(4)
  params = unbox(objective.init(KEY, batch))
  params["network"] = _like_a_trained_one(params["network"])
  params = {**params, TEACHER: jax.tree.map(jnp.array, params["network"])}
  text = objective.text(params, batch, keep=np.ones(4, bool))
  keys = clip_keys(range(4), stage_name="s")
  clip = lambda tree, how: np.asarray(  # noqa: E731
    sample(objective.stage, tree, keys=keys, steps=128, text=text, sampling=how)
  )
  optimizer = optax.adam(5e-3)
  mask = objective.trainable(params)
  assert not any(jax.tree.leaves({k: v for k, v in mask.items() if k != "network"}))

  @jax.jit
  def step(params, state, key):
    def loss(network):
      return objective.loss({**params, "network": network}, batch, key)[0]

    gradient = jax.grad(loss)(params["network"])
    updates, state = optimizer.update(gradient, state)
    return {**params, "network": optax.apply_updates(params["network"], updates)}, state

  state, taught = optimizer.init(params["network"]), params
  for index in range(100):
    taught, state = step(taught, state, jax.random.fold_in(KEY, index))
  want = clip(params[TEACHER], many)
  off = lambda tree: np.sqrt(np.mean((clip(tree, few) - want) ** 2))  # noqa: E731
  assert off(taught["network"]) < 0.75 * off(params["network"])


def test_what_cannot_be_taught_is_refused(tmp_path):
  objective = tiny.objective("super_resolution")
  way = Progressive(teacher=TEACHER_OF)
  with pytest.raises(UserError, match="cannot predict eps"):
    dataclasses.replace(
      objective,
      stage=dataclasses.replace(objective.stage, prediction=EpsPrediction()),
      distillation=way,
    )
  with pytest.raises(UserError, match="at least 2 substeps"):
    Progressive(teacher=TEACHER_OF, substeps=1)
  with pytest.raises(UserError, match="at least 2 parts"):
    Consistency(teacher=TEACHER_OF, parts=1)
  nowhere = dataclasses.replace(TEACHER_OF, model_dir=str(tmp_path / "none"))
  with pytest.raises(UserError, match="no checkpoint"):
    nowhere.params()
