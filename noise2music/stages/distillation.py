"""Teaching a stage to do in a few calls what it does in many.

The student is the same network and begins as a copy of its teacher, which is frozen and guided as
it samples best, so that guidance, negative branch and all, is folded into one call. Its own grid
has few steps, each of them one of DDIM:

  z_s = alpha_s x + sigma_s eps,   x, eps as it predicts them at z_t.

Where a step from z_t should end, the teacher says, z_s*. The x for which one DDIM step ends there,

  x* = (z_s* - (sigma_s / sigma_t) z_t) / (alpha_s - (sigma_s / sigma_t) alpha_t),

is what the student learns (Salimans and Ho, 2022, appendix G). The ways below differ in how they
come by z_s*.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from noise2music import typing as n2m
from noise2music.checkpoints.restore import restore_params
from noise2music.diffusion import gaussian
from noise2music.diffusion.time_steps import time_of_logsnr
from noise2music.errors import UserError
from noise2music.stages.conditioning import Text
from noise2music.stages.generate import denoiser, guided_denoiser
from noise2music.stages.spec import Sampling, Stage

TEACHER = "teacher"  # the room of its parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
  """A trained run of the same stage.

  model_dir: its folder. sampling: how it samples best. prediction: what its network predicts, where
  that differs from the student's.
  """

  model_dir: str
  sampling: Sampling
  prediction: Any = None

  def params(self) -> n2m.PyTree:
    """Those that the run averaged. Raises UserError where there is no run."""
    params, _, _ = restore_params(Path(self.model_dir))
    if "network" not in params:
      raise UserError(f"{self.model_dir} holds no stage of a cascade: give the MODEL_DIR of one")
    return params


@runtime_checkable
class Distillation(Protocol):
  """A way to come by the ends of the student's steps."""

  teacher: Teacher

  @property
  def points(self) -> int:
    """Into how many parts it cuts each of the student's steps."""

  def end(
    self, z_t: n2m.Signal, part: Int[n2m.Array, "batch"], *, walk: "Walk", student: n2m.EpsFn
  ) -> n2m.Signal:
    """Where the student's step should end from z_t, `part` parts away from its end."""

  def draw_part(self, key: n2m.Key) -> jax.Array:
    """How many parts away from its end the student is asked: 1 to `points`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progressive:
  """The teacher's own steps: `substeps` of DDIM in each of the student's.

  With 2 and a student of half the steps this is a round of progressive distillation (Salimans and
  Ho, 2022); with more, several rounds at once.
  """

  teacher: Teacher
  substeps: int = 2

  def __post_init__(self):
    if self.substeps < 2:
      raise UserError(
        f"a student learns from at least 2 substeps of its teacher, not {self.substeps}"
      )

  @property
  def points(self) -> int:
    return self.substeps

  def draw_part(self, key: n2m.Key) -> jax.Array:
    del key  # the student is asked at the start of its steps alone
    return jnp.int32(self.substeps)

  def end(
    self, z_t: n2m.Signal, part: Int[n2m.Array, "batch"], *, walk: "Walk", student: n2m.EpsFn
  ) -> n2m.Signal:
    del student
    return jax.lax.fori_loop(0, self.substeps, lambda done, z: walk.teach(z, part - done), z_t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consistency:
  """One step of the teacher, and then what the student itself makes of it.

  Wherever it is asked on the way of one of its steps, it should give the same end (multistep
  consistency models, Heek et al., 2024; with a student of one step, Song et al., 2023). The student
  that is believed is that of this moment, without gradient. One call of the teacher an update.

  parts: of each step, at which it is asked.
  """

  teacher: Teacher
  parts: int = 16

  def __post_init__(self):
    if self.parts < 2:
      raise UserError(f"consistency needs at least 2 parts of a step, not {self.parts}")

  @property
  def points(self) -> int:
    return self.parts

  def draw_part(self, key: n2m.Key) -> jax.Array:
    return jax.random.randint(key, (), 1, self.parts + 1)

  def end(
    self, z_t: n2m.Signal, part: Int[n2m.Array, "batch"], *, walk: "Walk", student: n2m.EpsFn
  ) -> n2m.Signal:
    nearer = walk.teach(z_t, part)
    at = part - 1
    arrived = gaussian.expand(at == 0, nearer)
    # At the end itself the student has nothing to say; asked a part away, its word is not used.
    at = jnp.maximum(at, 1)
    eps = jax.lax.stop_gradient(student(nearer, walk.time(at)))
    return jnp.where(arrived, nearer, walk.ddim(nearer, eps, of=at, to=jnp.zeros_like(at)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Walk:
  """The student's steps, cut into parts, each clip in one of them.

  times, alphas, sigmas: [steps, parts + 1] each, by the step and the parts to its end. step: of
  each clip. teacher_eps: guided.
  """

  times: np.ndarray
  alphas: np.ndarray
  sigmas: np.ndarray
  step: Int[n2m.Array, "batch"]
  teacher_eps: n2m.EpsFn

  def time(self, part: Int[n2m.Array, "batch"]) -> n2m.Level:
    return jnp.asarray(self.times, jnp.float32)[self.step, part]

  def levels(self, part: Int[n2m.Array, "batch"]) -> dict[str, n2m.Level]:
    """alpha and sigma of each clip, that many parts from the end of its step."""
    tables = {"alpha": self.alphas, "sigma": self.sigmas}
    return {name: jnp.asarray(t, jnp.float32)[self.step, part] for name, t in tables.items()}

  def ddim(
    self,
    z: n2m.Signal,
    eps: n2m.Signal,
    *,
    of: Int[n2m.Array, "batch"],
    to: Int[n2m.Array, "batch"],
  ) -> n2m.Signal:
    """One step of DDIM between two points of each clip's step."""
    here, there = self.levels(of), self.levels(to)
    ratio = there["alpha"] / here["alpha"]
    slope = there["sigma"] - ratio * here["sigma"]
    return gaussian.expand(ratio, z) * z + gaussian.expand(slope, z) * eps

  def teach(self, z: n2m.Signal, part: Int[n2m.Array, "batch"]) -> n2m.Signal:
    """One part nearer to the end, as the teacher goes."""
    return self.ddim(z, self.teacher_eps(z, self.time(part)), of=part, to=part - 1)

  def wanted_x(self, z_t: n2m.Signal, end: n2m.Signal, part: Int[n2m.Array, "batch"]) -> n2m.Signal:
    """x*: for which one step of DDIM from z_t comes to `end`."""
    here, there = self.levels(part), self.levels(jnp.zeros_like(part))
    ratio = there["sigma"] / here["sigma"]
    rest = there["alpha"] - ratio * here["alpha"]
    return (end - gaussian.expand(ratio, end) * z_t) / gaussian.expand(rest, end)


