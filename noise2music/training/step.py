"""One update as a pure function: loss, gradient, clip, Adam, average.

Randomness is fold_in(key(seed), step), a function of names: no generator state is carried, so a
restart draws what an uninterrupted run draws.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from noise2music.nn.platform import platform
from noise2music.training.optimizer import Optimizer
from noise2music.training.state import TrainState, merge, split
from noise2music.typing import Batch, Objective, PyTree

# Scalars are averaged over a logging window; (sum, count) pairs are added up before they are
# divided, so that no figure is a mean of means.
Metrics = Mapping[str, Any]
StepFn = Callable[[TrainState, Batch, jax.Array, jax.Array], tuple[TrainState, Metrics]]


def make_step(
  objective: Objective,
  *,
  optimizer: Optimizer,
  mask: PyTree,
  seed: int,
  accumulation: int = 1,
  shardings: PyTree = None,
) -> StepFn:
  """(state, batch, total_steps, turn) -> (state after one update, metrics), to be jitted with the
  state donated. total_steps is where the learning rate ends, unless the optimizer says otherwise;
  being data, it leaves the compiled program the same for a run of any length. turn: the step that
  this update is.

  Args:
    objective: its `loss` must take all randomness from (key, the clip's id): with accumulation
      every part of the batch is given the same key.
    mask: what `objective.trainable` returned.
    accumulation: parts in which the batch is worked through, one after the other; the update is
      that of the whole batch.
    shardings: of each trained parameter's gradient and update; None: as the compiler likes it.

  An update whose loss or gradient is not finite is not made, nor is one whose turn it is not: the
  state keeps its values and its step. The metric `made` says so.
  """

  def step(state: TrainState, batch: Batch, total_steps, turn) -> tuple[TrainState, Metrics]:
    transformation = optimizer.transformation(total_steps)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    trained, frozen = split(state.params, mask)
    gradient = lambda part: _gradient(objective, trained, frozen, part, key)  # noqa: E731
    if accumulation == 1:
      grads, metrics = gradient(batch)
    else:
      grads, metrics = _accumulate(gradient, batch, parts=accumulation)

    if shardings is not None:
      grads = jax.lax.with_sharding_constraint(grads, shardings)
    norm = optax.global_norm(grads)
    made = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"]) & (state.step == turn)

    def updated(state: TrainState) -> TrainState:
      updates, opt_state = transformation.update(grads, state.opt_state, trained)
      new = optax.apply_updates(trained, updates)
      ema = None
      if optimizer.ema is not None:
        ema = optimizer.ema.update(state.ema, new, step=state.step)
      params = merge(new, frozen)
      return TrainState(step=state.step, params=params, ema=ema, opt_state=opt_state)

    new = _where(made, updated, state)
    metrics = {
      **metrics,
      "gradient_norm": norm,
      "learning_rate": optimizer.schedule(total_steps)(state.step),
      "made": made,
    }
    return TrainState(**{**vars(new), "step": state.step + made}), metrics

  return step


def _where(made: jax.Array, update: Callable, state: TrainState) -> TrainState:
  """update(state) where it is made, else state."""
  if platform() == "cpu":  # on which selecting leaf by leaf costs more than the update itself
    return jax.lax.cond(made, update, lambda state: state, state)
  return jax.tree.map(lambda new, old: jnp.where(made, new, old), update(state), state)


def _gradient(
  objective: Objective, trained: PyTree, frozen: PyTree, batch: Batch, key: jax.Array
) -> tuple[PyTree, Metrics]:
  def loss(trained):
    return objective.loss(merge(trained, frozen), batch, key)

  (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(trained)
  return grads, {**aux, "loss": value}


def _accumulate(gradient, batch: Batch, *, parts: int) -> tuple[PyTree, Metrics]:
  """Mean gradient and metrics over `parts` equal parts of the batch, in one scan."""

  def divide(x):
    # Rows j, j + parts, ...: every device keeps its own rows, no part sits on one device alone.
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)

  divided = jax.tree.map(divide, dict(batch))
  shape = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], divided))
  zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape[0])

  def one(total, part):
    grads, metrics = gradient(part)
    return jax.tree.map(jnp.add, total, grads), metrics

  # Gradients inside a loop are many times slower than unrolled ones on a CPU.
  unroll = parts if platform() == "cpu" else 1
  total, stacked = jax.lax.scan(one, zero, divided, unroll=unroll)
  metrics = {
    name: tuple(jnp.sum(x, axis=0) for x in value)
    if isinstance(value, tuple)
    else jnp.mean(value, axis=0)
    for name, value in stacked.items()
  }
  return jax.tree.map(lambda g: g / parts, total), metrics
