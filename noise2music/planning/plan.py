"""The figures of a plan, and how they are put together."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from noise2music.planning.chips import GIB, Chip
from noise2music.planning.estimate import SECONDS_A_DAY, Fit, StepTime, fit, step_time
from noise2music.planning.program import ProgramCost


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramPlan:
  """One program on one slice. flops: of all chips in one step. state_bytes, activation_bytes: a
  chip's. program: None where nothing was compiled, or the compiler found no way to fit it. room:
  what it takes of a chip's memory. time, room: None for this machine's processor. advice:
  sentences on what does not fit, each with what to change.
  """

  flops: float
  flops_per_clip: float
  state_bytes: float
  activation_bytes: float | None
  program: ProgramCost | None
  compile_seconds: float | None
  time: StepTime | None
  room: Fit | None
  advice: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """Training and sampling of one stage, or training alone. parameters: by room. note: why nothing
  was compiled.
  """

  stage: str
  topology: str
  slices: int
  chips: int
  hosts: int
  note: str | None
  parameters: Mapping[str, int]
  checkpoint_bytes: int
  input_bytes_per_step: float
  batch_size: int
  seconds: float
  rows_per_chip: float
  total_steps: int
  train: ProgramPlan
  clips: int
  clip_seconds: float
  sample_chips: int
  sampling_steps: int
  sample: ProgramPlan | None

  @property
  def days(self) -> tuple[float, float] | None:
    """From the best to the likely, of total_steps; None where no time is known."""
    if self.train.time is None:
      return None
    low, high = self.train.time.range
    return low * self.total_steps / SECONDS_A_DAY, high * self.total_steps / SECONDS_A_DAY

  @property
  def input_bytes_per_second(self) -> tuple[float, float] | None:
    """That each host must read, from the likely to the fastest step; None where none is known."""
    if self.train.time is None:
      return None
    low, high = self.train.time.range
    return self.input_bytes_per_step / high, self.input_bytes_per_step / low

  def to_json(self) -> dict[str, Any]:
    """Fields as they are, with the range of a step's time and what follows from it added."""
    out = dataclasses.asdict(self) | {"days": self.days}
    out["input_bytes_per_second"] = self.input_bytes_per_second
    out["chip_hours"] = [24 * self.chips * day for day in self.days] if self.days else None
    for name, part in {"train": self.train, "sample": self.sample}.items():
      if part is not None:
        out[name]["seconds"] = part.time.range if part.time else None
        out[name]["roof_seconds"] = part.time.roof if part.time else None
    return out


def plan_program(
  *,
  chip: Chip | None,
  chips: int,
  clips: int,
  flops: float,
  state_bytes: float,
  activation_bytes: float | None = None,
  program: ProgramCost | None = None,
  compile_seconds: float | None = None,
  refused: Fit | None = None,
  loops: int = 1,
  remedy: Callable[[Fit], str],
) -> ProgramPlan:
  """flops: of one step. refused: in place of a program, what the compiler found it to need and to
  have. loops: steps in the program. remedy: what to change if it does not fit.
  """
  time, room = None, None
  advice = []
  if chip is not None:
    time = step_time(chip, flops_per_chip=flops / chips, program=program, loops=loops)
    counted = program.peak_bytes if program else state_bytes + (activation_bytes or 0.0)
    room = refused or fit(chip, counted)
    of = f"{room.needed_bytes / GIB:.1f} of {room.capacity_bytes / GIB:.1f} GiB a chip"
    known = "parameters" if activation_bytes is None else "state and activations"
    fits = "fits" if program else f"may fit, by {known} alone"
    advice.append(f"{fits}: {of}" if room.fits else f"does not fit: {of}: {remedy(room)}")
  return ProgramPlan(
    flops=flops,
    flops_per_clip=flops / clips,
    state_bytes=state_bytes,
    activation_bytes=activation_bytes,
    program=program,
    compile_seconds=compile_seconds,
    time=time,
    room=room,
    advice=tuple(advice),
  )
