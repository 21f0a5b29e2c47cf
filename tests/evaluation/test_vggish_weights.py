"""The files in which VGGish is published, written by hand around a network of its layers, small."""

import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from noise2music.errors import UserError
from noise2music.evaluation.embedders import vggish_weights
from noise2music.evaluation.embedders.torch_file import torch_arrays
from noise2music.evaluation.embedders.vggish_weights import load_vggish, read_weights

SMALL = {
  "conv1": (3, 3, 1, 2),
  "conv2": (3, 3, 2, 3),
  "conv3_1": (3, 3, 3, 4),
  "conv3_2": (3, 3, 4, 4),
  "conv4_1": (3, 3, 4, 5),
  "conv4_2": (3, 3, 5, 5),
  "fc1_1": (20, 6),
  "fc1_2": (6, 6),
  "fc2": (6, 7),
}
# Keys as in torchvggish's file: the numbers count ReLU and pooling too.
TORCH = ("features.0", "features.3", "features.6", "features.8", "features.11", "features.13",
         "embeddings.0", "embeddings.2", "embeddings.4")  # fmt: skip
TENSORFLOW = ("conv1", "conv2", "conv3/conv3_1", "conv3/conv3_2", "conv4/conv4_1", "conv4/conv4_2",
              "fc1/fc1_1", "fc1/fc1_2", "fc2")  # fmt: skip


def params() -> dict:
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
  return {name: {"kernel": draw(*s), "bias": draw(s[-1])} for name, s in SMALL.items()}


def torch_state() -> dict[str, np.ndarray]:
  """[out, in, height, width] and [out, in], as torch has them."""
  state = collections.OrderedDict()
  for theirs, layer in zip(TORCH, params().values(), strict=True):
    kernel = layer["kernel"]
    axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
    state[f"{theirs}.weight"] = np.ascontiguousarray(kernel.transpose(axes))
    state[f"{theirs}.bias"] = layer["bias"]
  return state


def ours_state() -> dict[str, np.ndarray]:
  return {f"{name}/{part}": a for name, of in params().items() for part, a in of.items()}


class _Tensor:
  """Pickles as a tensor of torch does."""

  def __init__(self, key: str, array: np.ndarray):
    self.key, self.array = key, array

  def __reduce__(self):
    strides = tuple(s // self.array.itemsize for s in self.array.strides)
    hooks = collections.OrderedDict()
    args = (_Storage(self.key, self.array.size), 0, self.array.shape, strides, False, hooks)
    return sys.modules["torch._utils"]._rebuild_tensor_v2, args


class _Storage:
  def __init__(self, key: str, count: int):
    self.key, self.count = key, count


def _torch_pickle(state, *, legacy: bool, storage: str = "FloatStorage") -> bytes:
  """With modules in the place of torch's, which pickle looks up by name."""
  torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
  kind = type(storage, (), {"__module__": "torch"})
  setattr(torch, storage, kind)

  def _rebuild_tensor_v2():
    """A name alone."""

  _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = (
    utils.__name__,
    "_rebuild_tensor_v2",
  )
  utils._rebuild_tensor_v2 = _rebuild_tensor_v2

  class Pickler(pickle.Pickler):
    def persistent_id(self, item):
      if isinstance(item, _Storage):
        view = (None,) if legacy else ()
        return ("storage", kind, item.key, "cpu", item.count, *view)
      return None

  out = io.BytesIO()
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "torch", torch)
    patch.setitem(sys.modules, "torch._utils", utils)
    Pickler(out, protocol=2).dump(state)
  return out.getvalue()


def _as_tensors(state: dict[str, np.ndarray]) -> dict[str, _Tensor]:
  out = collections.OrderedDict(
    (name, _Tensor(str(number), array)) for number, (name, array) in enumerate(state.items())
  )
  out._metadata = collections.OrderedDict(version=1)  # torch leaves it there
  return out


def torch_zip(path: Path, state: dict[str, np.ndarray], *, storage: str = "FloatStorage") -> Path:
  with zipfile.ZipFile(path, "w") as archive:
    pickled = _torch_pickle(_as_tensors(state), legacy=False, storage=storage)
    archive.writestr("vggish/data.pkl", pickled)
    archive.writestr("vggish/byteorder", "little")
    for number, array in enumerate(state.values()):
      archive.writestr(f"vggish/data/{number}", array.tobytes())
    archive.writestr("vggish/version", "3\n")
  return path


