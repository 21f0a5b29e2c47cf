"""Work on the rows of a batch, each device on its own."""

import math
from collections.abc import Callable

import jax
from flax.core import spmd
from jax.sharding import PartitionSpec

from noise2music.sharding.rules import BATCH
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
