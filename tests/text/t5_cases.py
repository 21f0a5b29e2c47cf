"""Small T5 encoders for the tests: weights, a reference in numpy, and writers of each layout.

Everything here is written from the description of T5 and of the three checkpoint layouts, and uses
nothing of `noise2music.text` but the sizes in `T5Config`.
"""

import dataclasses
import json
import math
from pathlib import Path

import msgpack
import numpy as np
import safetensors.numpy
import tensorstore
from flax import serialization

from noise2music.text.t5_encoder import T5Config
from noise2music.text.t5_layers import Activation

GOLDEN = Path(__file__).with_name("golden_t5.npz")
# heads * head_dim differs from the width, as in T5-11B.
V1_1 = T5Config(vocab_size=32, width=16, layers=2, heads=3, head_dim=4, ffn_width=24)
V1_0 = dataclasses.replace(V1_1, gated=False, activation=Activation.RELU)
VERSIONS = {"v1_0": V1_0, "v1_1": V1_1}


def random_params(config: T5Config, *, seed: int) -> dict[str, np.ndarray]:
  """T5X names -> float32 arrays as T5X stores them: matrices [inputs, outputs]."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
  width, ffn, joined = config.width, config.ffn_width, config.heads * config.head_dim
  params = {
    "token_embedder/embedding": normal(config.vocab_size, width),
    "encoder/relpos_bias/rel_embedding": normal(config.heads, config.buckets),
    "encoder/encoder_norm/scale": 1 + 0.1 * normal(width),
  }
  shapes = {f"attention/{name}": (width, joined) for name in ("query", "key", "value")}
  shapes |= {"attention/out": (joined, width), "mlp/wo": (ffn, width)}
  shapes |= {
    f"mlp/{name}": (width, ffn) for name in (("wi_0", "wi_1") if config.gated else ("wi",))
  }
  for k in range(config.layers):
    for name in ("pre_attention_layer_norm", "pre_mlp_layer_norm"):
      params[f"encoder/layers_{k}/{name}/scale"] = 1 + 0.1 * normal(width)
    for name, shape in shapes.items():
      scale = np.float32(1 / math.sqrt(shape[0]))
      params[f"encoder/layers_{k}/{name}/kernel"] = normal(*shape) * scale
  return params


def golden(version: str) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
  """Params as `random_params`, tokens, mask and the output of transformers; see make_golden_t5."""
  with np.load(GOLDEN) as file:
    params = {k.split("/", 1)[1]: file[k] for k in file.files if k.startswith(f"{version}/")}
    encoded = params.pop("encoded")
    return params, file["tokens"], file["tokens"] != 0, encoded


def reference(config: T5Config, params: dict[str, np.ndarray], tokens: list[int]) -> np.ndarray:
  """float64 [L, width]: the encoding of one text without padding, by loops and plain formulas."""
  get = lambda name: params[name].astype(np.float64)  # noqa: E731
  x = get("token_embedder/embedding")[tokens]
  bias = get("encoder/relpos_bias/rel_embedding")
  count = range(len(tokens))
  for k in range(config.layers):
    layer = lambda name, k=k: get(f"encoder/layers_{k}/{name}")  # noqa: E731
    y = _norm(x, layer("pre_attention_layer_norm/scale"))
    q, key, v = (y @ layer(f"attention/{name}/kernel") for name in ("query", "key", "value"))
    heads = []
    for h in range(config.heads):
      part = slice(h * config.head_dim, (h + 1) * config.head_dim)
      logits = np.array(
        [[q[i, part] @ key[j, part] + bias[h, bucket(j - i, config)] for j in count] for i in count]
      )
      weights = np.exp(logits - logits.max(axis=1, keepdims=True))
      heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part])
    x = x + np.concatenate(heads, axis=1) @ layer("attention/out/kernel")
    y = _norm(x, layer("pre_mlp_layer_norm/scale"))
    if config.gated:
      y = _gelu(y @ layer("mlp/wi_0/kernel")) * (y @ layer("mlp/wi_1/kernel"))
    else:
      y = np.maximum(y @ layer("mlp/wi/kernel"), 0)
    x = x + y @ layer("mlp/wo/kernel")
  return _norm(x, get("encoder/encoder_norm/scale"))


def bucket(distance: int, config: T5Config) -> int:
  """The bucket of one distance, found by walking the boundaries upwards."""
  half = config.buckets // 2
  exact = half // 2
  ahead = half if distance > 0 else 0
  steps = abs(distance)
  if steps < exact:
    return ahead + steps
  ratio = config.max_distance / exact
  wide = 0
  # Bucket exact + k begins at exact * ratio^(k / (half - exact)).
  while wide < half - exact - 1 and steps >= exact * ratio ** ((wide + 1) / (half - exact)) - 1e-6:
    wide += 1
  return ahead + exact + wide


def _norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
  return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * scale


def _gelu(x: np.ndarray) -> np.ndarray:
  return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def write_t5x_zarr(folder: Path, params: dict[str, np.ndarray], *, chunk: int = 1000) -> Path:
  """As T5X writes it: a msgpack that names zarr arrays beside it, some optimizer state in it."""
  folder.mkdir(parents=True)
  target = {}
  for name, value in (params | {"decoder/decoder_norm/scale": np.ones(3, np.float32)}).items():
    spec = {
      "driver": "zarr",
      "dtype": value.dtype.name,
      "kvstore": {"driver": "file", "path": f"target.{name.replace('/', '.')}/"},
      "metadata": {
        "shape": list(value.shape),
        "chunks": [min(chunk, n) for n in value.shape],
        "compressor": {"id": "gzip", "level": 1},
      },
    }
    place = {"driver": "file", "path": str(folder / spec["kvstore"]["path"])}
    store = tensorstore.open({**spec, "kvstore": place}, create=True, delete_existing=True).result()
    store.write(value).result()
    _put(target, name, spec)
  step = {"state": {"step": np.int32(0)}, "target": target}
  (folder / "checkpoint").write_bytes(
    serialization.msgpack_serialize({"version": 3, "optimizer": step})
  )
  return folder


def write_t5x_legacy(path: Path, params: dict[str, np.ndarray]) -> Path:
  """The older form: all arrays in one msgpack, each as [shape, type, bytes] under extension 1."""
  target = {}
  for name, value in (params | {"decoder/decoder_norm/scale": np.ones(3, np.float32)}).items():
    packed = msgpack.packb((value.shape, value.dtype.name, value.tobytes()), use_bin_type=True)
    _put(target, name, msgpack.ExtType(1, packed))
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(msgpack.packb({"version": 3, "optimizer": {"state": {}, "target": target}}))
  return path


def hugging_face_tensors(config: T5Config, params: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The same weights under Hugging Face's names, matrices [outputs, inputs]."""
  tensors = {
    "shared.weight": params["token_embedder/embedding"],
    "encoder.final_layer_norm.weight": params["encoder/encoder_norm/scale"],
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": params[
      "encoder/relpos_bias/rel_embedding"
    ].T,
  }
  for k in range(config.layers):
    ours, theirs = f"encoder/layers_{k}", f"encoder.block.{k}.layer"
    for letter, name in zip("qkvo", ("query", "key", "value", "out"), strict=True):
      tensors[f"{theirs}.0.SelfAttention.{letter}.weight"] = params[
        f"{ours}/attention/{name}/kernel"
      ].T
    tensors[f"{theirs}.0.layer_norm.weight"] = params[f"{ours}/pre_attention_layer_norm/scale"]
    tensors[f"{theirs}.1.layer_norm.weight"] = params[f"{ours}/pre_mlp_layer_norm/scale"]
    for name in ("wi_0", "wi_1", "wo") if config.gated else ("wi", "wo"):
      tensors[f"{theirs}.1.DenseReluDense.{name}.weight"] = params[f"{ours}/mlp/{name}/kernel"].T
  return {name: np.ascontiguousarray(value) for name, value in tensors.items()}


