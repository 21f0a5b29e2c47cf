"""Published weights for `T5Encoder`: from T5X and from Hugging Face, the decoder left out.

Both keep every matrix in two dimensions, T5X as [inputs, outputs], Hugging Face transposed; our
parameters have T5X's names, with the heads as an axis of their own. What is stored under `encoder`
and has no place here is an error, for it would change the result.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from flax.core import meta

from noise2music.errors import UserError
from noise2music.text.stored_arrays import StoredArray, read_json, safetensors_arrays, t5x_arrays
from noise2music.text.t5_encoder import T5Config, T5Encoder
from noise2music.text.t5_layers import Activation
from noise2music.typing import PyTree

_KINDS = (
  "a T5X checkpoint (a folder with a file named `checkpoint`, or that file) or a Hugging Face "
  "folder (config.json with model.safetensors)"
)
# Keys of config.json by the names of T5Config.
_SIZES = {
  "vocab_size": "vocab_size",
  "width": "d_model",
  "layers": "num_layers",
  "heads": "num_heads",
  "head_dim": "d_kv",
  "ffn_width": "d_ff",
}
_OPTIONAL = {
  "buckets": "relative_attention_num_buckets",
  "max_distance": "relative_attention_max_distance",
  "norm_epsilon": "layer_norm_epsilon",
}
# umT5, LongT5 and the like have other layers under the same names.
_MODEL_TYPES = ("t5", "mt5")
_FIRST_LAYER = "encoder.block.0.layer.0.SelfAttention"
_HUGGING_FACE_NAMES = {
  "token_embedder/embedding": "shared.weight",
  "relpos_bias/rel_embedding": f"{_FIRST_LAYER}.relative_attention_bias.weight",
  "encoder_norm/scale": "encoder.final_layer_norm.weight",
  "pre_attention_layer_norm/scale": "layer.0.layer_norm.weight",
  "attention/query/kernel": "layer.0.SelfAttention.q.weight",
  "attention/key/kernel": "layer.0.SelfAttention.k.weight",
  "attention/value/kernel": "layer.0.SelfAttention.v.weight",
  "attention/out/kernel": "layer.0.SelfAttention.o.weight",
  "pre_mlp_layer_norm/scale": "layer.1.layer_norm.weight",
  "mlp/wi/kernel": "layer.1.DenseReluDense.wi.weight",
  "mlp/wi_0/kernel": "layer.1.DenseReluDense.wi_0.weight",
  "mlp/wi_1/kernel": "layer.1.DenseReluDense.wi_1.weight",
  "mlp/wo/kernel": "layer.1.DenseReluDense.wo.weight",
}


def load_t5(path: str | Path) -> tuple[T5Config, PyTree]:
  """The sizes and weights of the encoder in a T5 checkpoint.

  A T5X checkpoint does not record two settings, which are then those of all published ones: GELU by
  tanh in a gated feed-forward and ReLU in a plain one, and 128 as the largest relative distance.

  Args:
    path: a T5X checkpoint (its folder, or the one file of the older form) or a Hugging Face folder.

  Returns:
    config, params: `T5Encoder(config).apply({"params": params}, tokens, mask)`; params are float32
    numpy arrays.

  Raises:
    UserError: no checkpoint there, or it is damaged, incomplete, or of another kind of model.
  """
  path = Path(path)
  if path.is_file():
    return _load_t5x(path)
  if (path / "checkpoint").is_file():
    return _load_t5x(path / "checkpoint")
  if (path / "config.json").is_file():
    return _load_hugging_face(path)
  if not path.is_dir():
    raise UserError(f"there is no {path}: give {_KINDS}")
  steps = [p for p in path.glob("checkpoint_*") if (p / "checkpoint").is_file()]
  if steps:
    last = max(steps, key=lambda p: (len(p.name), p.name))
    raise UserError(f"{path} holds {len(steps)} checkpoints: give one of them, such as {last}")
  raise UserError(f"{path} holds no T5 checkpoint: give {_KINDS}")


def _load_t5x(path: Path) -> tuple[T5Config, PyTree]:
  stored = {
    name: array
    for name, array in t5x_arrays(path).items()
    if name.startswith(("encoder/", "token_embedder/"))
  }
  config = _config_of_t5x(path, stored)
  names = {
    ours: ours if ours.startswith("token_embedder/") else f"encoder/{ours}"
    for ours in _parameter_shapes(config)
  }
  return config, _load(path, config, stored, names, transposed=False)


def _config_of_t5x(path: Path, stored: Mapping[str, StoredArray]) -> T5Config:
  """The sizes as the shapes tell them; T5X keeps them in the gin file of the run."""

  def shape(name: str) -> tuple[int, int]:
    if name not in stored:
      raise UserError(f"{path} has no {name}: give the checkpoint of a T5 with an encoder")
    if len(stored[name].shape) != 2:
      raise UserError(f"{stored[name].where} has shape {stored[name].shape}, a T5 has two axes")
    return stored[name].shape

  vocab_size, width = shape("token_embedder/embedding")
  heads, buckets = shape("encoder/relpos_bias/rel_embedding")
  gated = "encoder/layers_0/mlp/wi_0/kernel" in stored
  joined_heads = shape("encoder/layers_0/attention/query/kernel")[1]
  if joined_heads % heads:
    raise UserError(
      f"{path} has {heads} heads in its relative positions, by which the {joined_heads} columns of "
      "encoder/layers_0/attention/query/kernel cannot be divided: copy the checkpoint anew"
    )
  return T5Config(
    vocab_size=vocab_size,
    width=width,
    layers=_count(stored, r"encoder/layers_(\d+)/"),
    heads=heads,
    head_dim=joined_heads // heads,
    ffn_width=shape(f"encoder/layers_0/mlp/{'wi_0' if gated else 'wi'}/kernel")[1],
    gated=gated,
    activation=Activation.GELU_TANH if gated else Activation.RELU,
    buckets=buckets,
  )


def _load_hugging_face(folder: Path) -> tuple[T5Config, PyTree]:
  config_path = folder / "config.json"
  settings = read_json(config_path)
  if settings.get("model_type") not in _MODEL_TYPES:
    raise UserError(
      f"{config_path} has model_type {settings.get('model_type')!r}: give the folder of a T5 "
      f"(one of {list(_MODEL_TYPES)})"
    )
  if not any(folder.glob("model.safetensors*")) and any(folder.glob("*.bin")):
    raise UserError(
      f"{folder} holds its weights only pickled, which can run foreign code: save it once more as "
      "safetensors"
    )
  stored = safetensors_arrays(folder)
  # One matrix under two names; either may be the one that was kept.
  alias = stored.pop("encoder.embed_tokens.weight", None)
  if alias is not None:
    stored.setdefault("shared.weight", alias)
  config = _config_of_hugging_face(config_path, settings)
  layers = _count(stored, r"encoder\.block\.(\d+)\.")
  if layers != config.layers:
    raise UserError(
      f"{config_path} has num_layers {config.layers}, the weights have {layers}: copy both anew"
    )
  stored = {name: a for name, a in stored.items() if name.startswith(("encoder.", "shared."))}
  names = {ours: _hugging_face_name(ours) for ours in _parameter_shapes(config)}
  return config, _load(folder, config, stored, names, transposed=True)


def _config_of_hugging_face(path: Path, settings: Mapping) -> T5Config:
  missing = [theirs for theirs in _SIZES.values() if theirs not in settings]
  if missing:
    raise UserError(f"{path} has no {missing[0]}: copy the checkpoint anew")
  fields = {ours: settings[theirs] for ours, theirs in _SIZES.items()}
  fields |= {ours: settings[theirs] for ours, theirs in _OPTIONAL.items() if theirs in settings}
  for ours, value in fields.items():
    if type(value) is not (float if ours == "norm_epsilon" else int):
      theirs = (_SIZES | _OPTIONAL)[ours]
      raise UserError(f"{path} has {theirs} {value!r}, which is no number: copy it anew")
  kind = str(settings.get("feed_forward_proj", "relu"))
  gated = kind.startswith("gated-")
  try:
    # "gated-gelu" means the approximation, for the sake of the first files of T5 1.1.
    name = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    activation = Activation(name)
  except ValueError as error:
    known = ", ".join(a.value for a in Activation)
    raise UserError(f"{path} has feed_forward_proj {kind!r}: give a T5 with {known}") from error
  try:
    return T5Config(**fields, gated=gated, activation=activation)
  except UserError as error:
    raise UserError(f"{path}: {error}") from error


def _hugging_face_name(ours: str) -> str:
  layer = re.fullmatch(r"layers_(\d+)/(.+)", ours)
  if layer:
    return f"encoder.block.{layer[1]}.{_HUGGING_FACE_NAMES[layer[2]]}"
  return _HUGGING_FACE_NAMES[ours]


def _count(stored: Mapping[str, StoredArray], pattern: str) -> int:
  """How many layers the names speak of; were one left out, `_load` would name what it lacks."""
  return len({match[1] for name in stored if (match := re.match(pattern, name))})


def _parameter_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
  """Shapes of the encoder's parameters by names such as `layers_0/mlp/wo/kernel`."""
  tokens, mask = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), jnp.bool_)
  variables = jax.eval_shape(T5Encoder(config).init, jax.random.key(0), tokens, mask)
  params = traverse_util.flatten_dict(meta.unbox(variables)["params"], sep="/")
  return {name: leaf.shape for name, leaf in params.items()}


