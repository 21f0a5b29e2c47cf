"""One set of weights in three layouts; and checkpoints that must be refused, each by its reason."""

import json
import pickle
import re
import shutil

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import safetensors.numpy
import tensorstore
from t5_cases import (
  V1_1,
  VERSIONS,
  hugging_face_config,
  hugging_face_tensors,
  random_params,
  write_hugging_face,
  write_t5x_legacy,
  write_t5x_zarr,
)

from noise2music.errors import UserError
from noise2music.text.stored_arrays import t5x_arrays
from noise2music.text.t5_weights import load_t5

PARAMS = random_params(V1_1, seed=5)
QUERY = "encoder/layers_1/attention/query/kernel"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_layout_gives_the_same(version, tmp_path):
  config = VERSIONS[version]
  stored = random_params(config, seed=5)
  paths = [
    write_t5x_zarr(tmp_path / "zarr", stored),
    write_t5x_zarr(tmp_path / "chunked", stored, chunk=7),
    tmp_path / "zarr" / "checkpoint",
    write_t5x_legacy(tmp_path / "legacy" / "checkpoint", stored),
    tmp_path / "legacy",
    write_hugging_face(tmp_path / "one", config, stored),
    write_hugging_face(tmp_path / "three", config, stored, files=3),
  ]
  loaded = [load_t5(path) for path in paths]
  for path, (have_config, params) in zip(paths, loaded, strict=True):
    assert have_config == config, path
    jax.tree.map(np.testing.assert_array_equal, params, loaded[0][1])
    assert all(p.dtype == np.float32 for p in jax.tree.leaves(params)), path
  params = loaded[0][1]
  query = params["layers_1"]["attention"]["query"]["kernel"]
  assert query.shape == (16, 3, 4)
  np.testing.assert_array_equal(query[:, 2, 1], stored[QUERY][:, 9])
  out = params["layers_0"]["attention"]["out"]["kernel"]
  np.testing.assert_array_equal(out[2, 1], stored["encoder/layers_0/attention/out/kernel"][9])


def test_half_precision_is_read_as_float32(tmp_path):
  half = {name: np.asarray(value.astype(jnp.bfloat16)) for name, value in PARAMS.items()}
  want = half[QUERY].astype(np.float32).reshape(16, 3, 4)
  for path in (
    write_t5x_zarr(tmp_path / "zarr", half),
    write_hugging_face(tmp_path / "hf", V1_1, half),
  ):
    _, params = load_t5(path)
    have = params["layers_1"]["attention"]["query"]["kernel"]
    assert have.dtype == np.float32
    np.testing.assert_array_equal(have, want)


def test_hugging_face_names_of_other_versions(tmp_path):
  folder = write_hugging_face(tmp_path / "hf", V1_1, PARAMS)
  _, want = load_t5(folder)
  tensors = hugging_face_tensors(V1_1, PARAMS)
  tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
  tensors["decoder.final_layer_norm.weight"] = np.ones(16, np.float32)
  tensors["lm_head.weight"] = np.ones((32, 16), np.float32)
  safetensors.numpy.save_file(tensors, folder / "model.safetensors")
  _, have = load_t5(folder)
  jax.tree.map(np.testing.assert_array_equal, have, want)


def test_layout_is_that_of_t5x(tmp_path):
  """Names and metadata copied from a checkpoint that T5X itself wrote."""
  folder = write_t5x_zarr(tmp_path / "zarr", PARAMS)
  name = "target.encoder.layers_0.pre_attention_layer_norm.scale"
  assert {".zarray", "0"} == {p.name for p in (folder / name).iterdir()}
  assert json.loads((folder / name / ".zarray").read_text()) == {
    "chunks": [16],
    "compressor": {"id": "gzip", "level": 1},
    "dimension_separator": ".",
    "dtype": "<f4",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": [16],
    "zarr_format": 2,
  }
  assert "decoder/decoder_norm/scale" in t5x_arrays(folder / "checkpoint")


def _refused(path, words: str) -> None:
  """Raises a UserError of one sentence that names what `words` names and says what to do."""
  with pytest.raises(UserError, match=words) as caught:
    load_t5(path)
  message = str(caught.value)
  assert "\n" not in message
  assert re.search(r"give|copy|save|do not use|make|choose", message), message


def test_places_without_a_checkpoint(tmp_path):
  _refused(tmp_path / "none", "there is no .*none")
  _refused(tmp_path, "holds no T5 checkpoint: give a T5X checkpoint .* Hugging Face")
  write_t5x_legacy(tmp_path / "checkpoint_900" / "checkpoint", PARAMS)
  write_t5x_legacy(tmp_path / "checkpoint_1000" / "checkpoint", PARAMS)
  _refused(tmp_path, "2 checkpoints: give one of them, such as .*checkpoint_1000")


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"model_checkpoint_path: 'model.ckpt-1000000'\n",
    pickle.dumps({"target": 1}),
    msgpack.packb({"version": 3}),
    msgpack.packb({"target": [1, 2]}),
    msgpack.packb({"optimizer": {"target": {"encoder": msgpack.ExtType(1, b"\x93\x91")}}}),
    b"\xdf\xff\xff\xff\xff",  # a map that claims four billion entries
    b"\x81\xa6target" * 5000,
  ],
)
def test_foreign_bytes_are_no_t5x_checkpoint(content, tmp_path):
  path = tmp_path / "checkpoint"
  path.write_bytes(content)
  _refused(path, "damaged or no T5X checkpoint")


