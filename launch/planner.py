"""Puts a plan together: the real train step and sampler of a run, counted and compiled."""

import dataclasses
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractDevice

from noise2music.batch import BatchSpec
from noise2music.checkpoints.leaves import named_leaves
from noise2music.errors import UserError
from noise2music.pipeline import MOST_SECONDS
from noise2music.planning.estimate import Fit
from noise2music.planning.plan import Plan, ProgramPlan, plan_program
from noise2music.planning.program import read_program
from noise2music.planning.topology import Topology, serving
from noise2music.planning.work import count_flops, residual_bytes
from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import AnyMesh, LogicalRules, replicated
from noise2music.stages.conditioning import Text
from noise2music.stages.generate import lower_sample, sample
from noise2music.stages.representations import Representation
from noise2music.stages.spec import Stage
from noise2music.training.loop import Training
from noise2music.training.setup import Setup, prepare

# In the words of the TPU compiler, when it finds no way to fit a program: what it needs, of what.
_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMGT])\)\D+\(([\d.]+)([KMGT])\)")
_ALL = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm")


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoData:
  """The shapes of a data set, and nothing in it."""

  local_spec: BatchSpec

  def batches(self, start_step: int = 0) -> Iterator[Any]:
    raise NotImplementedError("a plan reads no data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Planner:
  """clips, clip_seconds: what is sampled at once; no clips: training alone is planned. compile:
  False leaves the compiler alone.
  """

  topology: Topology
  clips: int
  clip_seconds: float
  compile: bool

  def __post_init__(self):
    if self.clips < 0 or not 0 < self.clip_seconds <= MOST_SECONDS:
      raise UserError(
        f"{self.clips} clips of {self.clip_seconds:g} s cannot be sampled: give numbers above 0 and"
        f" at most {MOST_SECONDS} s, or 0 clips to plan training alone"
      )

  def plan(self, training: Training) -> Plan:
    """Raises UserError where the batch or mesh does not fit."""
    training = self._on_slices(training)
    note = self.topology.why_not_compiled() if self.compile else "the arithmetic alone, as asked"
    compiling = note is None
    mesh = _mesh(training.mesh, self.topology, compiling=compiling)
    setup = prepare(training, training.batches.local_spec.shapes(), mesh=mesh)
    spec, stage = training.batches.local_spec, training.objective.stage
    slowest = min(signal.rate_hz for signal in (stage.target, *_sources(stage)))
    if self.clip_seconds * slowest < 1:
      raise UserError(
        f"a clip of {self.clip_seconds:g} s is shorter than a step of {stage.name}: plan one of at"
        f" least {1 / slowest:g} s (--clip_seconds)"
      )
    chips = self.topology.chips
    sample_on = serving(self.topology)
    parameters = _by_room(setup.shapes.params)
    return Plan(
      stage=stage.name,
      topology=self.topology.name,
      slices=self.topology.slices,
      chips=chips,
      hosts=self.topology.hosts,
      note=note,
      parameters=parameters,
      checkpoint_bytes=_bytes(setup.shapes.items()),
      input_bytes_per_step=_bytes(spec.shapes()) / self.topology.hosts,
      batch_size=spec.batch_size,
      seconds=spec.seconds,
      rows_per_chip=spec.batch_size / chips,
      total_steps=training.total_steps,
      train=self._train(training, setup, compiling=compiling),
      clips=self.clips,
      clip_seconds=self.clip_seconds,
      sample_chips=sample_on.chips,
      sampling_steps=stage.sampling.calls,
      sample=self._sample(training, setup, sample_on, compiling=compiling) if self.clips else None,
    )

  def sampling(self, training: Training) -> ProgramPlan:
    """Of a sampling step alone, compiled, on the part of the topology that serves."""
    mesh = _mesh(training.mesh, self.topology, compiling=True)
    setup = prepare(training, training.batches.local_spec.shapes(), mesh=mesh)
    return self._sample(training, setup, serving(self.topology), compiling=True)

  def _on_slices(self, training: Training) -> Training:
    """The mesh has as many slices as the topology."""
    slices = self.topology.slices
    if training.mesh.slice not in (1, slices):
      raise UserError(
        f"the mesh has {training.mesh.slice} slices and --slices is {slices}: give the same number"
      )
    return dataclasses.replace(training, mesh=dataclasses.replace(training.mesh, slice=slices))

  def _train(self, training: Training, setup: Setup, *, compiling: bool) -> ProgramPlan:
    state = setup.shapes
    state_bytes = _bytes_on_a_chip(state.items())
    key = jax.eval_shape(lambda: jax.random.key(0))
    batch = setup.batch
    with setup.activate():
      flops = count_flops(setup.step, state, batch, *setup.numbers)
      kept = residual_bytes(
        lambda params, k, b: training.objective.loss(params, b, k)[0], state.params, key, batch
      )
    return plan_program(
      chip=self.topology.chip,
      chips=self.topology.chips,
      clips=training.batches.local_spec.batch_size,
      flops=flops,
      state_bytes=state_bytes,
      activation_bytes=kept / self.topology.chips / training.accumulation,
      remedy=lambda room: _remedy(training, room, state_bytes, self.topology),
      **_compiled(setup.lower() if compiling else None, state_bytes=state_bytes),
    )

  def _sample(
    self, training: Training, setup: Setup, topology: Topology, *, compiling: bool
  ) -> ProgramPlan:
    shape, rules = MeshShape.sharing_out(self.clips, devices=topology.chips), LogicalRules()
    mesh = _mesh(shape, topology, compiling=compiling)
    params, arguments = _sample_request(
      training.objective,
      setup.shapes.params,
      rows=rules.batch_sharding(mesh),
      whole=replicated(mesh),
      clips=self.clips,
      seconds=self.clip_seconds,
    )
    stage = training.objective.stage
    steps = stage.sampling.calls
    arrays = {k: v for k, v in arguments.items() if k != "steps"}
    with rules.activate(mesh):
      flops = count_flops(
        lambda p, a: sample(stage, p, steps=arguments["steps"], **a), params, arrays
      )
      lowered = lower_sample(stage, params, **arguments) if compiling else None
    return plan_program(
      chip=self.topology.chip,
      chips=topology.chips,
      clips=self.clips,
      flops=flops / steps,
      state_bytes=_bytes_on_a_chip(params),
      loops=steps,
      remedy=lambda room: "sample fewer clips at once, or shorter ones (--clip_seconds)",
      **_compiled(lowered, state_bytes=_bytes_on_a_chip(params)),
    )


def _sources(stage: Stage) -> list[Representation]:
  return [condition.source for condition in stage.signals.values()]


def _mesh(shape: MeshShape, topology: Topology, *, compiling: bool) -> AnyMesh:
  """Over devices to compile for; for the arithmetic alone, over what such devices would be."""
  if compiling:
    return shape.build(topology.devices())
  chip = topology.chip
  kind = AbstractDevice(chip.name if chip else "cpu", num_cores=None, platform=topology.platform)
  return shape.abstract(topology.chips, kind=kind)


def _bytes_of(number: str, unit: str) -> float:
  return float(number) * 1024 ** (1 + "KMGT".index(unit))


def _remedy(training: Training, room: Fit, state_bytes: float, topology: Topology) -> str:
  """The parts in which the batch would fit, where any number of them does."""
  rows = training.batches.local_spec.batch_size // topology.chips
  left, kept = room.capacity_bytes - state_bytes, room.needed_bytes - state_bytes
  for parts in range(training.accumulation + 1, rows + 1):
    if rows % parts == 0 and kept * training.accumulation / parts < left:
      return f"work the batch through in parts (--gin.ACCUMULATION={parts}) or take more chips"
  return "take chips with more memory, or a smaller model"


def _sample_request(objective, params, *, rows, whole, clips: int, seconds: float):
  """(network's parameters, the other arguments of `sample`), as shapes with shardings: `rows` of
  what belongs to a clip, `whole` of what belongs to all.
  """
  shape = lambda s, d=jnp.float32: jax.ShapeDtypeStruct((clips, *s), d, sharding=rows)  # noqa: E731
  stage = objective.stage
  arguments = {
    "steps": max(1, round(seconds * stage.target.rate_hz)),
    "keys": shape((), jax.eval_shape(lambda: jax.random.key(0)).dtype),
    "signals": {
      name: shape((round(seconds * c.source.rate_hz), c.source.channels))
      for name, c in stage.signals.items()
    },
  }
  if stage.text is not None:
    tokens = stage.text.token_length
    width = objective.text_conditioner.encoder.config.width
    arguments["text"] = Text(
      embedding=shape((tokens, width)), mask=shape((tokens,), np.bool_), keep=shape((), np.bool_)
    )
  network = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), params["network"]
  )
  return network, arguments


