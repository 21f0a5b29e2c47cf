"""Side effects beside the loop: a hook is a function of a `Moment`, called after every step."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from noise2music.errors import UserError
from noise2music.training import sentinels
from noise2music.training.state import TrainState
from noise2music.training.writers import Audio, Images, Writer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
  """What a hook sees after a step.

  step: updates done. total_steps: of the run. settle: waits for the state after them. row: the
  metrics logged at this step, None at most steps. writers: where results go. last: True for the
  last call of this process. say: prints a line without tearing the progress bar. writing: a context
  that says what is intact where a writer cannot write.
  """

  step: int
  total_steps: int
  settle: Callable[[], TrainState]
  row: Mapping[str, float] | None
  writers: Sequence[Writer]
  last: bool
  say: Callable[[str], None]
  writing: Callable[[], AbstractContextManager] = contextlib.nullcontext

  @property
  def state(self) -> TrainState:
    """Valid during the call only, since its buffers are given to the next step."""
    return self.settle()


Hook = Callable[[Moment], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """What a sampling function returns: any of audio, pictures and numbers, each by name."""

  audio: Audio = dataclasses.field(default_factory=dict)
  images: Images = dataclasses.field(default_factory=dict)
  scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleHook:
  """Calls function(state, step) -> Samples every n steps, and hands the result to the writers.

  function: generate with `state.averaged_params`. every: n. at_end: also after the last step.
  """

  function: Callable[[TrainState, int], Samples]
  every: int
  at_end: bool = True

  def __post_init__(self):
    if not isinstance(self.every, int) or self.every < 1:
      raise UserError(f"SampleHook.every is {self.every!r}: give a whole number of at least 1")

  def __call__(self, moment: Moment) -> None:
    if moment.step % self.every and not (self.at_end and moment.step == moment.total_steps):
      return
    moment.say(f"sampling at step {moment.step}, to hear what it has learnt")
    samples = self.function(moment.state, moment.step)
    for line in sentinels.of_samples(moment.step, samples.audio):
      moment.say(f"warning: {line}")
    with moment.writing():
      for writer in moment.writers:
        writer.audio(moment.step, samples.audio)
        writer.images(moment.step, samples.images)
        if samples.scalars:
          writer.scalars(moment.step, samples.scalars)