def hugging_face_config(config: T5Config) -> dict:
  return {
    "model_type": "t5",
    "vocab_size": config.vocab_size,
    "d_model": config.width,
    "num_layers": config.layers,
    "num_heads": config.heads,
    "d_kv": config.head_dim,
    "d_ff": config.ffn_width,
    "feed_forward_proj": "gated-gelu" if config.gated else "relu",
    "relative_attention_num_buckets": config.buckets,
    "relative_attention_max_distance": config.max_distance,
    "layer_norm_epsilon": config.norm_epsilon,
  }


def write_hugging_face(
  folder: Path, config: T5Config, params: dict[str, np.ndarray], *, files: int = 1
) -> Path:
  """config.json and model.safetensors, or as many files with an index."""
  folder.mkdir(parents=True)
  (folder / "config.json").write_text(json.dumps(hugging_face_config(config)))
  tensors = hugging_face_tensors(config, params)
  if files == 1:
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
  names = sorted(tensors)
  owners = {}
  for k in range(files):
    file = f"model-{k + 1:05}-of-{files:05}.safetensors"
    part = {name: tensors[name] for name in names[k::files]}
    safetensors.numpy.save_file(part, folder / file)
    owners |= dict.fromkeys(part, file)
  index = {"metadata": {}, "weight_map": owners}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index))
  return folder


def _put(tree: dict, name: str, value) -> None:
  *parents, leaf = name.split("/")
  for parent in parents:
    tree = tree.setdefault(parent, {})
  tree[leaf] = value
