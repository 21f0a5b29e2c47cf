"""Copies on several devices, one of which has a bit that the others have not."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from noise2music.training.replicas import odd_ones

EIGHT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
from noise2music.errors import UserError
from noise2music.sharding.mesh import MeshShape
from noise2music.training.replicas import Replicas

mesh = MeshShape(fsdp=2).build()
values = np.arange(12.0, dtype=np.float32).reshape(4, 3)
layouts = {"whole": P(), "split": P("fsdp")}

def tree(device=None):
  # On that device one bit of `split` is another.
  def of(shard, layout):
    copies = []
    for d, part in NamedSharding(mesh, layout).devices_indices_map(values.shape).items():
      held = values[part].copy()
      if d.id == device and layout != P():
        held.view(np.uint32)[0, 1] ^= 1
      copies.append(jax.device_put(held, d))
    return jax.make_array_from_single_device_arrays(
      values.shape, NamedSharding(mesh, layout), copies)
  return {name: of(name, layout) for name, layout in layouts.items()}

good = tree()
shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
replicas = Replicas(jax.tree.map(shape, good))
assert replicas.some
replicas.compare(good)
hlo = replicas._bits.lower(jax.tree.leaves(good)).compile().as_text()
assert not any(kind in hlo for kind in ("all-reduce", "all-gather", "collective-permute")), hlo
for device in (0, 5):
  try:
    replicas.compare(tree(device))
  except UserError as error:
    print(str(error).split(" is not")[0])
"""


def test_the_device_with_other_bits_is_named_and_nothing_is_sent_to_find_it():
  root = Path(__file__).resolve().parents[2]
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(EIGHT)], cwd=root, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.splitlines() == [f"the state on device {n} of process 0" for n in (0, 5)]


@pytest.mark.parametrize(
  ("bits", "groups", "wrong"),
  [
    ([1, 1, 1], [[0, 1, 2]], []),
    ([1, 2, 1], [[0, 1, 2]], [1]),
    ([1, 2], [[0, 1]], [0, 1]),  # they accuse each other
    ([1, 2, 1, 2], [[0, 2], [1, 3]], []),  # other parts may have other bits
    ([1, 2, 3, 2, 1, 2], [[0, 2, 4], [1, 3, 5]], [2]),
  ],
)
def test_the_odd_ones(bits, groups, wrong):
  assert odd_ones(bits, groups) == wrong
