"""Published weights for `VGGish`: the checkpoint of its authors, torchvggish's, or our own file.

All three hold the same numbers, torch's with the axes in another order; what is loaded is float32
numpy by the names of the layers, the same to the bit from each. Nothing is ever unpickled.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluation.embedders.torch_file import LEGACY_MAGIC, ZIP_MAGIC, torch_arrays
from noise2music.evaluation.embedders.vggish import LAYERS, canonical
from noise2music.text.stored_arrays import StoredArray, safetensors_file
from noise2music.typing import PyTree

VARIABLE = "N2M_VGGISH"  # where the weights lie, for whoever does not say so each time
FETCH = (
  "fetch https://storage.googleapis.com/audioset/vggish_model.ckpt, or vggish-10086976.pth from"
  " https://github.com/harritaylor/torchvggish/releases/tag/v0.1, and give its path, as in"
  f" vggish:PATH or {VARIABLE}=PATH"
)
_PARTS = ("kernel", "bias")
# What would be one more layer; what optimisers and PCA leave in a file changes nothing.
_LAYER = re.compile(
  r"vggish/.+/(weights|biases)|(features|embeddings)\.\d+\.(weight|bias)|\w+/(kernel|bias)"
)
# A TF1 checkpoint is a table of LevelDB, which ends so.
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")
_TF_NAMES = {
  "conv1": "vggish/conv1",
  "conv2": "vggish/conv2",
  "conv3_1": "vggish/conv3/conv3_1",
  "conv3_2": "vggish/conv3/conv3_2",
  "conv4_1": "vggish/conv4/conv4_1",
  "conv4_2": "vggish/conv4/conv4_2",
  "fc1_1": "vggish/fc1/fc1_1",
  "fc1_2": "vggish/fc1/fc1_2",
  "fc2": "vggish/fc2",
}
_TORCH_NAMES = {
  "conv1": "features.0",
  "conv2": "features.3",
  "conv3_1": "features.6",
  "conv3_2": "features.8",
  "conv4_1": "features.11",
  "conv4_2": "features.13",
  "fc1_1": "embeddings.0",
  "fc1_2": "embeddings.2",
  "fc2": "embeddings.4",
}


def load_vggish(path: str | Path | None = None) -> PyTree:
  """The parameters of `VGGish`, float32.

  path: of `vggish_model.ckpt`, `vggish-10086976.pth` (of any version of torch) or a file that
  `save_vggish` wrote; what it is shows in its content. None: what N2M_VGGISH says.

  Raises UserError where there is no file, or it is damaged, incomplete or of another network.
  """
  path = path or os.environ.get(VARIABLE)
  if not path:
    raise UserError(f"VGGish has no weights: {FETCH}")
  if not Path(path).is_file():
    raise UserError(f"there are no weights of VGGish at {path}: {FETCH}")
  return read_weights(Path(path))


def save_vggish(params: PyTree, path: str | Path) -> None:
  """As safetensors by our own names, which load without TensorFlow."""
  from safetensors.numpy import save_file

  save_file(dict(canonical(params)), str(path))


def read_weights(path: Path, *, layers: Mapping[str, tuple[int, ...]] = LAYERS) -> PyTree:
  """{layer: {kernel, bias}} as `layers` has their shapes; every name and shape is compared before
  any array is read. Raises UserError."""
  arrays, name_of, is_torch = _opened(path)
  names = {(layer, part): name_of(layer, part) for layer in layers for part in _PARTS}
  if missing := [name for name in names.values() if name not in arrays]:
    raise UserError(f"{path} has no {missing[0]}: give the weights of a whole VGGish")
  if foreign := sorted(n for n in set(arrays) - set(names.values()) if _LAYER.fullmatch(n)):
    raise UserError(f"{path} has {foreign[0]}, which no VGGish has: give the weights of one")
  for (layer, part), name in names.items():
    shape = layers[layer] if part == "kernel" else layers[layer][-1:]
    wanted = _torch_shape(shape) if is_torch else shape
    if arrays[name].shape != wanted:
      raise UserError(
        f"{arrays[name].where} has shape {list(arrays[name].shape)}, VGGish needs {list(wanted)}:"
        " give the weights of one"
      )

  def loaded(name: str) -> np.ndarray:
    array = arrays[name].load()
    if not np.isfinite(array).all():
      raise UserError(f"{arrays[name].where} holds NaN or infinity: fetch the weights anew")
    return np.ascontiguousarray(_from_torch(array) if is_torch else array)

  return {layer: {part: loaded(names[layer, part]) for part in _PARTS} for layer in layers}


def _opened(path: Path) -> tuple[dict[str, StoredArray], Callable[[str, str], str], bool]:
  """(arrays, their name by layer and part, whether torch orders the axes)"""
  with path.open("rb") as file:
    head = file.read(16)
    file.seek(max(0, path.stat().st_size - len(_TABLE_MAGIC)))
    tail = file.read()
  if head.startswith((ZIP_MAGIC, LEGACY_MAGIC)) or path.suffix in (".pth", ".pt"):
    parts = {"kernel": "weight", "bias": "bias"}
    return torch_arrays(path), lambda layer, part: f"{_TORCH_NAMES[layer]}.{parts[part]}", True
  if head[8:9] == b"{" or path.suffix == ".safetensors":
    return safetensors_file(path), lambda layer, part: f"{layer}/{part}", False
  if tail == _TABLE_MAGIC:
    parts = {"kernel": "weights", "bias": "biases"}
    return _tf_arrays(path), lambda layer, part: f"{_TF_NAMES[layer]}/{parts[part]}", False
  raise UserError(f"{path} is cut off, or no file of VGGish's weights: {FETCH}")


def _tf_arrays(path: Path) -> dict[str, StoredArray]:
  try:
    import tensorflow as tf
  except ImportError as error:
    raise UserError(
      f"{path} is read by TensorFlow: pip install 'noise2music[tf]', or give vggish-10086976.pth"
    ) from error
  try:
    reader = tf.train.load_checkpoint(str(path))
    shapes = reader.get_variable_to_shape_map()
  except Exception as error:  # whatever TensorFlow makes of foreign bytes
    raise UserError(f"{path} is damaged or no checkpoint of TensorFlow: fetch it anew") from error
  return {
    name: StoredArray(
      where=f"{path}: {name}",
      shape=tuple(shape),
      read=lambda name=name: np.asarray(reader.get_tensor(name)),
    )
    for name, shape in shapes.items()
  }


def _torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
  """[height, width, in, out] -> [out, in, height, width]; [in, out] -> [out, in]."""
  return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _from_torch(array: np.ndarray) -> np.ndarray:
  """The axes of a kernel or bias in our order. torchvggish flattens as we do, so that the rows of
  fc1_1 need no other order."""
  return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
