"""Trees of arrays as path -> array, and the integer that tells whether a single bit changed.

A checkpoint stores paths ("network/down_0/kernel"), not Python classes, so that it can be read
without the optimizer, or the version of a library, that wrote it.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from noise2music.errors import UserError
from noise2music.typing import PyTree

_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
_ODD = 2654435761  # Knuth's multiplicative constant: spreads neighbouring positions


def named_leaves(tree: PyTree) -> dict[str, Any]:
  """{"a/b/0": leaf, ...} in the tree's order.

  Raises:
    UserError: a name holds a character that could leave the checkpoint's folder.
  """
  return {
    "/".join(_name(entry) for entry in path): leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
  }


def with_leaves(tree: PyTree, leaves: Mapping[str, Any]) -> PyTree:
  """A tree of the form of `tree` that holds `leaves`, looked up by path."""
  return jax.tree.unflatten(jax.tree.structure(tree), [leaves[p] for p in named_leaves(tree)])


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """Paths -> dictionaries in dictionaries."""
  out: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *rooms, name = path.split("/")
    functools.reduce(lambda d, room: d.setdefault(room, {}), rooms, out)[name] = leaf
  return out


def describe(tree: PyTree) -> dict[str, list]:
  """{path: [dtype, shape]}: what restore compares before it reads an array."""
  return {p: [str(x.dtype), list(x.shape)] for p, x in named_leaves(tree).items()}


def fingerprint(tree: PyTree) -> int:
  """A number below 2^32 that changes with any one bit of any leaf, or with a leaf's path.

  Sum over all elements of bits * odd weight(path, position), modulo 2^32. Integer addition does not
  care about order, so the number is the same on any mesh and under any sharding.
  """
  return sum(leaf_fingerprints(tree).values()) % 2**32


def leaf_fingerprints(tree: PyTree) -> dict[str, int]:
  """{path: its part of `fingerprint`}, which tells the leaf that is not what it was."""
  named = named_leaves(tree)
  parts = {path: leaf_sum(leaf, _salt(path)) for path, leaf in named.items() if leaf.size}
  return {path: int(part) for path, part in jax.device_get(parts).items()}


def is_name(name: str) -> bool:
  """True for a part of a path that stays inside its folder."""
  return bool(_NAME.fullmatch(name)) and name not in (".", "..")


def _salt(path: str) -> jax.Array:
  digest = hashlib.sha256(path.encode()).digest()[:4]
  return jnp.uint32(int.from_bytes(digest, "little"))


@jax.jit
def leaf_sum(x: jax.Array, salt: jax.Array) -> jax.Array:
  """The sum of one leaf, uint32; empty ones give the salt."""
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  width = min(x.dtype.itemsize, 4)
  bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * width}")).astype(jnp.uint32)
  # One iota per axis instead of a reshape, which would gather a sharded array.
  position, stride = jnp.zeros((), jnp.uint32), 1
  for axis in reversed(range(bits.ndim)):
    iota = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    position = position + iota * jnp.uint32(stride % 2**32)
    stride *= bits.shape[axis]
  weight = (position * jnp.uint32(_ODD) + salt) | jnp.uint32(1)
  return jnp.sum(bits * weight, dtype=jnp.uint32) + salt


def _name(entry) -> str:
  name = str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))
  if not is_name(name):
    raise UserError(
      f"parameter name {name!r} cannot be saved: use letters, digits, '_', '-' and '.' only"
    )
  return name