def _load(
  path: Path,
  config: T5Config,
  stored: Mapping[str, StoredArray],
  names: Mapping[str, str],
  *,
  transposed: bool,
) -> PyTree:
  """Compares every name and shape, and only then reads."""
  unknown = sorted(set(stored) - set(names.values()))
  missing = sorted(set(names.values()) - set(stored))
  if missing:
    raise UserError(f"{path} has no {missing[0]}: give a complete checkpoint of a T5 encoder")
  if unknown:
    raise UserError(f"{path} has {unknown[0]}, which no T5 1.0 or 1.1 has: give one of these")
  shapes = _parameter_shapes(config)
  flips = {
    ours: transposed and len(shape) > 1 and ours != "token_embedder/embedding"
    for ours, shape in shapes.items()
  }
  for ours, shape in shapes.items():
    array = stored[names[ours]]
    want = _two_axes(ours, shape)
    want = want[::-1] if flips[ours] else want
    if array.shape != want:
      raise UserError(
        f"{array.where} has shape {array.shape}, the rest of the checkpoint needs {want}: "
        "copy it anew"
      )
  params = {}
  for ours, shape in shapes.items():
    array = stored[names[ours]].load()
    params[ours] = np.ascontiguousarray(array.T if flips[ours] else array).reshape(shape)
  return traverse_util.unflatten_dict(params, sep="/")


def _two_axes(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
  """The shape without an axis for heads: [inputs, outputs]."""
  if len(shape) < 3:
    return shape
  inputs = 2 if name.endswith("/out/kernel") else 1
  return math.prod(shape[:inputs]), math.prod(shape[inputs:])
