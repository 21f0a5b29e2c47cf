"""Scores while a stage trains: what `n2m evaluate run` does, for the weights of the moment."""

import dataclasses
import functools
import logging
from pathlib import Path

import jax

from launch.evaluation import Evaluation, evaluate, load_encoder, scalars
from noise2music.errors import UserError
from noise2music.evaluation.embeddings import Encoder
from noise2music.pipeline import Pipeline
from noise2music.stages.cascade import Cascade
from noise2music.stages.objective import DenoisingObjective
from noise2music.training.hooks import Samples
from noise2music.training.state import TrainState

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
  """Called by `SampleHook`: generates with the averaged weights, and logs the values.

  objective: what is trained; a stage that needs no other before it. All that an evaluation writes
  lies in its folder, by step. Raises UserError for a stage that hears others, or in a run of
  several processes, which `n2m evaluate run --follow` is for.
  """

  objective: DenoisingObjective
  evaluation: Evaluation

  def __post_init__(self):
    self._cascade()
    if jax.process_count() > 1:
      raise UserError(
        "scores during training need a run of one process: leave the hook out, and follow the run"
        " with n2m evaluate run --follow"
      )

  def __call__(self, state: TrainState, step: int) -> Samples:
    """What cannot be scored costs its scores, not the training."""
    evaluation = dataclasses.replace(
      self.evaluation, out=str(Path(self.evaluation.out) / f"step-{step:08d}")
    )
    pipeline = Pipeline(cascade=self._cascade(), params=(state.averaged_params,))
    try:
      record = evaluate(evaluation, pipeline, encoders=self._encoders, say=lambda line: None)
    except UserError as error:
      log.warning("no scores at step %d: %s", step, error)
      return Samples()
    return Samples(scalars=scalars(record))

  def _cascade(self) -> Cascade:
    return Cascade(objectives=(self.objective,))

  @functools.cached_property
  def _encoders(self) -> list[Encoder]:
    return [load_encoder(name) for name in self.evaluation.encoders]
