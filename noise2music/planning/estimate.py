"""From work and a program to time: rooflines, the step's range, days on a slice."""

import dataclasses

from noise2music.planning.chips import Chip
from noise2music.planning.program import ProgramCost

SECONDS_A_DAY = 86_400


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepTime:
  """Seconds of one step on one chip.

  multiply: the work at the chip's peak. memory: the traffic of the program at its bandwidth, None
  where none was compiled. collectives: their bytes over the chip's links, as if nothing hid them
  and all links were those within a slice. compiler: by its estimated cycles, None where it gives
  none.
  """

  multiply: float
  memory: float | None
  collectives: float | None
  compiler: float | None

  @property
  def roof(self) -> float:
    """What the multiplying and the counted traffic take at least, done at once."""
    return max(self.multiply, self.memory or 0.0)

  @property
  def range(self) -> tuple[float, float]:
    """From the roof to what the compiler expects with no collective hidden; without a compiler to
    nine times the multiplying, where the slowest of Table 4 of the paper is (the fastest: 3)."""
    if self.compiler is None:
      return self.roof, max(self.roof, 9 * self.multiply)
    return self.roof, max(self.roof, self.compiler + (self.collectives or 0.0))


def step_time(
  chip: Chip, *, flops_per_chip: float, program: ProgramCost | None, loops: int = 1
) -> StepTime:
  """loops: steps that the program takes in one run."""
  if program is None:
    return StepTime(
      multiply=flops_per_chip / chip.flops, memory=None, collectives=None, compiler=None
    )
  # A ring sends each byte of an all-reduce twice, of the others once.
  moved = sum((2 if c.kind == "all-reduce" else 1) * c.bytes for c in program.collectives) / loops
  cycles = program.cycles / loops if program.cycles and chip.clock_hz else None
  return StepTime(
    multiply=flops_per_chip / chip.flops,
    memory=program.traffic_bytes / loops / chip.memory_bytes_per_second,
    collectives=moved / chip.link_bytes_per_second,
    compiler=cycles / chip.clock_hz if cycles else None,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
  """What a program needs of a chip's memory, and what there is for programs."""

  needed_bytes: float
  capacity_bytes: float

  @property
  def fits(self) -> bool:
    return self.needed_bytes <= self.capacity_bytes


def fit(chip: Chip, needed_bytes: float) -> Fit:
  return Fit(needed_bytes=needed_bytes, capacity_bytes=chip.memory_bytes - chip.runtime_bytes)
