"""The device mesh, built here and nowhere else.

Four axes, outermost first: `slice` (data parallel over the slow network between TPU slices), `data`
(data parallel within one), `fsdp` (data parallel with the weights split as well) and `sequence`
(the time axis of long clips). Axis types are Auto: under Explicit ones convolutions have no
sharding rule.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh

from noise2music.errors import UserError

AXES = ("slice", "data", "fsdp", "sequence")
_TYPES = (AxisType.Auto,) * len(AXES)


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
    fixed = math.prod(n for n in sizes if n != -1)
    if -1 in sizes and devices % fixed == 0:
      sizes[sizes.index(-1)] = devices // fixed
    if math.prod(sizes) != devices:
      raise UserError(
        f"mesh {self.sizes} over {AXES} does not fit {devices} devices: "
        f"choose sizes whose product is that number, or -1 for one of them{self._such_as(devices)}"
      )
    return tuple(sizes)

  def _such_as(self, devices: int) -> str:
    """A flag that makes it fit, where another size of one axis does."""
    for axis, size in sorted(zip(AXES, self.sizes, strict=True), key=lambda pair: -pair[1]):
      left, rest = divmod(devices, math.prod(n for n in self.sizes if n != -1) // size)
      if size > 1 and not rest and axis != "slice":  # which is the machines'
        return (
          f", as by --gin.MeshShape.{axis}={math.gcd(size, left) if -1 in self.sizes else left}"
        )
    return ""

  @classmethod
  def sharing_out(cls, clips: int, *, devices: int) -> "MeshShape":
    """For sampling: clips are shared out among devices as far as they divide, and the time of each
    among the devices that are then left for it."""
    return cls(data=math.gcd(clips, devices), sequence=-1)

  def build(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (default: all of them)."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = self.resolve(len(devices))
    # Only real slices have an index; virtual devices are simply laid out in order.
    if sizes[0] > 1 and getattr(devices[0], "slice_index", None) is not None:
      grid = mesh_utils.create_hybrid_device_mesh(
        (1, *sizes[1:]), (sizes[0], 1, 1, 1), devices, allow_split_physical_axes=True
      )
    else:
      # An axis of 8 takes a torus of 4 x 4 x 4 apart, which `jax.make_mesh` would refuse.
      grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=_TYPES)

  def abstract(self, devices: int, *, kind: AbstractDevice) -> AbstractMesh:
    """The mesh over so many devices of a kind, none of them here: for shapes and shardings."""
    return AbstractMesh(self.resolve(devices), AXES, axis_types=_TYPES, abstract_device=kind)
