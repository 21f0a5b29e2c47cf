"""The state of a training run, and how it is split between trained and frozen parameters."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from noise2music.checkpoints.leaves import named_leaves, with_leaves
from noise2music.checkpoints.restore import EMA, PARAMS
from noise2music.training.optimizer import Optimizer
from noise2music.typing import PyTree

OPTIMIZER = "optimizer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
  """step: int32 [], updates done. params: all of them. ema: the average of the trained ones, None
  where the frozen ones are (and as a whole where it is switched off). opt_state: of the trained
  ones alone.
  """

  step: PyTree  # like the rest, of whatever jax maps a tree to: shapes, shardings
  params: PyTree
  ema: PyTree
  opt_state: PyTree

  @property
  def averaged_params(self) -> PyTree:
    """What to generate with: the average, completed by the frozen parameters."""
    return self.params if self.ema is None else merge(self.ema, self.params)

  def items(self) -> dict[str, PyTree]:
    """The state as checkpoint items; the step is the checkpoint's own number."""
    items = {PARAMS: self.params, OPTIMIZER: self.opt_state}
    return items if self.ema is None else {**items, EMA: self.ema}

  def with_items(self, items: Mapping[str, PyTree], *, step: int) -> "TrainState":
    """The inverse of `items`; self may hold shapes only."""
    return TrainState(
      step=jax.device_put(jnp.int32(step), self.step.sharding),
      params=items[PARAMS],
      ema=items.get(EMA),
      opt_state=items[OPTIMIZER],
    )


jax.tree_util.register_dataclass(TrainState, ["step", "params", "ema", "opt_state"], [])


def initial_state(params: PyTree, *, mask: PyTree, optimizer: Optimizer) -> TrainState:
  """A TrainState before the first update.

  mask: a tree of booleans like `params`, True where they are trained.
  """
  trained, _ = split(params, mask)
  return TrainState(
    step=jnp.int32(0),
    params=params,
    # A copy: the same buffer must not be donated twice.
    ema=None if optimizer.ema is None else jax.tree.map(jnp.copy, trained),
    # How long the run is makes no difference to its beginning.
    opt_state=optimizer.transformation(1).init(trained),
  )


def split(params: PyTree, mask: PyTree) -> tuple[PyTree, PyTree]:
  """(trained, frozen): two trees with the paths of `params` and None where the other has a leaf.

  None is an empty tree to jax, so gradients, Adam's moments and the average exist for the trained
  parameters only, under their own names.
  """
  trained = jax.tree.map(lambda p, m: p if m else None, params, mask)
  frozen = jax.tree.map(lambda p, m: None if m else p, params, mask)
  return trained, frozen


def merge(first: PyTree, second: PyTree) -> PyTree:
  """The leaves of `first`, and those of `second` where `first` has None."""
  return jax.tree.map(
    lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None
  )


def state_shardings(
  state: TrainState, params: PyTree, *, optimizer: PyTree, default: jax.sharding.Sharding
) -> TrainState:
  """Shardings of a whole state.

  Args:
    state: shapes (`jax.eval_shape` of `initial_state`).
    params: the parameters' shardings.
    optimizer: those of each parameter's moments and average, as a tree of the parameters.
    default: of everything else (counters).
  """
  shapes = named_leaves(state.params)
  known = {path: (shapes[path].shape, s) for path, s in named_leaves(optimizer).items()}

  def find(path: str, leaf) -> jax.sharding.Sharding:
    # "0/mu/network/down/kernel" belongs to "network/down/kernel".
    parts = path.split("/")
    tails = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((known[t][1] for t in tails if t in known and known[t][0] == leaf.shape), default)

  found = with_leaves(state, {path: find(path, leaf) for path, leaf in named_leaves(state).items()})
  return dataclasses.replace(found, params=params)
