"""The ways in which one trained cascade is sampled, to be scored side by side."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from noise2music.diffusion.time_steps import TimeSteps
from noise2music.errors import UserError
from noise2music.stages.spec import Sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
  """One way to sample.

  name: of the results' folder. series, axis, x: which line of a plot it is on, what the plot's
  axis is called, and where on it. stage: the one that is sampled otherwise; None: all. The rest is
  as in `Pipeline.generate`, time_steps in place of the stage's own; None leaves it to the stage.
  sampling: of stages by name, in place of their own; what else is given changes it in its turn.
  """

  name: str = "as_trained"
  series: str = ""
  axis: str = ""
  x: float | None = None
  stage: str | None = None
  steps: int | None = None
  cfg_scale: float | None = None
  time_steps: TimeSteps | None = None
  sampling: Mapping[str, Sampling] = dataclasses.field(default_factory=dict)


class Sweep(Protocol):
  """What gives the variants of an evaluation."""

  def variants(self) -> tuple[Variant, ...]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class AsTrained:
  """One variant: each stage's own way."""

  def variants(self) -> tuple[Variant, ...]:
    return (Variant(),)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidanceSweep:
  """Guidance scales under several lists of time steps, as in the paper's Figure 2.

  schedules: name -> time steps; the stage's own where empty. stage: as in `Variant`.
  """

  scales: tuple[float, ...]
  schedules: Mapping[str, TimeSteps] = dataclasses.field(default_factory=dict)
  stage: str | None = None

  def __post_init__(self):
    _check(self.scales, "guidance scales")

  def variants(self) -> tuple[Variant, ...]:
    return tuple(
      Variant(
        name=f"{name}_guidance_{scale:g}".lstrip("_").replace(" ", "_"),
        series=name,
        axis="guidance scale",
        x=scale,
        stage=self.stage,
        cfg_scale=scale,
        time_steps=steps,
      )
      for name, steps in (dict(self.schedules) or {"": None}).items()
      for scale in self.scales
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSweep:
  """Numbers of network calls in a stage, or in each of them, as in the paper's Figure 3."""

  counts: tuple[int, ...]
  stage: str | None = None

  def __post_init__(self):
    _check(self.counts, "step counts")
    if min(self.counts) < 1:
      raise UserError(f"{min(self.counts)} steps make nothing: sweep over counts of at least 1")

  def variants(self) -> tuple[Variant, ...]:
    return tuple(
      Variant(
        name=f"steps_{count}",
        series=self.stage or "every stage",
        axis="steps",
        x=count,
        stage=self.stage,
        steps=count,
      )
      for count in self.counts
    )


def _check(values: tuple, what: str) -> None:
  if not values or len(set(values)) != len(values):
    raise UserError(f"a sweep needs {what}, each once, got {list(values)}")
