"""Copies of the state on several devices, compared bit by bit: memory that went wrong is named.

Devices that hold the same part of every array must hold the same bits, since all apply the same
updates. A flipped bit in one copy breaks that, and nothing else would notice: its device goes on
contributing gradients of other weights.
"""

import collections
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import PartitionSpec

from noise2music.checkpoints.leaves import leaf_sum
from noise2music.errors import UserError
from noise2music.typing import PyTree


class Replicas:
  """shapes: a tree of jax.ShapeDtypeStruct with the shardings of what will be compared."""

  def __init__(self, shapes: PyTree):
    leaves = jax.tree.leaves(shapes)
    self._mesh = leaves[0].sharding.mesh
    parts: dict[jax.Device, list] = collections.defaultdict(list)
    for leaf in leaves:
      for device, part in leaf.sharding.devices_indices_map(leaf.shape).items():
        parts[device].append(part)
    self._groups: dict[str, list[int]] = collections.defaultdict(list)
    for place, device in enumerate(self._mesh.devices.flat):
      self._groups[repr(parts[device])].append(place)
    self._bits = _bits_on_each_device(leaves)

  @property
  def some(self) -> bool:
    """Whether there are any two copies to compare."""
    return any(len(places) > 1 for places in self._groups.values())

  def compare(self, tree: PyTree) -> None:
    """All processes call it alike.

    Raises UserError naming the devices and processes whose copies differ from those of most.
    """
    bits = multihost_utils.process_allgather(self._bits(jax.tree.leaves(tree)), tiled=True)
    if not (wrong := odd_ones(np.asarray(bits), list(self._groups.values()))):
      return
    named = ", ".join(_name(self._mesh.devices.flat[place]) for place in wrong)
    raise UserError(
      f"the state on {named} is not that of the other copies: a memory is failing; leave that"
      " machine out and run the same command again, which goes on from the last checkpoint"
    )


def _name(device: jax.Device) -> str:
  """By its number among those of its process, since ids leave gaps."""
  fellows = [d.id for d in jax.devices() if d.process_index == device.process_index]
  return f"device {sorted(fellows).index(device.id)} of process {device.process_index}"


def odd_ones(bits: Sequence[int], groups: Sequence[Sequence[int]]) -> list[int]:
  """Places whose bits are not those of most in their group; all of one without a majority."""
  wrong = []
  for places in groups:
    counts = collections.Counter(int(bits[place]) for place in places).most_common()
    if len(counts) > 1:
      clear = counts[0][1] > counts[1][1]
      wrong += [p for p in places if not clear or int(bits[p]) != counts[0][0]]
  return sorted(wrong)


def _bits_on_each_device(leaves: Sequence[jax.ShapeDtypeStruct]) -> Callable:
  """leaves -> uint32 [devices], each the sum of what lies on one device; nothing is sent."""
  mesh = leaves[0].sharding.mesh

  def local(held: Sequence[jax.Array]) -> jax.Array:
    sums = [leaf_sum(leaf, jnp.uint32(salt)) for salt, leaf in enumerate(held)]
    return jnp.sum(jnp.stack(sums), dtype=jnp.uint32)[None]

  return jax.jit(
    jax.shard_map(
      local,
      mesh=mesh,
      in_specs=([leaf.sharding.spec for leaf in leaves],),
      out_specs=PartitionSpec(mesh.axis_names),
      check_vma=False,
    )
  )
