"""From logical axis names ("batch", "kernel_out", ...) to mesh axes, and from there to shardings.

Modules name the axes of their parameters; which mesh axis each name goes to is this table. The
default replicates the parameters and splits the batch, which is right for all five models of the
paper on TPU v4 and larger chips.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import jax
import numpy as np
from flax.core import meta, spmd
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from noise2music.errors import UserError
from noise2music.sharding.mesh import AXES
from noise2music.typing import PyTree

AnyMesh: TypeAlias = Mesh | AbstractMesh  # of devices, or of what they would be
# Logical names, as in nn.axes: of the batch axis of every input, the time axis of signals, the
# leading axis of parameters of blocks in a row, and whichever axis of a parameter is split besides.
BATCH, TIME, LAYERS, PARAMETERS = "batch", "time", "layers", "parameters"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogicalRules:
  """pairs: (logical name, mesh axis | tuple of mesh axes | None), as flax takes them.

  A name without a pair is replicated, and so is an axis whose length the mesh axis does not divide
  (a bias of one channel cannot be split).

  optimizer_axes: mesh axes along which Adam's moments and the average are split besides (ZeRO-1):
  every device updates its part of the parameters, which are gathered for the next step. That saves
  each of them the memory and the time of updating everything, for one more passage of the
  parameters over the links.

  parameter_axes: mesh axes along which the weights themselves are split besides (FSDP), and all
  that belongs to them. A layer gathers its own when it computes, so that of blocks in a row one is
  whole at a time; biases and scales stay whole.
  """

  pairs: tuple[tuple[str, str | tuple[str, ...] | None], ...] = (
    (BATCH, ("slice", "data", "fsdp")),
    (TIME, "sequence"),
  )
  optimizer_axes: tuple[str, ...] = ()
  parameter_axes: tuple[str, ...] = ()

  def __post_init__(self):
    besides = {n: getattr(self, n) for n in ("optimizer_axes", "parameter_axes")}
    for name, axes in (*self.pairs, *besides.items()):
      unknown = set(_as_tuple(axes)) - set(AXES)
      if unknown:
        raise UserError(f"rule for {name!r} names mesh axes {sorted(unknown)}; there are {AXES}")

  def mesh_axes(self, name: str | None) -> tuple[str, ...]:
    return _as_tuple(dict(self.pairs).get(name)) if name else ()

  def spec(self, names: tuple[str | None, ...], *, shape: tuple[int, ...], mesh: AnyMesh):
    """PartitionSpec of an array of `shape` whose axes have these logical names."""
    taken: set[str] = set()
    entries = []
    for name, length in zip(names, shape, strict=True):
      axes = tuple(a for a in self.mesh_axes(name) if a not in taken and mesh.shape[a] > 1)
      if not axes or length % int(np.prod([mesh.shape[a] for a in axes])):
        entries.append(None)
        continue
      taken.update(axes)
      entries.append(axes[0] if len(axes) == 1 else axes)
    while entries and entries[-1] is None:
      entries.pop()
    return PartitionSpec(*entries)

  def shardings(self, boxed: PyTree, *, mesh: AnyMesh) -> PyTree:
    """NamedShardings for a tree that may hold flax's logical partitioning boxes, unboxed in form.

    Args:
      boxed: what a module's `init` returned, or `jax.eval_shape` of it.
      mesh: from `MeshShape.build` or `MeshShape.abstract`.
    """

    def one(leaf):
      value = unbox_leaf(leaf)
      names = leaf.names if isinstance(leaf, meta.Partitioned) else (None,) * value.ndim
      sharding = NamedSharding(mesh, self.spec(tuple(names), shape=value.shape, mesh=mesh))
      own = [d for d, name in enumerate(names) if name != LAYERS]
      if len(own) < 2:
        return sharding
      return _split(sharding, self.parameter_axes, shape=value.shape, along=own)

    return jax.tree.map(one, boxed, is_leaf=_is_box)

  def of_optimizer(self, sharding: NamedSharding, *, shape: tuple[int, ...]) -> NamedSharding:
    """That of the moments and the average of a parameter of `shape` with this sharding."""
    return _split(sharding, self.optimizer_axes, shape=shape, along=range(len(shape)))

  def batch_shards(self, mesh: AnyMesh) -> int:
    """Into how many parts a batch is split."""
    return int(np.prod([mesh.shape[a] for a in self.mesh_axes(BATCH)], initial=1))

  def batch_sharding(self, mesh: AnyMesh) -> NamedSharding:
    """Every array of a batch is split along its first axis."""
    axes = self.mesh_axes(BATCH)
    return NamedSharding(mesh, PartitionSpec(axes) if axes else PartitionSpec())

  @contextlib.contextmanager
  def activate(self, mesh: AnyMesh) -> Iterator[None]:
    """Within, flax's logical constraints on activations mean these rules on this mesh, and layers
    take the forms for its devices."""
    abstract = isinstance(mesh, AbstractMesh)
    within = jax.sharding.use_abstract_mesh(mesh) if abstract else jax.set_mesh(mesh)
    with within, spmd.logical_axis_rules((*self.pairs, (PARAMETERS, self.parameter_axes))):
      yield


def replicated(mesh: AnyMesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def _split(
  sharding: NamedSharding,
  mesh_axes: str | tuple[str, ...],
  *,
  shape: tuple[int, ...],
  along: Sequence[int],
) -> NamedSharding:
  """Each mesh axis goes to the longest axis of `along` that it divides, as one device has it."""
  if not mesh_axes:
    return sharding
  mesh = sharding.mesh
  axes = [list(_as_tuple(entry)) for entry in sharding.spec]
  axes += [[] for _ in range(len(shape) - len(axes))]
  taken = {name for names in axes for name in names}
  local = list(sharding.shard_shape(shape))
  for name in _as_tuple(mesh_axes):
    parts = mesh.shape[name]
    fits = [d for d in along if local[d] % parts == 0]
    if name in taken or parts == 1 or not fits:
      continue
    longest = max(fits, key=lambda d: local[d])
    axes[longest].append(name)
    local[longest] //= parts
  return NamedSharding(mesh, PartitionSpec(*(tuple(names) or None for names in axes)))


def unbox(tree: PyTree) -> PyTree:
  """The tree without flax's partitioning boxes: the only form the rest of the project sees."""
  return jax.tree.map(unbox_leaf, tree, is_leaf=_is_box)


def unbox_leaf(leaf):
  # apply_constraint=False: logical names are no mesh axes, the shardings above carry them.
  return leaf.unbox(apply_constraint=False) if _is_box(leaf) else leaf


def _is_box(leaf) -> bool:
  return isinstance(leaf, meta.AxisMetadata)


def _as_tuple(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
  if axes is None:
    return ()
  return (axes,) if isinstance(axes, str) else tuple(axes)