def torch_legacy(path: Path, state: dict[str, np.ndarray]) -> Path:
  machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
  with path.open("wb") as file:
    for head in (0x1950A86A20F9469CFC6C, 1001, machine):
      pickle.dump(head, file, protocol=2)
    file.write(_torch_pickle(_as_tensors(state), legacy=True))
    keys = sorted(str(number) for number in range(len(state)))
    pickle.dump(keys, file, protocol=2)
    arrays = list(state.values())
    for key in keys:
      file.write(struct.pack("<q", arrays[int(key)].size) + arrays[int(key)].tobytes())
  return path


def safetensors(path: Path, state: dict[str, np.ndarray]) -> Path:
  save_file(state, path)
  return path


def tensorflow_v1(path: Path) -> Path:
  tf = pytest.importorskip("tensorflow").compat.v1
  with tf.Graph().as_default(), tf.Session() as session:
    for theirs, layer in zip(TENSORFLOW, params().values(), strict=True):
      tf.Variable(layer["kernel"], name=f"vggish/{theirs}/weights")
      tf.Variable(layer["bias"], name=f"vggish/{theirs}/biases")
    tf.Variable(1.0, name="global_step")
    session.run(tf.global_variables_initializer())
    saver = tf.train.Saver(write_version=tf.train.SaverDef.V1)
    saver.save(session, str(path), write_meta_graph=False, write_state=False)
  assert path.is_file()  # one file, as the published one
  return path


FORMATS: dict[str, Callable[[Path], Path]] = {
  "model.ckpt": tensorflow_v1,
  "zip.pth": lambda path: torch_zip(path, torch_state()),
  "legacy.pth": lambda path: torch_legacy(path, torch_state()),
  "own.safetensors": lambda path: safetensors(path, ours_state()),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_parameters_to_the_bit(name, tmp_path):
  found = read_weights(FORMATS[name](tmp_path / name), layers=SMALL)
  wanted = params()
  assert list(found) == list(wanted)
  for layer, parts in wanted.items():
    for part, array in parts.items():
      assert found[layer][part].flags.c_contiguous
      np.testing.assert_array_equal(found[layer][part], array, strict=True)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_file_is_shows_in_its_content(name, tmp_path):
  path = FORMATS[name](tmp_path / name).rename(tmp_path / "weights")
  assert list(read_weights(path, layers=SMALL)) == list(SMALL)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.999])
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_was_cut_off_is_refused(name, share, tmp_path):
  path = FORMATS[name](tmp_path / name)
  path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
  with pytest.raises(UserError, match=r"cut off|damaged") as caught:
    read_weights(path, layers=SMALL)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  ("name", "first"),
  [
    ("model.ckpt", "vggish/conv1/weights"),
    ("zip.pth", "features.0.weight"),
    ("legacy.pth", "features.0.weight"),
    ("own.safetensors", "conv1/kernel"),
  ],
)
def test_another_shape_is_refused(name, first, tmp_path):
  other = {**SMALL, "conv1": (3, 3, 1, 4)}
  with pytest.raises(UserError, match=rf"{name}: {first} has shape .*: give the weights of one"):
    read_weights(FORMATS[name](tmp_path / name), layers=other)


def test_a_layer_too_few_or_too_many_is_refused(tmp_path):
  state = torch_state()
  lost = state.pop("embeddings.2.bias")
  with pytest.raises(UserError, match=r"has no embeddings.2.bias: give .* a whole VGGish"):
    read_weights(torch_zip(tmp_path / "few.pth", state), layers=SMALL)
  state |= {"embeddings.2.bias": lost, "embeddings.6.weight": lost}
  with pytest.raises(UserError, match=r"has embeddings.6.weight, which no VGGish has"):
    read_weights(torch_zip(tmp_path / "many.pth", state), layers=SMALL)
  state["pproc.pca_means"] = state.pop("embeddings.6.weight")  # of what comes after the network
  assert list(read_weights(torch_zip(tmp_path / "pca.pth", state), layers=SMALL)) == list(SMALL)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
  state = ours_state()
  state["fc1_2/bias"][3] = np.nan
  with pytest.raises(UserError, match=r"own.safetensors: fc1_2/bias holds NaN or infinity: fetch"):
    read_weights(safetensors(tmp_path / "own.safetensors", state), layers=SMALL)


class _Mkdir:
  """What a hostile pickle does when it is loaded."""

  def __init__(self, path: Path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_pickle_is_run(legacy, tmp_path):
  path, made = tmp_path / "evil.pth", tmp_path / "made"
  hostile = pickle.dumps({"features.0.weight": _Mkdir(made)}, protocol=2)
  pickle.loads(hostile)
  assert made.is_dir()  # so it does run where it is let
  made.rmdir()
  if legacy:
    path.write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + hostile)
  else:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("vggish/data.pkl", hostile)
  with pytest.raises(UserError, match=r"names \S+mkdir, which .*: do not use it") as caught:
    read_weights(path, layers=SMALL)
  assert "\n" not in str(caught.value)
  assert not made.exists()


