"""Everything between a `Training` and its first step: shapes, shardings, the compiled update."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from noise2music.checkpoints.leaves import describe, named_leaves, nested, with_leaves
from noise2music.checkpoints.manager import check_same_model
from noise2music.errors import UserError
from noise2music.sharding.rules import AnyMesh, replicated, unbox
from noise2music.training.state import TrainState, initial_state, split, state_shardings
from noise2music.training.step import make_step
from noise2music.typing import Batch, Objective, PyTree

# Folded into the run's key for the initial parameters; no step number comes near it.
_INIT = 0x696E6974


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
  """shapes: the state as jax.ShapeDtypeStruct with shardings. mask: which parameters train.

  batch: shapes of the global batch, with shardings. step: what make_step returned, jitted.
  """

  mesh: AnyMesh
  shapes: TrainState
  mask: PyTree
  batch: dict[str, jax.ShapeDtypeStruct]
  total_steps: int
  step: Any
  fresh: Callable[[], TrainState]
  activate: Callable

  def lower(self) -> jax.stages.Lowered:
    """The update traced for this mesh, whose devices need not exist."""
    with self.activate():
      return self.step.lower(self.shapes, self.batch, *self.numbers)

  @property
  def numbers(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes of the last two arguments of `step`."""
    return (jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(self.mesh)),) * 2

  def compile(self) -> Callable[[TrainState, Batch, int], tuple[TrainState, Any]]:
    """The update as a program for this mesh; minutes for a large model, cached on disk."""
    program = self.lower().compile()
    number = lambda n: jax.device_put(np.int32(n), replicated(self.mesh))  # noqa: E731
    total_steps = number(self.total_steps)
    return lambda state, batch, turn: program(state, batch, total_steps, number(turn))

  def put(self, batch: Batch) -> dict[str, jax.Array]:
    """This host's part of the batch -> the global batch on the devices.

    Raises:
      UserError: the source gave something else than its first batch promised.
    """
    out = {}
    for name, want in self.batch.items():
      have = batch.get(name)
      local = (want.shape[0] // jax.process_count(), *want.shape[1:])
      if have is None or have.shape != local or have.dtype != want.dtype:
        found = "nothing" if have is None else f"{have.dtype}{list(have.shape)}"
        raise UserError(
          f"batch[{name!r}] is {found}, the run began with {want.dtype}{list(local)}: "
          "every batch of a source must have the same shapes"
        )
      out[name] = jax.make_array_from_process_local_data(want.sharding, np.asarray(have))
    return out


def prepare(training, batch: Batch, *, mesh: AnyMesh | None = None) -> Setup:
  """Builds a Setup without touching an array of the model.

  Args:
    training: a `loop.Training`.
    batch: one batch of this host, for its shapes.
    mesh: in place of one over all devices that there are.
  """
  mesh = training.mesh.build() if mesh is None else mesh
  rules, objective = training.rules, training.objective
  _check_batch(_rows(batch), shards=rules.batch_shards(mesh), parts=training.accumulation)
  _check_parts(objective, parts=training.accumulation)
  key = jax.random.fold_in(jax.random.key(training.seed), _INIT)
  sharding = rules.batch_sharding(mesh)
  example = {k: jax.ShapeDtypeStruct(np.shape(v), np.asarray(v).dtype) for k, v in batch.items()}

  boxed = jax.eval_shape(objective.init, key, example)
  params = unbox(boxed)
  param_shardings = rules.shardings(boxed, mesh=mesh)
  mask = jax.tree.map(bool, objective.trainable(params))
  if not any(jax.tree.leaves(mask)):
    raise UserError("the objective trains no parameter at all: switch at least one part on")

  def state_of(params: PyTree) -> TrainState:
    return initial_state(params, mask=mask, optimizer=training.optimizer)

  shapes = jax.eval_shape(state_of, params)
  of_optimizer = jax.tree.map(
    lambda s, leaf: rules.of_optimizer(s, shape=leaf.shape), param_shardings, params
  )
  shardings = state_shardings(
    shapes, param_shardings, optimizer=of_optimizer, default=replicated(mesh)
  )

  def fresh() -> TrainState:
    with rules.activate(mesh):
      values = _fresh_params(objective, key, example, shardings=param_shardings)
      return jax.jit(state_of, out_shardings=shardings, donate_argnums=0)(values)

  step = jax.jit(
    make_step(
      objective,
      optimizer=training.optimizer,
      mask=mask,
      seed=training.seed,
      accumulation=training.accumulation,
      shardings=split(of_optimizer, mask)[0],
    ),
    out_shardings=(shardings, replicated(mesh)),
    donate_argnums=0,
  )
  return Setup(
    mesh=mesh,
    shapes=jax.tree.map(_with_sharding, shapes, shardings),
    mask=mask,
    batch={k: _global(s, sharding) for k, s in example.items()},
    total_steps=training.total_steps,
    step=step,
    fresh=fresh,
    activate=lambda: rules.activate(mesh),
  )


def _fresh_params(objective: Objective, key, example: Mapping, *, shardings: PyTree) -> PyTree:
  """Of a run that begins; from a text encoder's checkpoint where the objective names one."""
  made = jax.jit(lambda k, b: unbox(objective.init(k, b)), out_shardings=shardings)
  # Values may matter to an initialiser that looks at masks; silence is a batch like any other.
  values = made(key, {k: jnp.zeros(s.shape, s.dtype) for k, s in example.items()})
  if not hasattr(objective, "pretrained"):
    return values
  return jax.device_put(_fitting(objective.pretrained(values), values), shardings)


def _fitting(loaded: PyTree, params: PyTree) -> PyTree:
  """Parameters from elsewhere in the run's dtypes; UserError naming the first that does not fit."""
  want = named_leaves(params)
  leaves = named_leaves(unbox(loaded))
  cast = nested(
    {p: jnp.asarray(x, want[p].dtype if p in want else None) for p, x in leaves.items()}
  )
  check_same_model(describe(cast), describe(params), where="pretrained")
  return with_leaves(params, named_leaves(cast))


def _with_sharding(s, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding)


def _global(s, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(
    (s.shape[0] * jax.process_count(), *s.shape[1:]), s.dtype, sharding=sharding
  )


def _rows(batch: Batch) -> int:
  """Of the global batch."""
  rows = {name: len(array) for name, array in batch.items()}
  if len(set(rows.values())) != 1:
    raise UserError(f"the arrays of a batch have {rows} rows: every source gives as many of each")
  return next(iter(rows.values())) * jax.process_count()


def _check_parts(objective: Objective, *, parts: int) -> None:
  if parts > 1 and getattr(objective, "compares_rows", False):
    raise UserError(
      f"a {type(objective).__name__} compares all clips of a batch, which {parts} parts would keep"
      " apart: set ACCUMULATION to 1, and take a smaller batch or more devices"
    )


def _check_batch(size: int, *, shards: int, parts: int) -> None:
  """Raises UserError where a batch of `size` cannot be split among devices and parts."""
  if size % (shards * parts):
    raise UserError(
      f"a batch of {size} does not divide into {parts} part(s) on each of {shards} device(s): "
      f"choose a multiple of {shards * parts}"
    )