def test_nothing_is_unpickled(tmp_path):
  folder = tmp_path / "hf"
  folder.mkdir()
  (folder / "config.json").write_text(json.dumps(hugging_face_config(V1_1)))
  (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"shared.weight": 1}))
  _refused(folder, "only pickled.*safetensors")


@pytest.mark.parametrize("layout", ["legacy", "zarr"])
def test_t5x_checkpoints_with_wrong_arrays(layout, tmp_path):
  write = {"legacy": write_t5x_legacy, "zarr": write_t5x_zarr}[layout]
  lacking = {k: v for k, v in PARAMS.items() if k != QUERY}
  _refused(write(tmp_path / "a", lacking), f"has no {QUERY}")
  _refused(
    write(tmp_path / "b", PARAMS | {QUERY: np.ones((16, 11), np.float32)}),
    r"layers_1.attention.query.kernel has shape \(16, 11\).* needs \(16, 12\)",
  )
  extra = {"encoder/layers_1/relpos_bias/rel_embedding": np.ones((3, 32), np.float32)}
  _refused(write(tmp_path / "c", PARAMS | extra), "layers_1/relpos_bias.* no T5 1.0 or 1.1")
  _refused(
    write(tmp_path / "d", PARAMS | {QUERY: np.ones((16, 12), np.int32)}),
    "layers_1.attention.query.kernel holds int32",
  )
  heads = {"encoder/relpos_bias/rel_embedding": np.ones((5, 32), np.float32)}
  _refused(write(tmp_path / "e", PARAMS | heads), "5 heads.*12 columns")
  decoder = {"token_embedder/embedding": PARAMS["token_embedder/embedding"]}
  _refused(write(tmp_path / "f", decoder), "has no encoder/relpos_bias.*T5 with an encoder")
  no_layers = {k: v for k, v in PARAMS.items() if "layers_0" not in k}
  _refused(write(tmp_path / "g", no_layers), "has no encoder/layers_0/attention/query/kernel")


@pytest.fixture
def damaged_zarr(tmp_path):
  """A checkpoint to be damaged, and the folder of one of its arrays, in six chunks."""
  folder = write_t5x_zarr(tmp_path / "zarr", PARAMS, chunk=6)
  return folder, folder / f"target.{QUERY.replace('/', '.')}"


def test_a_missing_chunk_is_not_zero(damaged_zarr):
  folder, array = damaged_zarr
  spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": str(array)}}
  (array / "1.1").unlink()
  # What makes the check necessary: tensorstore does not mind.
  assert not tensorstore.open(spec).result().read().result()[6:12, 6:12].any()
  _refused(folder, "query.kernel has 5 of its 6 chunks")
  (array / "note.txt").write_text("one file too many")
  _refused(folder, r"query.kernel lacks its chunk 1\.1")


