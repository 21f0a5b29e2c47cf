"""When checkpoints are saved, which of them stay, and how orbax is told so."""

import dataclasses

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
  """every: steps between saves. keep_latest: how many of the newest stay.

  keep_every: steps divisible by it stay for good (None: none do). attempts: how often a
  save is tried that fails for what may pass. pause_seconds: after a failure.
  """

  every: int = 1000
  keep_latest: int = 3
  keep_every: int | None = None
  attempts: int = 5
  pause_seconds: float = 2.0

  def __post_init__(self):
    for name in ("every", "keep_latest", "keep_every", "attempts"):
      value = getattr(self, name)
      may_be_none = name == "keep_every" and value is None
      if not may_be_none and (not isinstance(value, int) or value < 1):
        raise UserError(f"checkpoint {name} is {value!r}: give a whole number of at least 1")
    if not isinstance(self.pause_seconds, int | float) or not 0 <= self.pause_seconds < 3600:
      raise UserError(
        f"checkpoint pause_seconds is {self.pause_seconds!r}: give seconds, less than an hour"
      )


def orbax_options(policy: CheckpointPolicy | None) -> ocp.CheckpointManagerOptions:
  atomicity = ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)
  if policy is None:
    return ocp.CheckpointManagerOptions(
      read_only=True, save_interval_steps=0, atomicity_options=atomicity
    )
  keep = [policies.LatestN(n=policy.keep_latest)]
  if policy.keep_every:
    keep.append(policies.EveryNSteps(interval_steps=policy.keep_every))
  return ocp.CheckpointManagerOptions(
    enable_async_checkpointing=True,
    cleanup_tmp_directories=True,
    atomicity_options=atomicity,
    preservation_policy=policies.AnyPreservationPolicy(policies=keep),
    # When to save is the loop's decision; orbax is always told to.
    save_decision_policy=policies.FixedIntervalPolicy(interval=1),
  )
