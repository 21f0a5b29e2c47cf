"""Scores while a stage trains: what `n2m evaluate run` does, for the weights of the moment."""

import dataclasses
from pathlib import Path

import jax

from launch.evaluation import Evaluation, evaluate
from launch.label import load_encoder
from noise2music.errors import UserError
from noise2music.evaluation.embedders.load import load_audio_encoder
from noise2music.pipeline import Pipeline
from noise2music.stages.cascade import Cascade
from noise2music.stages.objective import DenoisingObjective
from noise2music.training.hooks import Samples
from noise2music.training.state import TrainState


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
    out = Path(self.evaluation.out) / f"step-{step:08d}"
    record = evaluate(
      dataclasses.replace(self.evaluation, out=str(out)),
      Pipeline(cascade=self._cascade(), params=(state.averaged_params,)),
      load=load,
      say=lambda line: None,
    )
    return Samples(scalars=scalars(record))

  def _cascade(self) -> Cascade:
    return Cascade(objectives=(self.objective,))


def load(name: str):
  """Any encoder of clips, our own towers by `joint:FOLDER`."""
  return load_audio_encoder(name, load_joint=load_encoder)


def scalars(record) -> dict[str, float]:
  """Values by metric, of the first variant, for a log."""
  return {score["metric"]: score["value"] for score in record["variants"][0]["scores"]}