def test_damaged_zarr_arrays(damaged_zarr):
  folder, array = damaged_zarr
  chunk = (array / "1.1").read_bytes()
  (array / "1.1").write_bytes(chunk[: len(chunk) // 2])
  _refused(folder, "query.kernel cannot be read")
  (array / "1.1").write_bytes(chunk)
  metadata = json.loads((array / ".zarray").read_text())
  for change, words in [
    ({"shape": [16, 2**40]}, "has 6 of its"),
    ({"shape": [2**40, 2**40], "chunks": [2**40, 2**40]}, "lacks its chunk|too small"),
    ({"shape": [18, 12], "chunks": [6, 6]}, r"shape \(18, 12\)"),
    ({"shape": "many"}, "describes no array"),
    ({"chunks": [0, 6]}, "describes no array"),
    ({"dtype": "|O"}, "query.kernel"),
    ({"dtype": [["a", "<f4"]]}, "describes no array|cannot be read"),
  ]:
    (array / ".zarray").write_text(json.dumps(metadata | change))
    _refused(folder, words)
  (array / ".zarray").write_text("{")
  _refused(folder, "query.kernel.*is not JSON")
  shutil.rmtree(array)
  _refused(folder, r"query.kernel/\.zarray is missing")


def test_a_claim_too_large_for_its_file(damaged_zarr):
  folder, array = damaged_zarr
  metadata = json.loads((array / ".zarray").read_text())
  metadata |= {"shape": [2**30, 2**30], "chunks": [2**30, 2**30]}
  (array / ".zarray").write_text(json.dumps(metadata))
  (array / "0.0").write_bytes(b"\x1f\x8b" + bytes(100))
  _refused(folder, "files are too small")


def test_names_do_not_lead_out_of_the_folder(tmp_path):
  spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": "/etc/"}}
  tree = {"optimizer": {"target": {"encoder": {"..": {"x": spec}}}}}
  (tmp_path / "checkpoint").write_bytes(msgpack.packb(tree))
  _refused(tmp_path, "no name of a weight")
  folder = write_hugging_face(tmp_path / "hf", V1_1, PARAMS, files=2)
  index = folder / "model.safetensors.index.json"
  index.write_text(json.dumps({"weight_map": {"shared.weight": "../model.safetensors"}}))
  _refused(folder, "outside of its folder")


def test_damaged_safetensors(tmp_path):
  folder = write_hugging_face(tmp_path / "hf", V1_1, PARAMS)
  path = folder / "model.safetensors"
  whole = path.read_bytes()
  huge = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
  for content in (
    b"",
    whole[:4],
    whole[:100],
    whole[:-1],
    whole + b"\0",
    (2**63).to_bytes(8, "little") + whole[8:],
    len(huge).to_bytes(8, "little") + huge,
    pickle.dumps([1]),
  ):
    path.write_bytes(content)
    _refused(folder, r"model\.safetensors is damaged or no safetensors file")
  path.unlink()
  _refused(folder, r"model\.safetensors is missing")


def test_hugging_face_folders_with_wrong_arrays(tmp_path):
  folder = write_hugging_face(tmp_path / "hf", V1_1, PARAMS)
  tensors = hugging_face_tensors(V1_1, PARAMS)
  name = "encoder.block.1.layer.0.SelfAttention.q.weight"
  cases = [
    ({k: v for k, v in tensors.items() if k != name}, f"has no {re.escape(name)}"),
    (tensors | {name: tensors[name].T.copy()}, r"q\.weight has shape \(16, 12\).*\(12, 16\)"),
    (tensors | {"encoder.block.0.layer.2.x": tensors[name]}, "layer.2.x, which no T5"),
    (tensors | {name: tensors[name].astype(np.int64)}, "q.weight holds int64"),
    ({k: v for k, v in tensors.items() if ".block.1." not in k}, "num_layers 2.*have 1"),
    ({k: v for k, v in tensors.items() if k != "shared.weight"}, "has no shared.weight"),
  ]
  for content, words in cases:
    safetensors.numpy.save_file(content, folder / "model.safetensors")
    _refused(folder, words)


def test_bad_indices(tmp_path):
  folder = write_hugging_face(tmp_path / "hf", V1_1, PARAMS, files=2)
  index = folder / "model.safetensors.index.json"
  owners = json.loads(index.read_text())["weight_map"]
  index.write_text(json.dumps({"weight_map": owners | {"absent": owners["shared.weight"]}}))
  _refused(folder, r"lacks absent, which model\.safetensors\.index\.json promises")
  index.write_text(json.dumps({"weight_map": ["shared.weight"]}))
  _refused(folder, "has no weight_map")
  index.write_text(json.dumps({"weight_map": owners}))
  (folder / "model-00002-of-00002.safetensors").unlink()
  _refused(folder, "model-00002-of-00002.safetensors is missing")


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"model_type": "umt5"}, "model_type 'umt5'.*give the folder of a T5"),
    ({"model_type": None}, "model_type None"),
    ({"d_model": "16"}, "config.json has d_model '16'"),
    ({"d_ff": 10**30}, "T5 ffn_width is 1000000000"),
    ({"num_layers": 10**6}, "num_layers 1000000, the weights have 2"),
    ({"num_heads": True}, "num_heads True, which is no number"),
    ({"d_kv": 0}, "config.json: T5 head_dim is 0"),
    ({"feed_forward_proj": "gated-tanh"}, "feed_forward_proj 'gated-tanh'"),
    ({"layer_norm_epsilon": "no"}, "layer_norm_epsilon 'no'"),
    ({"layer_norm_epsilon": -1.0}, "T5 norm_epsilon"),
    ({"vocab_size": 33}, r"shared.weight has shape \(32, 16\).* needs \(33, 16\)"),
  ],
)
def test_bad_settings(change, words, tmp_path):
  folder = write_hugging_face(tmp_path / "hf", V1_1, PARAMS)
  (folder / "config.json").write_text(json.dumps(hugging_face_config(V1_1) | change))
  _refused(folder, words)


def test_settings_that_are_no_settings(tmp_path):
  folder = write_hugging_face(tmp_path / "hf", V1_1, PARAMS)
  settings = hugging_face_config(V1_1)
  settings.pop("d_kv")
  for content, words in [
    (json.dumps(settings), "has no d_kv"),
    ("[1]", "no JSON object"),
    ("{'a': 1}", "is not JSON"),
    ("[" * 100_000, "is not JSON"),
    ("\ufeff\udcff".encode("utf-8", "surrogatepass").decode("latin-1"), "is not JSON"),
  ]:
    (folder / "config.json").write_text(content)
    _refused(folder, words)
