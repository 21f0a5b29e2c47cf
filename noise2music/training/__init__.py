"""Training: one pure step, a short loop, hooks. Start with `Training` and `train`."""

from noise2music.checkpoints.manager import CheckpointPolicy
from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import LogicalRules
from noise2music.training.describe import describe
from noise2music.training.hooks import Hook, Moment, SampleHook, Samples
from noise2music.training.loop import Outcome, Training, inspect, train
from noise2music.training.optimizer import Ema, Optimizer
from noise2music.training.state import TrainState

__all__ = [
  "CheckpointPolicy",
  "Ema",
  "Hook",
  "LogicalRules",
  "MeshShape",
  "Moment",
  "Optimizer",
  "Outcome",
  "SampleHook",
  "Samples",
  "TrainState",
  "Training",
  "describe",
  "inspect",
  "train",
]
