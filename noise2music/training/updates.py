"""Updates in their order, each made once or left out for good, the host a few ahead of the device.

An update whose loss or gradient is not finite is not made, and neither are those dispatched after
it: on the device each waits for its turn (`step.make_step`). So the state is still the one before
it when the host hears of it, and the same update can be tried again: a fault of the machine is gone
then, and the run goes on as if nothing had been. One that fails twice is left out, on every host
alike, since all see the same global result.
"""

import collections
import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax

from noise2music.training.state import TrainState

# Steps the host may run ahead of the device: enough to hide its own work, little enough that
# Ctrl-C, the clock and the memory held by waiting batches stay honest.
AHEAD = 2

logger = logging.getLogger(__name__)
DeviceBatch = Mapping[str, jax.Array]
Metrics = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Flight:
  step: int
  batch: DeviceBatch
  metrics: Metrics


class Updates:
  """The state, and what is on its way to change it.

  update: (state, batch, step) -> (state, metrics with "made"), from `Setup.compile`. log: called
  with the metrics of each, in order, `left_out` among them (1 where it is, and nothing else then).
  left_out: called with (step, batch, metrics) of one that failed twice, before it is passed over;
  may raise.
  """

  def __init__(
    self,
    update: Callable[[TrainState, DeviceBatch, int], tuple[TrainState, Metrics]],
    state: TrainState,
    *,
    log: Callable[[Metrics], None],
    left_out: Callable[[int, DeviceBatch, Metrics], None],
  ):
    self._update, self._state = update, state
    self._log, self._left_out = log, left_out
    self._flight: collections.deque[_Flight] = collections.deque()
    self._pass_over = jax.jit(lambda step: step + 1)

  def add(self, step: int, batch: DeviceBatch) -> None:
    """Dispatches update `step` (from 0); waits only for the one `AHEAD` before it."""
    self._dispatch(step, batch)
    if len(self._flight) > AHEAD:
      self._settle_oldest()

  def settle(self) -> TrainState:
    """The state with all updates so far made or left out; its buffers go to the next update."""
    while self._flight:
      self._settle_oldest()
    return self._state

  def _dispatch(self, step: int, batch: DeviceBatch) -> None:
    self._state, metrics = self._update(self._state, batch, step)
    self._flight.append(_Flight(step, batch, metrics))

  def _settle_oldest(self) -> None:
    flight = self._flight.popleft()
    metrics = dict(flight.metrics)
    made = bool(metrics.pop("made"))
    if not made:
      made, metrics = self._try_again(flight)
    self._log({**metrics, "left_out": 0.0} if made else {"left_out": 1.0})

  def _try_again(self, flight: _Flight) -> tuple[bool, Metrics]:
    step, batch = flight.step, flight.batch
    self._state, metrics = self._update(self._state, batch, step)
    metrics = dict(metrics)
    made = bool(metrics.pop("made"))
    if made:
      logger.warning(
        "step %d had no finite loss and gradient, and has when run again: a chip or its memory may"
        " be failing",
        step,
      )
    else:
      self._left_out(step, batch, metrics)
      self._state = dataclasses.replace(self._state, step=self._pass_over(self._state.step))
    waited = list(self._flight)
    self._flight.clear()
    for other in waited:
      self._dispatch(other.step, other.batch)
    return made, metrics
