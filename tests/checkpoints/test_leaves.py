"""Paths, and the fingerprint that sees a single bit on any mesh."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from noise2music.checkpoints.leaves import (
  describe,
  fingerprint,
  named_leaves,
  nested,
  with_leaves,
)
from noise2music.errors import UserError

TREE = {"network": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)}}


def test_paths_name_dictionaries_tuples_and_fields():
  state = optax.adam(1e-3).init(TREE)
  assert set(named_leaves(state)) == {
    "0/count",
    "0/mu/network/bias",
    "0/mu/network/kernel",
    "0/nu/network/bias",
    "0/nu/network/kernel",
  }


def test_a_tree_is_rebuilt_from_its_paths():
  state = optax.adam(1e-3).init(TREE)
  back = with_leaves(jax.eval_shape(lambda: state), named_leaves(state))
  assert jax.tree.structure(back) == jax.tree.structure(state)
  assert named_leaves(nested(named_leaves(TREE))).keys() == named_leaves(TREE).keys()


@pytest.mark.parametrize("name", ["/etc", "..", "a/b", "", "a\0b", "sp ace"])
def test_names_that_could_leave_the_folder_are_refused(name):
  with pytest.raises(UserError, match="cannot be saved"):
    named_leaves({name: jnp.ones(1)})


def test_describe_gives_dtype_and_shape():
  assert describe({"w": jnp.ones((2, 3), jnp.bfloat16)}) == {"w": ["bfloat16", [2, 3]]}


def bits_of(dtype):
  return jax.random.bits(jax.random.key(0), (6, 5), jnp.dtype(f"uint{8 * dtype.itemsize}"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "int16", "uint8"])
def test_every_flipped_bit_changes_the_fingerprint(dtype):
  dtype = jnp.dtype(dtype)
  bits = np.asarray(bits_of(dtype)).copy()

  def of(raw):
    return fingerprint({"w": jax.lax.bitcast_convert_type(jnp.asarray(raw), dtype)})

  whole = of(bits)
  for position, bit in [((0, 0), 0), ((5, 4), 8 * dtype.itemsize - 1), ((2, 3), 3)]:
    flipped = bits.copy()
    flipped[position] ^= bits.dtype.type(1) << bits.dtype.type(bit)
    assert of(flipped) != whole


def test_swapped_values_paths_and_shapes_are_seen():
  base = fingerprint({"a": jnp.float32([1, 2]), "b": jnp.float32([3, 4])})
  assert fingerprint({"a": jnp.float32([2, 1]), "b": jnp.float32([3, 4])}) != base
  assert fingerprint({"a": jnp.float32([3, 4]), "b": jnp.float32([1, 2])}) != base
  assert fingerprint({"b": jnp.float32([3, 4]), "a": jnp.float32([1, 2])}) == base
  assert fingerprint({"a": jnp.array([True, False])}) != fingerprint(
    {"a": jnp.array([False, True])}
  )


def test_the_number_itself_stays_what_it_is():
  """Checkpoints on disk carry it: a change here makes every one of them look damaged."""
  total = 0
  for path, leaf in named_leaves(TREE).items():
    salt = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "little")
    bits = np.asarray(leaf).view(np.uint32).ravel().tolist()
    total += salt + sum(b * ((i * 2654435761 + salt) % 2**32 | 1) for i, b in enumerate(bits))
  assert fingerprint(TREE) == total % 2**32 == 2717681924
