"""The arrays of a foreign checkpoint, known by name, shape and type before any of them is read.

Two layouts: T5X (one msgpack file that holds the arrays, or that names zarr arrays beside it) and
Hugging Face (safetensors, in one file or several). Nothing here is ever unpickled, and no array is
allocated whose size the files on disk do not account for.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from noise2music.errors import UserError

_FLOATS = {np.dtype(t) for t in (np.float16, jnp.bfloat16, np.float32, np.float64)}
_MOST_JSON_BYTES = 64 << 20
# gzip packs at most about 1,030 bytes into one: more than that on disk is a false claim.
_MOST_COMPRESSION = 1_100
_MSGPACK_MAPS = (*range(0x81, 0x90), 0xDE, 0xDF)  # first byte of a map that is not empty


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredArray:
  """One array in a checkpoint.

  where: file and key, for messages. shape: as stored. read: gives the array.
  """

  where: str
  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]

  def load(self) -> np.ndarray:
    """float32, of `shape`. Raises UserError where the data is damaged or no float."""
    try:
      array = self.read()
    except Exception as error:  # each reader has its own kinds of error
      raise UserError(f"{self.where} cannot be read: copy the checkpoint anew") from error
    if array.dtype not in _FLOATS:
      raise UserError(f"{self.where} holds {array.dtype}: give a checkpoint of float weights")
    if array.shape != self.shape:
      raise UserError(
        f"{self.where} has shape {array.shape} and claims {self.shape}: copy the checkpoint anew"
      )
    return np.asarray(array, np.float32)


def read_json(path: Path) -> dict[str, Any]:
  """The object in a JSON file; UserError if it is none or absurdly large."""
  if not path.is_file():
    raise UserError(f"{path} is missing: copy the checkpoint anew, with all of its files")
  try:
    if path.stat().st_size > _MOST_JSON_BYTES:
      raise ValueError("too large")
    value = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path} is not JSON: copy the checkpoint anew") from error
  if not isinstance(value, dict):
    raise UserError(f"{path} holds no JSON object: copy the checkpoint anew")
  return value


def safetensors_arrays(folder: Path) -> dict[str, StoredArray]:
  """The arrays of `model.safetensors`, or of the files that its index names."""
  index = folder / "model.safetensors.index.json"
  if index.is_file():
    owners = read_json(index).get("weight_map")
    if not isinstance(owners, dict) or not all(isinstance(v, str) for v in owners.values()):
      raise UserError(f"{index} has no weight_map: copy the checkpoint anew")
    files = sorted(set(owners.values()))
    for file in files:
      if Path(file).name != file:
        raise UserError(f"{index} names {file!r}, which is outside of its folder: do not use it")
  else:
    files = ["model.safetensors"]
  arrays = {}
  for file in files:
    arrays |= safetensors_file(folder / file)
  if index.is_file() and (lost := sorted(set(owners) - set(arrays))):
    raise UserError(f"{folder} lacks {lost[0]}, which {index.name} promises: copy it anew")
  return arrays


def safetensors_file(path: Path) -> dict[str, StoredArray]:
  """The arrays of one file."""
  import safetensors

  if not path.is_file():
    raise UserError(f"{path} is missing: copy the checkpoint anew, with all of its files")
  try:
    # Opening compares the header with the size of the file.
    file = safetensors.safe_open(path, framework="numpy")
    return {
      key: StoredArray(
        where=f"{path}: {key}",
        shape=tuple(file.get_slice(key).get_shape()),
        read=lambda key=key: file.get_tensor(key),
      )
      for key in file.keys()  # noqa: SIM118 - it is no dictionary
    }
  except Exception as error:  # SafetensorError, OSError, UnicodeDecodeError
    raise UserError(
      f"{path} is damaged or no safetensors file ({_first_line(error)}): copy the checkpoint anew"
    ) from error


def t5x_arrays(path: Path) -> dict[str, StoredArray]:
  """The weights of a T5X checkpoint by their names, such as `encoder/encoder_norm/scale`.

  path: the msgpack file; its zarr arrays, if any, lie in the same folder. The state of the
  optimizer is left out.
  """
  from flax import serialization

  try:
    with path.open("rb") as file:
      if file.read(1)[0] not in _MSGPACK_MAPS:  # a large file of another kind is not even read
        raise ValueError("no msgpack map")
    state = serialization.msgpack_restore(path.read_bytes())
    target = state.get("optimizer", state)["target"]
    leaves = dict(_leaves(target))
  except Exception as error:  # whatever msgpack makes of foreign bytes
    raise UserError(
      f"{path} is damaged or no T5X checkpoint: give a T5X checkpoint or a Hugging Face folder"
    ) from error
  return {name: _t5x_leaf(path, name, leaf) for name, leaf in leaves.items()}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
  for name, value in tree.items():
    if isinstance(value, dict) and "driver" not in value:
      yield from _leaves(value, f"{prefix}{name}/")
    else:
      yield f"{prefix}{name}", value


def _t5x_leaf(path: Path, name: str, leaf: Any) -> StoredArray:
  if isinstance(leaf, np.ndarray):
    return StoredArray(where=f"{path}: {name}", shape=leaf.shape, read=lambda: leaf)
  if not isinstance(leaf, dict) or leaf.get("driver") != "zarr":
    raise UserError(f"{path}: {name} is neither an array nor names one in zarr: copy it anew")
  # The path that the file records is that of the machine it was written on: T5X names the folder
  # after the weight, so ours is made from the name, which also keeps it inside the checkpoint.
  if any(part in ("", ".", "..") for part in name.split("/")):
    raise UserError(f"{path}: {name!r} is no name of a weight: do not use this checkpoint")
  return _zarr_array(path.parent / f"target.{name.replace('/', '.')}")


def _zarr_array(folder: Path) -> StoredArray:
  """A zarr array (version 2), its chunks all there: tensorstore would read absent ones as zero."""
  metadata = read_json(folder / ".zarray")
  try:
    shape = tuple(_size(n) for n in metadata["shape"])
    chunks = tuple(_size(n) for n in metadata["chunks"])
    grid = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    separator = metadata.get("dimension_separator", ".")
    size = math.prod(chunks) * math.prod(grid) * _itemsize(metadata["dtype"])
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"{folder / '.zarray'} describes no array of floats: copy it anew") from error
  present = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
  present.pop(".zarray")
  if math.prod(grid) > len(present):
    raise UserError(
      f"{folder} has {len(present)} of its {math.prod(grid)} chunks: copy the checkpoint anew"
    )
  # "0" is the one chunk of a scalar.
  names = [separator.join(map(str, k)) or "0" for k in itertools.product(*map(range, grid))]
  if lost := [name for name in names if name not in present]:
    raise UserError(f"{folder} lacks its chunk {lost[0]}: copy the checkpoint anew")
  if size > _MOST_COMPRESSION * sum(present[name].stat().st_size for name in names):
    raise UserError(
      f"{folder} claims shape {shape}, for which its files are too small: copy the checkpoint anew"
    )
  return StoredArray(where=str(folder), shape=shape, read=lambda: _read_zarr(folder))


def _read_zarr(folder: Path) -> np.ndarray:
  import tensorstore

  spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(folder)}}
  return tensorstore.open(spec, open=True, read=True).result().read().result()


def _size(value: Any) -> int:
  if type(value) is not int or value < 1:
    raise ValueError(value)
  return value


def _itemsize(name: str) -> int:
  return np.dtype(jnp.bfloat16 if name == "bfloat16" else name).itemsize


def _first_line(error: Exception) -> str:
  return str(error).strip().split("\n")[0]