def test_halves_are_refused(tmp_path):
  path = torch_zip(tmp_path / "half.pth", torch_state(), storage="HalfStorage")
  with pytest.raises(UserError, match=r"names torch.HalfStorage, which .* has no need of"):
    read_weights(path, layers=SMALL)


def test_a_tensor_may_be_a_view_but_not_leave_its_storage(tmp_path):
  transposed = np.arange(6, dtype=np.float32).reshape(2, 3).T
  path = torch_zip(tmp_path / "view.pth", {"a": transposed})
  # Storages hold what lies in memory, which for a view is not in its order.
  with zipfile.ZipFile(path) as archive:
    pickled = archive.read("vggish/data.pkl")
  with zipfile.ZipFile(path, "w") as archive:
    archive.writestr("vggish/data.pkl", pickled)
    archive.writestr("vggish/data/0", np.arange(6, dtype="<f4").tobytes())
  np.testing.assert_array_equal(torch_arrays(path)["a"].load(), transposed)
  outside = np.lib.stride_tricks.as_strided(np.zeros(4, np.float32), (2, 2), (16, 4))
  with pytest.raises(UserError, match="leaves its storage"):
    torch_arrays(torch_zip(tmp_path / "outside.pth", {"a": outside}))


@pytest.mark.parametrize(
  ("stored", "how"), [(bytes(20), zipfile.ZIP_STORED), (bytes(24), zipfile.ZIP_DEFLATED)]
)
def test_storages_of_another_size_or_packed_are_refused(stored, how, tmp_path):
  path = tmp_path / "size.pth"
  with zipfile.ZipFile(path, "w") as archive:
    state = {"a": np.zeros(6, np.float32)}
    archive.writestr("vggish/data.pkl", _torch_pickle(_as_tensors(state), legacy=False))
    archive.writestr("vggish/data/0", stored, compress_type=how)
  with pytest.raises(UserError, match="storage 0 has another size"):
    torch_arrays(path)


def test_a_legacy_files_storages_are_compared_with_its_tensors(tmp_path):
  state = {"a": np.arange(6, dtype=np.float32), "b": np.arange(4, dtype=np.float32)}
  path = torch_legacy(tmp_path / "legacy.pth", state)
  np.testing.assert_array_equal(torch_arrays(path)["b"].load(), state["b"])
  counts = struct.pack("<q", 6), struct.pack("<q", 4)
  content = path.read_bytes()
  assert content.count(counts[0]) == content.count(counts[1]) == 1
  path.write_bytes(content.replace(counts[1], struct.pack("<q", 3)))
  with pytest.raises(UserError, match="storage 1 is missing or has another size"):
    torch_arrays(path)


def test_weights_that_are_not_there(tmp_path, monkeypatch):
  monkeypatch.delenv("N2M_VGGISH", raising=False)
  fetch = r"audioset/vggish_model.ckpt, or vggish-10086976.pth .* N2M_VGGISH=PATH"
  with pytest.raises(UserError, match=rf"no weights: fetch .*{fetch}"):
    load_vggish()
  with pytest.raises(UserError, match=rf"no weights of VGGish at .*nothing: fetch .*{fetch}"):
    load_vggish(tmp_path / "nothing")
  monkeypatch.setenv("N2M_VGGISH", str(tmp_path / "elsewhere"))
  with pytest.raises(UserError, match=r"at .*elsewhere: fetch"):
    load_vggish()
  (tmp_path / "words").write_text("words, and nothing but words")
  with pytest.raises(UserError, match="no file of VGGish's weights: fetch"):
    load_vggish(tmp_path / "words")


def test_a_checkpoint_without_tensorflow(tmp_path, monkeypatch):
  path = tmp_path / "model.ckpt"
  path.write_bytes(b"x" * 100 + vggish_weights._TABLE_MAGIC)
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(UserError, match=r"pip install 'noise2music\[tf\]', or give vggish-1008"):
    load_vggish(path)


def test_a_checkpoint_of_the_right_end_alone(tmp_path):
  pytest.importorskip("tensorflow")
  path = tmp_path / "model.ckpt"
  path.write_bytes(b"x" * 100 + vggish_weights._TABLE_MAGIC)
  with pytest.raises(UserError, match="damaged or no checkpoint of TensorFlow") as caught:
    load_vggish(path)
  assert "\n" not in str(caught.value)


def test_the_published_network_is_refused_a_small_ones_weights(tmp_path):
  path = torch_zip(tmp_path / "small.pth", torch_state())
  with pytest.raises(UserError, match=r"shape \[2, 1, 3, 3\], VGGish needs \[64, 1, 3, 3\]"):
    load_vggish(path)
