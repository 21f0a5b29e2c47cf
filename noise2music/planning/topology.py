"""From a slice's name to devices that a program can be compiled for, with or without having them.

v4:2x2x1      four TPU v4 chips; v5e:16x16, v5p:8x8x16, v6e:4x4 likewise
h100:8        eight GPUs: arithmetic alone, as no compiler for them comes along; gpu:8 is the same
cpu:8         eight virtual devices of this machine's processor
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence

import jax

from noise2music.errors import UserError
from noise2music.planning.chips import CHIPS, Chip

_DIMENSIONS = {"v4": 3, "v5p": 3, "v5e": 2, "v6e": 2}
_GPU = "h100"  # is meant by a GPU that is not named
_NO_COMPILER = (
  "the TPU compiler is not installed (the extra [tpu] brings it): this is the arithmetic alone"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """chip: None for this machine's processor. shape: chips along each axis. slices: how many."""

  name: str
  chip: Chip | None
  shape: tuple[int, ...]
  slices: int = 1

  @property
  def chips(self) -> int:
    """In all slices."""
    return math.prod(self.shape) * self.slices

  @property
  def hosts(self) -> int:
    if self.chip is None:
      return 1
    return self.slices * math.ceil(math.prod(self.shape) / self.chip.chips_per_host)

  @property
  def platform(self) -> str:
    """As jax calls it."""
    if self.chip is None:
      return "cpu"
    return "tpu" if self.chip.name in _DIMENSIONS else "gpu"

  def why_not_compiled(self) -> str | None:
    """One sentence where no program can be compiled for it here."""
    if self.chip is None:
      return None
    if self.platform != "tpu":
      return f"no compiler for {self.chip.name} works without one: this is the arithmetic alone"
    return None if importlib.util.find_spec("libtpu") else _NO_COMPILER

  def devices(self) -> Sequence[jax.Device]:
    """Devices to compile for; those of a TPU are descriptions, and nothing runs on them.

    Raises UserError where the compiler knows no such slice, or too few devices are here.
    """
    if self.chip is None:
      found = jax.devices("cpu")
      if len(found) < self.chips:
        raise UserError(
          f"{self.name} asks for {self.chips} devices and jax began with {len(found)}: plan it in a"
          f" process of its own, with JAX_NUM_CPU_DEVICES={self.chips}"
        )
      return found[: self.chips]
    from jax.experimental import topologies

    # Nobody is asked what machine this is: it is none of theirs.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    settings = {"num_slices": self.slices} if self.slices > 1 else {}
    if self.chip.name == "v4":
      settings["chip_config_name"] = "megacore"  # two cores as one device, as they are used
    if math.prod(self.shape) == 1:  # a machine with one chip, where hosts have four
      settings["chips_per_host_bounds"] = (1, 1, 1)
    generation, _, _ = self.name.partition(":")
    shape = self.shape + (1,) * (3 - len(self.shape))
    try:
      description = topologies.get_topology_desc(
        f"{generation}:{'x'.join(map(str, shape))}", platform="tpu", **settings
      )
    except Exception as error:
      raise UserError(
        f"the TPU compiler knows no slice {self.name} ({str(error).splitlines()[0]}): use one that"
        " is sold, such as v4:2x2x1, v5e:4x4 or v5p:4x4x4"
      ) from error
    return description.devices


def serving(topology: Topology) -> Topology:
  """The part of a slice that samples: four chips at most; a single GPU."""
  if topology.platform != "tpu":
    return dataclasses.replace(topology, shape=(1,), slices=1)
  shape = tuple(min(most, there) for most, there in zip((2, 2, 1), topology.shape, strict=False))
  kind = topology.name.partition(":")[0]
  name = f"{kind}:{'x'.join(map(str, shape))}"
  return dataclasses.replace(topology, name=name, shape=shape, slices=1)


def parse_topology(name: str, *, slices: int = 1) -> Topology:
  """Raises UserError on a name that says no slice."""
  kind, colon, size = re.sub("^gpu:", f"{_GPU}:", name).partition(":")
  known = ("cpu", *CHIPS)
  if kind not in known or not colon or not re.fullmatch(r"\d+(x\d+)*", size):
    raise UserError(
      f"no slice is called {name!r}: write a chip ({', '.join(known)}), a colon and a size, such as"
      " v4:2x2x1, v5e:16x16, h100:8 or cpu:8"
    )
  shape = tuple(map(int, size.split("x")))
  wanted = _DIMENSIONS.get(kind, 1)
  if 0 in shape:
    raise UserError(f"{name!r} has no chips: give each of its dimensions at least 1")
  if len(shape) != wanted:
    raise UserError(
      f"{name!r} has {len(shape)} dimension(s) and {kind} has {wanted}: write for instance"
      f" {kind}:{'x'.join(['2', '2', '1'][:wanted])}"
    )
  if slices < 1 or (slices > 1 and kind not in _DIMENSIONS):
    raise UserError(f"{slices} slices of {name}: give 1, or a number of TPU slices")
  return Topology(name=f"{kind}:{size}", chip=CHIPS.get(kind), shape=shape, slices=slices)