def lesson(
  distillation: Distillation,
  stage: Stage,
  params: n2m.PyTree,
  x: n2m.Signal,
  eps: n2m.Signal,
  *,
  keys: n2m.Keys,
  text: Text | None,
  signals: Mapping[str, n2m.OtherSignal],
) -> tuple[n2m.Level, n2m.Signal, n2m.Signal, n2m.Signal]:
  """t, z_t, and the x and eps that the student should find in it.

  params: the student's network and the teacher's. x, eps: clips and noise. keys: of each clip.
  text, signals: as `generate.denoiser` takes them.
  """
  teacher = distillation.teacher
  tables = walks(stage, distillation.points)
  step_keys, part_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
  step = jax.vmap(lambda k: jax.random.randint(k, (), 0, len(tables["times"])))(step_keys)
  part = jax.vmap(distillation.draw_part)(part_keys)
  prediction = teacher.prediction or stage.prediction
  teacher_eps = guided_denoiser(
    dataclasses.replace(stage, prediction=prediction),
    params[TEACHER],
    sampling=teacher.sampling,
    scale=teacher.sampling.guidance_scale,
    text=text,
    signals=signals,
    steps=x.shape[1],
  )
  walk = Walk(**tables, step=step, teacher_eps=teacher_eps)
  z_t = gaussian.diffuse(x, eps, **walk.levels(part))
  student = denoiser(stage, params["network"], text=text, signals=signals)
  end = distillation.end(z_t, part, walk=walk, student=student)
  wanted_x = jax.lax.stop_gradient(walk.wanted_x(z_t, end, part))
  levels = walk.levels(part)
  wanted_eps = z_t - gaussian.expand(levels["alpha"], z_t) * wanted_x
  return walk.time(part), z_t, wanted_x, wanted_eps / gaussian.expand(levels["sigma"], z_t)


def walks(stage: Stage, points: int) -> dict[str, np.ndarray]:
  """times, alphas and sigmas of a `Walk` over the steps that the stage samples in.

  Parts are equal in log-SNR. float64 on the host, where differences of equal levels are harmless.
  """
  schedule = stage.noise_schedule
  grid = stage.sampling.time_steps.times(schedule)
  logsnr = np.asarray(schedule.logsnr(grid))
  share = np.linspace(0, 1, points + 1)
  within = logsnr[1:, None] + share * (logsnr[:-1] - logsnr[1:])[:, None]
  times = time_of_logsnr(schedule, within)
  times[:, 0], times[:, -1] = grid[1:], grid[:-1]  # to the bit those that sampling asks
  alphas, sigmas = np.asarray(schedule.alpha(times)), np.asarray(schedule.sigma(times))
  return {"times": times, "alphas": alphas, "sigmas": sigmas}
