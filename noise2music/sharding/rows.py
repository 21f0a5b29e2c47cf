"""Work on the rows of a batch, each device on its own."""

import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax.core import spmd
from jax.sharding import NamedSharding, PartitionSpec

from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import BATCH, LogicalRules
from noise2music.typing import PyTree


def by_rows(function: Callable[..., PyTree], *batch: PyTree) -> PyTree:
  """function(*batch), computed by each device for its part of the batch alone.

  The compiler splits no FFT: left to it, every device transforms the rows of all. What comes of
  one row must not depend on the others.

  batch: trees of arrays [rows, ...], as is the result. Rows that the devices do not divide are left
  to the compiler, and all are where no rules are in force.
  """
  axes = dict(spmd.get_logical_axis_rules()).get(BATCH) or ()
  axes = (axes,) if isinstance(axes, str) else tuple(axes)
  mesh = jax.sharding.get_abstract_mesh()
  shards = math.prod(mesh.shape.get(axis, 1) for axis in axes)
  if shards == 1 or any(len(leaf) % shards for leaf in jax.tree.leaves(batch)):
    return function(*batch)
  rows = PartitionSpec(axes)
  return jax.shard_map(function, in_specs=rows, out_specs=rows, check_vma=False)(*batch)


def in_batches(*arrays: np.ndarray, size: int) -> Iterator[tuple]:
  """Rows of all arrays in batches of one size, the last filled up with its last row, each shared
  out among the devices.

  size: of a batch; on several devices the next multiple of their number.
  """
  mesh, rules = MeshShape().build(), LogicalRules()
  size = -(-size // jax.device_count()) * jax.device_count()
  for start in range(0, len(arrays[0]), size):
    rows = np.minimum(np.arange(start, start + size), len(arrays[0]) - 1)
    part = tuple(array[rows] for array in arrays)
    if jax.device_count() == 1:
      yield part
      continue
    with rules.activate(mesh):
      yield jax.device_put(part, rules.batch_sharding(mesh))


def on_every_device(tree: PyTree) -> PyTree:
  """The arrays, whole, where `in_batches` puts its rows."""
  if jax.device_count() == 1:
    return jax.device_put(tree)
  return jax.device_put(tree, NamedSharding(MeshShape().build(), PartitionSpec()))
