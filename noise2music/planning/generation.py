"""What a request for music costs, before it runs: calls of the network, operations, memory.

The programs are those that will run: compiled once, here, and found again when they do. Time is not
guessed: `Pace` knows it from the stages that have run.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noise2music import typing as n2m
from noise2music.errors import UserError
from noise2music.planning.work import count_flops
from noise2music.stages.cascade import Cascade
from noise2music.stages.conditioning import Text
from noise2music.stages.generate import clip_keys, lower_sample, sample
from noise2music.stages.objective import TEXT_ENCODER, DenoisingObjective
from noise2music.stages.spec import Sampling

MEGA, TERA = 1e6, 1e12


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagePlan:
  """One stage of a request.

  batches: one after the other, of `clips` at once. seconds: of a clip. steps: of sampling. windows:
  of a clip; 1 is the whole. calls: of the network, in all. weight_bytes: of network and text
  encoder, as they are kept. peak_bytes: of the network's program on a device, its weights among
  them, by the compiler's count; None where nothing was compiled. flops: in all.
  """

  stage: str
  batches: int
  clips: int
  seconds: float
  steps: int
  windows: int
  calls: int
  weight_bytes: int
  peak_bytes: int | None
  flops: float

  def __str__(self) -> str:
    peak = "" if self.peak_bytes is None else f", {self.peak_bytes / MEGA:,.0f} MB at its peak"
    windows = f", {self.windows} windows a clip" if self.windows > 1 else ""
    return (
      f"{self.stage}: {self.batches} x {self.clips} clips of {self.seconds:g} s, {self.steps}"
      f" steps{windows}, {self.calls:,} calls of the network, {self.flops / TERA:,.2f} TFLOP,"
      f" {self.weight_bytes / MEGA:,.0f} MB of weights{peak}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationPlan:
  """The stages of a request, in the order in which they run."""

  stages: tuple[StagePlan, ...]

  def __str__(self) -> str:
    return "\n".join(map(str, self.stages))

  @property
  def flops(self) -> float:
    return sum(stage.flops for stage in self.stages)


class Pace:
  """Time to go, from the operations that have been done in the time that has passed.

  Nothing is known before the first batch is through. Stages differ in how many operations they do
  in a second, so figures across stages are rough.
  """

  def __init__(self, plan: GenerationPlan, *, clock=time.monotonic):
    self._plan, self._clock = plan, clock
    self._began: float | None = None

  def seconds_left(self, stage: str, first: int) -> float | None:
    """At the start of the batch of `stage` that begins with clip `first`."""
    now = self._clock()
    if self._began is None:
      self._began = now
    names = [each.stage for each in self._plan.stages]
    at = self._plan.stages[names.index(stage)]
    done = sum(each.flops for each in self._plan.stages[: names.index(stage)])
    done += at.flops * (first // at.clips) / at.batches
    if done == 0:
      return None
    return (now - self._began) * (self._plan.flops - done) / done


def plan_generation(
  cascade: Cascade,
  params: Sequence[n2m.PyTree],
  *,
  prompts: int,
  seconds: float,
  batch_size: int,
  sampling: Mapping[str, Sampling],
  negative: bool,
  compiled: bool,
) -> GenerationPlan:
  """sampling: of every stage. negative: whether there is a negative prompt. compiled: whether the
  compiler is asked for the peak of memory, which takes the time that the request would take for it
  later, and fails where a program does not fit.
  """
  return GenerationPlan(
    stages=tuple(
      _plan_stage(
        objective,
        tree,
        prompts=prompts,
        seconds=seconds,
        batch_size=batch_size,
        sampling=sampling[objective.stage.name],
        negative=negative,
        compiled=compiled,
      )
      for objective, tree in zip(cascade.objectives, params, strict=True)
    )
  )


def _plan_stage(
  objective: DenoisingObjective,
  tree: n2m.PyTree,
  *,
  prompts: int,
  seconds: float,
  batch_size: int,
  sampling: Sampling,
  negative: bool,
  compiled: bool,
) -> StagePlan:
  stage = objective.stage
  length = lambda rate: max(1, round(seconds * rate))  # noqa: E731
  zeros = lambda *shape: np.zeros((batch_size, *shape), np.float32)  # noqa: E731
  text = _text(objective, tree, clips=batch_size)
  guided = sampling.guidance_scale != 1
  arrays: dict[str, Any] = {
    "keys": clip_keys(range(batch_size), stage_name=stage.name),
    "text": text,
    "negative_text": text if negative and guided else None,
    "signals": {
      name: zeros(length(c.source.rate_hz), c.source.channels) for name, c in stage.signals.items()
    },
  }
  fixed = {"steps": length(stage.target.rate_hz), "sampling": sampling}
  run = lambda p, a: sample(stage, p, **fixed, **a)  # noqa: E731
  flops = count_flops(run, tree["network"], arrays)
  steps = len(sampling.time_steps.times(stage.noise_schedule)) - 1
  windows = sampling.windows and sampling.windows.on(stage, steps=fixed["steps"])
  batches = -(-prompts // batch_size)
  peak = None
  if compiled:
    memory = lower_sample(stage, tree["network"], **fixed, **arrays).compile().memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes
    peak += memory.temp_size_in_bytes - memory.alias_size_in_bytes
  return StagePlan(
    stage=stage.name,
    batches=batches,
    clips=batch_size,
    seconds=seconds,
    steps=steps,
    windows=len(windows.starts) if windows else 1,
    calls=batches * sampling.calls * (1 + guided) * (windows.calls if windows else 1),
    weight_bytes=sum(leaf.nbytes for leaf in jax.tree.leaves(tree)),
    peak_bytes=peak,
    flops=batches * flops,
  )


def _text(objective: DenoisingObjective, tree: n2m.PyTree, *, clips: int) -> Text | None:
  """As the stage's encoder makes it of prompts, of zeros; None where it takes none."""
  if objective.text_conditioner is None:
    return None
  if TEXT_ENCODER not in tree:
    raise UserError(
      f"stage {objective.stage.name} has no text encoder beside its network: load it by"
      " Pipeline.from_pretrained, which adds the one its config names"
    )
  encoder = tree[TEXT_ENCODER]
  tokens, mask = (np.zeros((clips, objective.stage.text.token_length), d) for d in (np.int32, bool))
  keep = np.ones(clips, bool)
  embed = lambda e: objective.text_conditioner.text(e, tokens, mask, keep=keep).embedding  # noqa: E731
  made = jax.eval_shape(embed, encoder)
  # Where the encoder is kept on a device its results are too, which is part of a program's name.
  sharding = getattr(jax.tree.leaves(encoder)[0], "sharding", None)
  embedding = jax.device_put(np.zeros(made.shape, made.dtype), sharding)
  return Text(embedding=embedding, mask=jnp.asarray(mask), keep=jnp.asarray(keep))
