"""The float tensors of a state dict that torch saved, read without torch and without its pickles.

A pickle can run any code. Here the unpickler knows three names, those that a dictionary of float32
tensors is made of, and none of them does anything; a file that asks for more is refused. Two
layouts: since torch 1.6 a zip archive with one entry a storage, before that pickles in a row and
the storages after them (torch/serialization.py).
"""

import collections
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from noise2music.errors import UserError
from noise2music.text.stored_arrays import StoredArray

ZIP_MAGIC = b"PK\x03\x04"
_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
LEGACY_MAGIC = pickle.dumps(_MAGIC, protocol=2)
_MOST_PICKLE_BYTES = 16 << 20
_FLOATS = object()


class _Storage(NamedTuple):
  key: str
  count: int


class _Tensor(NamedTuple):
  storage: _Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


class _Foreign(Exception):
  """A name that no state dict of float32 tensors needs."""


def torch_arrays(path: Path) -> dict[str, StoredArray]:
  """The tensors by name, read when asked for.

  Raises UserError for a file that is cut off, damaged, or holds anything but float32 tensors.
  """
  try:
    with path.open("rb") as file:
      if file.read(len(ZIP_MAGIC)) == ZIP_MAGIC:
        tensors, read = _from_zip(path)
      else:
        file.seek(0)
        tensors, read = _from_legacy(path, file)
    return {name: _stored(path, name, tensor, read) for name, tensor in tensors.items()}
  except _Foreign as error:
    raise UserError(
      f"{path} names {error}, which a state dict of float32 tensors has no need of: do not use it,"
      " or save the state dict alone"
    ) from error
  except Exception as error:  # whatever pickle and zipfile make of foreign bytes
    raise UserError(
      f"{path} is cut off, damaged or no state dict of torch ({_reason(error)}): fetch it anew"
    ) from error


class _StateDictUnpickler(pickle.Unpickler):
  def find_class(self, module: str, name: str) -> Any:
    known = {
      "collections.OrderedDict": collections.OrderedDict,
      "torch.FloatStorage": _FLOATS,
      "torch._utils._rebuild_tensor_v2": _rebuild,
    }
    if f"{module}.{name}" not in known:
      raise _Foreign(f"{module}.{name}")
    return known[f"{module}.{name}"]

  def persistent_load(self, saved: Any) -> _Storage:
    kind, of, key, _, count, *view = saved
    if kind != "storage" or of is not _FLOATS or any(part is not None for part in view):
      raise ValueError("a storage of another kind")
    return _Storage(str(key), _size(count))


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
  """What torch calls with the storage of a tensor and the place in it."""
  if not isinstance(storage, _Storage) or len(shape) != len(strides):
    raise ValueError("a tensor of another kind")
  out = _Tensor(storage, _size(offset), tuple(map(_size, shape)), tuple(map(_size, strides)))
  last = sum((n - 1) * stride for n, stride in zip(out.shape, out.strides, strict=True))
  if min(out.shape, default=1) < 1 or out.offset + last >= storage.count:
    raise ValueError("a tensor that leaves its storage")
  return out


def _size(value: Any) -> int:
  if type(value) is not int or value < 0:
    raise ValueError(f"{value!r} in place of a size")
  return value


def _from_zip(path: Path) -> tuple[dict[str, _Tensor], Callable[[_Storage], bytes]]:
  with zipfile.ZipFile(path) as archive:
    inside = next((n for n in archive.namelist() if n.split("/")[1:] == ["data.pkl"]), None)
    if inside is None:
      raise ValueError("no data.pkl in it")
    root = inside.removesuffix("data.pkl")
    if archive.getinfo(inside).file_size > _MOST_PICKLE_BYTES:
      raise ValueError("its data.pkl is too large")
    order = f"{root}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
      raise ValueError("its numbers are big-endian")
    with archive.open(inside) as file:
      tensors = _tensors(_StateDictUnpickler(file).load())
    for storage in {tensor.storage for tensor in tensors.values()}:
      entry = archive.getinfo(f"{root}data/{storage.key}")
      # torch compresses nothing, so no entry can grow beyond the file.
      if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != 4 * storage.count:
        raise ValueError(f"its storage {storage.key} has another size")

  def read(storage: _Storage) -> bytes:
    with zipfile.ZipFile(path) as archive:
      return archive.read(f"{root}data/{storage.key}")

  return tensors, read


def _from_legacy(
  path: Path, file: BinaryIO
) -> tuple[dict[str, _Tensor], Callable[[_Storage], bytes]]:
  magic, version, machine, state, keys = (_StateDictUnpickler(file).load() for _ in range(5))
  if (magic, version) != (_MAGIC, _VERSION) or machine["little_endian"] is not True:
    raise ValueError("another magic number, version or order of bytes")
  tensors = _tensors(state)
  size = path.stat().st_size
  starts = {}
  for key in keys:
    (count,) = struct.unpack("<q", file.read(8))
    storage = _Storage(str(key), _size(count))
    starts[storage] = file.tell()
    if starts[storage] + 4 * count > size:
      raise ValueError(f"its storage {key} goes on beyond its end")
    file.seek(4 * count, 1)
  if lost := {tensor.storage for tensor in tensors.values()} - set(starts):
    raise ValueError(f"its storage {min(lost).key} is missing or has another size")

  def read(storage: _Storage) -> bytes:
    with path.open("rb") as again:
      again.seek(starts[storage])
      return again.read(4 * storage.count)

  return tensors, read


def _tensors(state: Any) -> dict[str, _Tensor]:
  if not isinstance(state, dict):
    raise ValueError("no dictionary in it")
  return {str(name): value for name, value in state.items() if isinstance(value, _Tensor)}


def _stored(
  path: Path, name: str, tensor: _Tensor, read: Callable[[_Storage], bytes]
) -> StoredArray:
  def array() -> np.ndarray:
    flat = np.frombuffer(read(tensor.storage), "<f4", tensor.storage.count)[tensor.offset :]
    strides = [4 * stride for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)

  return StoredArray(where=f"{path}: {name}", shape=tensor.shape, read=array)


def _reason(error: Exception) -> str:
  return str(error).strip().split("\n")[0] or type(error).__name__
