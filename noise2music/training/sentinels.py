"""Watches a run's own figures, and says in plain words, once each, what is going wrong in it."""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from noise2music.audio.sound_check import sound_check
from noise2music.training.state import TrainState
from noise2music.training.writers import Audio

CHANCE = "chance"  # of an objective's metrics: the loss of a network that has learnt nothing
TEXT_DROPPED = "text_dropped"  # the share of rows whose text was dropped, for guidance
_PATIENCE = 500  # steps before a loss at chance is one that is stuck
_ROWS = 5  # in a row that must show the same
_SETTLED = 100  # steps from which the average of the weights should be near them
_FAR = 0.3  # of the weights' norm, from which the average is far from them


class Sentinels:
  """dropout: the share of texts that should be dropped; None: the run has no texts. start_step:
  where this process goes on.
  """

  def __init__(self, *, dropout: float | None, start_step: int):
    self._dropout, self._start = dropout, start_step
    self._rows: dict[str, int] = {}
    self._told: set[str] = set()
    self._distance = jax.jit(_distance)

  def of_row(self, step: int, row: Mapping[str, float]) -> Iterator[str]:
    """Warnings that follow from a line of the log."""
    loss, chance = row.get("loss"), row.get(CHANCE)
    if None not in (loss, chance) and step >= self._start + _PATIENCE:
      yield from self._persisting(
        "chance",
        loss > 0.98 * chance,
        f"the loss, {loss:.3f} at step {step}, is still that of knowing nothing ({chance:.3f}):"
        " raise the learning rate, and look at the data with `n2m data check`",
      )
    if (share := row.get(TEXT_DROPPED)) is not None and self._dropout is not None:
      wanted = f"{self._dropout:.0%} of the texts should be dropped for guidance"
      yield from self._persisting(
        "dropout",
        0 < self._dropout < 1 and share in (0, 1),
        f"{wanted}, and {'none' if share == 0 else 'all'} were: guidance will not work",
      )
      if self._dropout == 0:
        yield from self._once("dropout", "no text is ever dropped: guidance will not work")

  def of_average(self, step: int, state: TrainState) -> Iterator[str]:
    """Warnings about the average of the weights, None where there is none; a pass over both."""
    if state.ema is None or "average" in self._told or step < _SETTLED:
      return
    if (distance := float(self._distance(state.ema, state.params))) > _FAR:
      yield from self._once(
        "average",
        f"the average of the weights lies {distance:.0%} of their size away from them after"
        f" {step} steps: samples are drawn with it; lower EMA_DECAY, or train longer",
      )

  def _persisting(self, name: str, wrong: bool, sentence: str) -> Iterator[str]:
    self._rows[name] = self._rows.get(name, 0) + 1 if wrong else 0
    if self._rows[name] >= _ROWS:
      yield from self._once(name, sentence)

  def _once(self, name: str, sentence: str) -> Iterator[str]:
    if name not in self._told:
      self._told.add(name)
      yield f"warning: {sentence}"


def of_samples(step: int, audio: Audio) -> Iterator[str]:
  """Warnings about clips that were sampled; `real` ones beside them are left alone."""
  found: dict[str, list[str]] = {}
  sampled = {name: clip for name, (clip, _) in audio.items() if not name.startswith("real")}
  for name, clip in sampled.items():
    for problem in sound_check(np.asarray(clip)).problems if len(clip) >= 1024 else ():
      found.setdefault(problem, []).append(name)
  for problem in ("silent", "clipped"):
    if sampled and len(found.get(problem, ())) == len(sampled):
      yield f"all samples of step {step} are {problem}"


def _distance(average, params) -> jax.Array:
  """|average - params| / |params| over the leaves of the average, which lacks the frozen ones."""
  pairs = jax.tree.map(
    lambda a, p: None if a is None else (a, p), average, params, is_leaf=lambda x: x is None
  )
  apart = total = jnp.float32(0)
  for a, p in jax.tree.leaves(pairs, is_leaf=lambda x: isinstance(x, tuple)):
    apart += jnp.sum((a - p).astype(jnp.float32) ** 2)
    total += jnp.sum(p.astype(jnp.float32) ** 2)
  return jnp.sqrt(apart / jnp.maximum(total, 1e-30))