def _compiled(lowered: Any, *, state_bytes: float) -> dict[str, Any]:
  """What `plan_program` takes of a compiled program, or of one for which a chip has too little
  memory; nothing where there is none to compile. state_bytes: a chip's share of the arguments.

  Raises UserError where the compiler lacks something else.
  """
  if lowered is None:
    return {}
  began = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    words = str(error)
    if "RESOURCE_EXHAUSTED" not in words:
      raise
    temporaries = _TEMPORARIES.search(words)
    figures = temporaries or _ALL.search(words)
    if figures is None:
      raise UserError(
        f"the compiler gave up ({words.splitlines()[0]}): plan with --no_compile, or for more chips"
      ) from error
    needed, available = (_bytes_of(*figures.group(k, k + 1)) for k in (1, 3))
    if temporaries:  # which the arguments come on top of
      needed += state_bytes
    return {"refused": Fit(needed_bytes=needed, capacity_bytes=available)}
  seconds = time.monotonic() - began
  return {"program": read_program(compiled), "compile_seconds": seconds}


def _by_room(params: Any) -> dict[str, int]:
  rooms: dict[str, int] = {}
  for path, leaf in named_leaves(params).items():
    room = "/".join(path.split("/")[:2]) if path.startswith("network/") else path.split("/")[0]
    rooms[room] = rooms.get(room, 0) + leaf.size
  return rooms


def _bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _bytes_on_a_chip(tree: Any) -> int:
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )
