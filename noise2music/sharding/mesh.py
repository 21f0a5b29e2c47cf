"""The device mesh, built here and nowhere else.

Four axes, outermost first: `slice` (data parallel over the slow network between TPU slices), `data`
(data parallel within one), `fsdp` (data parallel with the weights split as well) and `sequence`
(the time axis of long clips). Axis types are Auto: under Explicit ones convolutions have no
sharding rule.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from noise2music.errors import UserError

AXES = ("slice", "data", "fsdp", "sequence")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """Devices along each axis; -1 (at most once) takes what the others leave."""

  slice: int = 1
  data: int = -1
  fsdp: int = 1
  sequence: int = 1

  def __post_init__(self):
    sizes = self.sizes
    if any(not isinstance(n, int) or (n < 1 and n != -1) for n in sizes) or sizes.count(-1) > 1:
      raise UserError(f"mesh {sizes} over {AXES}: give whole numbers above 0 and at most one -1")

  @property
  def sizes(self) -> tuple[int, ...]:
    return (self.slice, self.data, self.fsdp, self.sequence)

  def resolve(self, devices: int) -> tuple[int, ...]:
    """The sizes with -1 filled in. Raises UserError where `devices` do not divide so."""
    sizes = list(self.sizes)
    fixed = int(np.prod([n for n in sizes if n != -1]))
    if -1 in sizes and devices % fixed == 0:
      sizes[sizes.index(-1)] = devices // fixed
    if int(np.prod(sizes)) != devices:
      raise UserError(
        f"mesh {self.sizes} over {AXES} does not fit {devices} devices: "
        "choose sizes whose product is that number, or -1 for one of them"
      )
    return tuple(sizes)

  def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (default: all of them)."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = self.resolve(len(devices))
    types = (AxisType.Auto,) * len(AXES)
    # Only real slices have an index; virtual devices are simply laid out in order.
    if sizes[0] > 1 and getattr(devices[0], "slice_index", None) is not None:
      grid = mesh_utils.create_hybrid_device_mesh(
        (1, *sizes[1:]), (sizes[0], 1, 1, 1), devices, allow_split_physical_axes=True
      )
    else:
      # An axis of 8 takes a torus of 4 x 4 x 4 apart, which `jax.make_mesh` would refuse.
      grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=types)
