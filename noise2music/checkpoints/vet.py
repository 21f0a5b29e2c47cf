"""What can be said of a step's folder before an array in it is read.

A list of the files, written once a step is committed, names the one that was cut off, lost or
changed. And since a checkpoint may come from anyone, nothing is opened that is no plain file inside
the folder, and no array is allocated that the files cannot hold.
"""

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from noise2music.checkpoints.leaves import is_name
from noise2music.errors import UserError

FILES = "files.json"
# Larger files are known by their sizes alone, so that a save never waits for a second reading: the
# arrays in them have fingerprints.
_MOST_HASHED_BYTES = 1 << 20
_MOST_JSON_BYTES = 64 << 20
_MOST_FILES = 1_000_000
_MOST_DEPTH = 64  # of a tree of parameters
_MOST_AXES = 32
# zstd packs zeros to about a 32,000th, and nothing better.
_MOST_COMPRESSION = 40_000


class DamagedError(ValueError):
  """A checkpoint does not hold what was saved."""


def write_list(step: Path) -> None:
  """Notes the files of a step that is committed. Raises OSError."""
  table = {name: _entry(step / name, size) for name, size in _files(step)}
  # Beside the step: nobody who reads it meets a file that comes and goes.
  temporary = step.with_name(f".{FILES}-{step.name}")
  temporary.write_text(json.dumps({"files": table, "checksum": _checksum(table)}))
  os.replace(temporary, step / FILES)


def check_files(step: Path) -> None:
  """Raises DamagedError naming the first file that is not what was saved, or is no plain file."""
  found = dict(_files(step))
  if FILES not in found:
    return  # killed between commit and list, or written before there was one
  listed = read_json(step / FILES)
  table = listed.get("files")
  if not isinstance(table, dict) or listed.get("checksum") != _checksum(table):
    raise DamagedError(f"{FILES} is not what was saved")
  for name, (size, digest) in table.items():
    if name not in found:
      raise DamagedError(f"{name} is missing")
    if found[name] != size:
      raise DamagedError(f"{name} has {found[name]:,} bytes, {size:,} were saved")
    if digest is not None and _entry(step / name, size)[1] != digest:
      raise DamagedError(f"{name} is not what was saved")


def read_json(path: Path) -> dict[str, Any]:
  """Raises DamagedError where it is no JSON object of a reasonable size, or OSError."""
  if (size := path.stat().st_size) > _MOST_JSON_BYTES:
    raise DamagedError(f"{path.name} has {size:,} bytes")
  try:
    value = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise DamagedError(f"{path.name} is no JSON") from error
  if not isinstance(value, dict):
    raise DamagedError(f"{path.name} holds no JSON object")
  return value


def check_leaves(leaves: Any) -> None:
  """Raises DamagedError unless it is {item: {path: [dtype, shape]}}, as `describe` makes it."""
  if not isinstance(leaves, dict):
    raise DamagedError("the manifest lists no arrays")
  for item, table in leaves.items():
    if not is_name(item) or not isinstance(table, dict):
      raise DamagedError(f"the manifest has an item {item[:80]!r}")
    for path, entry in table.items():
      parts = path.split("/")
      if len(parts) > _MOST_DEPTH or not all(map(is_name, parts)):
        raise DamagedError(f"the manifest names an array {path[:80]!r}")
      if not _is_array(entry):
        raise DamagedError(f"the manifest says of {path[:80]!r} that it is {str(entry)[:80]}")


def check_sizes(step: Path, leaves: Mapping[str, Mapping[str, list]]) -> None:
  """Before arrays are allocated as a manifest describes them.

  Raises:
    DamagedError: the files are too small for that, or hold arrays of other shapes.
    UserError: this machine's memory is too small.
  """
  total = largest = 0
  for item, table in leaves.items():
    sizes = [math.prod(shape) * jnp.dtype(dtype).itemsize for dtype, shape in table.values()]
    stored = sum(size for _, size in _files(step / item))
    if sum(sizes) > _MOST_COMPRESSION * stored:
      raise DamagedError(
        f"{item} claims {sum(sizes) / 1e9:,.1f} GB, for which its files are too small"
      )
    total, largest = total + sum(sizes), max([largest, *sizes])
  # On other devices than CPUs the arrays pass through this memory one after the other.
  needed = total if jax.default_backend() == "cpu" else largest
  if (free := _free_memory()) is not None and needed > free:
    raise UserError(
      f"{step} needs {needed / 1e9:,.1f} GB of memory, {free / 1e9:,.1f} GB are free: "
      "load it on a machine with more"
    )
  for item, table in leaves.items():
    _check_stored(step / item, table)


def _check_stored(folder: Path, table: Mapping[str, list]) -> None:
  """The arrays have the shapes of the manifest, and chunks no larger than themselves."""
  import tensorstore

  spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
  store = tensorstore.KvStore.open(spec).result()
  read = {path: store.read(f"{path.replace('/', '.')}/.zarray") for path in table}
  for path, (dtype, shape) in table.items():
    value = read[path].result().value
    if len(value) > _MOST_JSON_BYTES:
      raise DamagedError(f"{path} has a description of {len(value):,} bytes")
    found = json.loads(value)
    chunk = math.prod(found["chunks"]) if _is_shape(found["chunks"]) else math.inf
    if found["shape"] != shape or chunk > max(1, math.prod(shape)):
      raise DamagedError(
        f"{path} is stored as {str(found['shape'])[:80]} in pieces of {str(found['chunks'])[:80]}, "
        f"the manifest says {dtype}{shape}"
      )


def _files(folder: Path) -> Iterator[tuple[str, int]]:
  """(path inside the folder, bytes) of every file. Raises DamagedError on anything but files."""
  rooms, count = [folder], 0
  while rooms:
    for entry in os.scandir(rooms.pop()):
      mode, name = entry.stat(follow_symlinks=False).st_mode, os.path.relpath(entry.path, folder)
      count += 1
      if count > _MOST_FILES:
        raise DamagedError(f"it has more than {_MOST_FILES:,} files")
      if stat.S_ISDIR(mode):
        if name.count(os.sep) >= _MOST_DEPTH:
          raise DamagedError(f"{name[:80]} lies too deep")
        rooms.append(Path(entry.path))
      elif stat.S_ISREG(mode):
        yield name, entry.stat(follow_symlinks=False).st_size
      else:
        raise DamagedError(f"{name} is a link or a device, not a file")


def _entry(path: Path, size: int) -> list:
  if size > _MOST_HASHED_BYTES:
    return [size, None]
  return [size, hashlib.sha256(path.read_bytes()).hexdigest()]


def _checksum(table: Mapping[str, list]) -> str:
  return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def _is_array(entry: Any) -> bool:
  if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
    return False
  try:
    dtype = jnp.dtype(entry[0])
  except TypeError:
    return False
  number = jnp.issubdtype(dtype, jnp.number) or dtype == jnp.bool_
  return number and _is_shape(entry[1])


def _is_shape(shape: Any) -> bool:
  if not isinstance(shape, list) or len(shape) > _MOST_AXES:
    return False
  return all(type(n) is int and 0 <= n < 2**48 for n in shape)


def _free_memory() -> int | None:
  """Bytes; None where the system does not say."""
  try:
    with open("/proc/meminfo") as lines:
      row = next(line for line in lines if line.startswith("MemAvailable"))
  except (OSError, StopIteration):
    return None
  return int(row.split()[1]) * 1024
