"""Checkpoints and weights from people who mean harm: nothing is run, written or filled."""

import ast
import contextlib
import hashlib
import json
import os
import pickle
import resource
from pathlib import Path

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
import tensorstore

from noise2music.checkpoints.manager import CheckpointManager, CheckpointPolicy
from noise2music.checkpoints.restore import restore_params
from noise2music.errors import UserError
from noise2music.pipeline import Pipeline
from noise2music.text.t5_weights import load_t5

ROOT = Path(__file__).resolve().parents[2]
PARAMS = {"network": {"kernel": jnp.arange(4096.0).reshape(64, 64), "bias": jnp.zeros(8)}}


@pytest.fixture
def step(tmp_path):
  """The one checkpoint of a run, its list of files left out as a stranger would."""
  folder = tmp_path / "run" / "checkpoints"
  manager = CheckpointManager(folder, policy=CheckpointPolicy())
  manager.save(1, {"params": PARAMS}, info={"config": ""})
  manager.close()
  (folder / "1" / "files.json").unlink()
  return folder / "1"


@pytest.fixture(autouse=True)
def _nothing_else_happens(tmp_path, monkeypatch):
  """No file outside of the run appears or changes, and memory stays what it was."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / "precious").mkdir()
  (tmp_path / "precious" / "file").write_text("mine")
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  yield
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KB
  assert (tmp_path / "precious" / "file").read_text() == "mine"
  assert {p.name for p in tmp_path.iterdir()} <= {"run", "precious", "weights", "elsewhere"}


def refused(step, match="cannot be read"):
  with pytest.raises(UserError, match=match) as error:
    restore_params(step.parent.parent)
  assert len(str(error.value)) < 1000
  assert "\n" not in str(error.value)


def rewrite(step, change):
  """The manifest as `change` makes it, with a checksum that is right."""
  path = step / "manifest" / "metadata"
  manifest = json.loads(path.read_text())
  manifest.pop("checksum")
  manifest = change(manifest)
  digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
  path.write_text(json.dumps({**manifest, "checksum": digest}))


def with_leaves(leaves):
  return lambda manifest: {**manifest, "leaves": leaves}


NAMES = ["/etc/passwd", "../../precious/file", "..", "a/../b", "a\0b", "", "a//b", "a b", "é"]


@pytest.mark.parametrize("name", [*NAMES, "/".join("a" * 10_000)])
def test_names_that_lead_elsewhere(step, name):
  rewrite(step, with_leaves({"params": {name: ["float32", [8]]}}))
  refused(step, "names an array")
  rewrite(step, with_leaves({name: {"a": ["float32", [8]]}}))
  refused(step, "has an item")


@pytest.mark.parametrize(
  "entry",
  [
    ["object", [8]], ["O", [8]], ["V8", [8]], ["<U9", [8]], ["datetime64[s]", [8]], ["", [8]],
    ["float32", [-1]], ["float32", [2**60]], ["float32", [1.5]], ["float32", [True]],
    ["float32", 8], ["float32", [1] * 100], "float32", None, {"a": 1}, ["float32", [8], 0],
  ],
)  # fmt: skip
def test_arrays_that_are_none(step, entry):
  rewrite(step, with_leaves({"params": {"network/bias": entry}}))
  refused(step, "the manifest says of 'network/bias'")


@pytest.mark.parametrize("leaves", [None, [], "x", {"params": None}, {"params": []}, {}])
def test_manifests_without_arrays(step, leaves):
  rewrite(step, with_leaves(leaves))
  refused(step)


def test_trees_that_are_too_deep_for_the_reader(step):
  path = step / "manifest" / "metadata"
  path.write_text('{"leaves": ' + '{"a": ' * 100_000 + "1" + "}" * 100_001)
  refused(step, "is no JSON")
  path.write_text("[" * 100_000 + "]" * 100_000)
  refused(step, "is no JSON")


def test_a_manifest_of_absurd_size(step):
  os.truncate(step / "manifest" / "metadata", 10 << 30)  # takes no room on the disk
  refused(step, "has 10,737,418,240 bytes")


def test_shapes_that_the_files_cannot_hold(step):
  rewrite(step, with_leaves({"params": {"network/bias": ["float32", [2**30, 8]]}}))
  refused(step, "for which its files are too small")


def test_shapes_that_no_memory_can_hold(step):
  rewrite(step, with_leaves({"params": {"network/bias": ["float32", [2**40]]}}))
  (step / "params" / "d" / "padding").touch()
  os.truncate(step / "params" / "d" / "padding", 1 << 40)
  refused(step, "of memory.*are free: load it on a machine with more")


def stored(step):
  base = {"driver": "file", "path": f"{step / 'params'}/"}
  return tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()


@pytest.mark.parametrize("change", [{"shape": [2**40]}, {"chunks": [2**40]}, {"chunks": "x"}])
def test_stored_arrays_that_are_larger_than_the_manifest_says(step, change):
  store = stored(step)
  described = json.loads(store["network.bias/.zarray"])
  store["network.bias/.zarray"] = json.dumps({**described, **change}).encode()
  refused(step, "network/bias is stored as")


def test_a_bomb_in_a_chunk(step):
  """Far more bytes than the shape has, packed into few."""
  zstandard = pytest.importorskip("zstandard")
  store = stored(step)
  store["network.bias/0"] = zstandard.compress(bytes(600 << 20))
  refused(step)


@pytest.mark.parametrize("where", ["params", "params/d", "manifest/metadata", "params/_METADATA"])
def test_links_are_not_followed(step, where, tmp_path):
  (tmp_path / "elsewhere").mkdir()
  place = step / where
  place.rename(tmp_path / "elsewhere" / place.name)
  place.symlink_to(tmp_path / "elsewhere" / place.name)
  refused(step, "is a link or a device")


def test_pipes_are_not_waited_for(step):
  (step / "params" / "_METADATA").unlink()
  os.mkfifo(step / "params" / "_METADATA")
  refused(step, "is a link or a device")


class Harmful:
  def __reduce__(self):
    return (Path.write_text, (Path("precious/file"), "yours"))


PLACES = [
  "_CHECKPOINT_METADATA",
  "manifest/metadata",
  "params/_METADATA",
  "params/_sharding",
  "params/array_metadatas/process_0",
  "params/checkpoint",  # where orbax once kept small arrays, in msgpack
  "params/manifest.ocdbt",
]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_unpickled(step, place):
  """Refused, or not even looked at: `precious` is what tells."""
  (step / place).write_bytes(pickle.dumps(Harmful()))
  np.savez(step / "params" / "arrays.npz", bias=np.array([Harmful()], dtype=object))
  with contextlib.suppress(UserError):
    params, _, _ = restore_params(step.parent.parent)
    np.testing.assert_array_equal(params["network"]["kernel"], PARAMS["network"]["kernel"])


def test_the_pickle_would_do_harm():
  pickle.loads(pickle.dumps(Harmful()))
  assert Path("precious/file").read_text() == "yours"
  Path("precious/file").write_text("mine")


def test_what_orbax_notes_of_itself_runs_nothing(step):
  path = step / "_CHECKPOINT_METADATA"
  noted = json.loads(path.read_text())
  handlers = dict.fromkeys(noted["item_handlers"], "pathlib.Path.unlink")
  path.write_text(json.dumps({**noted, "item_handlers": handlers}))
  path = step / "params" / "_METADATA"
  tree = json.loads(path.read_text().replace('"network"', '"../../../precious"'))
  path.write_text(json.dumps({**tree, "use_ocdbt": False}))
  refused(step)


CONFIG = """
from __gin__ import dynamic_registration
from noise2music.checkpoints import manager
from noise2music.training import loop
manager.shutil.rmtree.path = 'precious'
loop.Training.objective = @manager.shutil.rmtree()
"""


@pytest.mark.parametrize(
  ("config", "match"),
  [
    (CONFIG, "shutil.rmtree', which is no part of a stage"),
    (
      CONFIG.replace("manager.shutil.rmtree.path", "manager.CheckpointManager.directory"),
      "no part",
    ),
    ("import os", "which is not one of"),
    ("include 'precious/file'", "includes 'precious/file'"),
    ("A = " + "[" * 100_000, "."),
  ],
)
def test_a_config_is_code_and_is_not_run(step, config, match):
  rewrite(step, lambda manifest: {**manifest, "config": config})
  with pytest.raises(UserError, match=match):
    Pipeline.from_pretrained(step.parent.parent)


def deep(levels):
  tree = b"\x01"
  for _ in range(levels):
    tree = b"\x81\xa1a" + tree
  return tree


def ndarray(shape, dtype, data):
  """As flax packs an array."""
  return msgpack.ExtType(1, msgpack.packb((shape, dtype, data), use_bin_type=True))


T5X = {
  "a tree too deep": b"\x81\xa6target" + deep(10_000),
  "an array of objects": msgpack.packb({"target": {"a": ndarray((1,), "object", b"12345678")}}),
  "an array too large": msgpack.packb({"target": {"a": ndarray((2**50,), "float32", b"1234")}}),
  "a pickle": pickle.dumps(Harmful()),
  "a claim of 4 GB": b"\x81\xa6target\xc6\xff\xff\xff\xff",
  "a claim of many entries": b"\xdf\xff\xff\xff\xff",
}


@pytest.mark.parametrize("content", T5X.values(), ids=T5X)
def test_weights_of_t5x(tmp_path, content):
  (tmp_path / "weights").mkdir()
  (tmp_path / "weights" / "checkpoint").write_bytes(content)
  with pytest.raises(UserError, match="damaged or no T5X checkpoint"):
    load_t5(tmp_path / "weights")


def test_arrays_of_objects_in_npz_are_no_weights(tmp_path):
  (tmp_path / "weights").mkdir()
  with (tmp_path / "weights" / "checkpoint").open("wb") as out:
    np.savez(out, target=np.array([Harmful()], dtype=object))
  with pytest.raises(UserError, match="damaged or no T5X checkpoint"):
    load_t5(tmp_path / "weights")


ARGUED = {
  # For the exceptions of a damaged .npz, which numpy reads without pickles.
  ("noise2music/joint_embedding/precomputed.py", "zipfile"),
  ("noise2music/joint_embedding/request_folder.py", "zipfile"),
  ("noise2music/evaluation/embeddings.py", "zipfile"),
  # Its unpickler knows three names, none of which does anything: `test_vggish_weights`. Members are
  # read as streams.
  ("noise2music/evaluation/embedders/torch_file.py", "pickle"),
  ("noise2music/evaluation/embedders/torch_file.py", "zipfile"),
  # Reads members as streams and names the files itself: `test_import_webdataset`.
  ("data_pipelines/importers/webdataset.py", "tarfile"),
}


def test_our_packages_never_unpickle_unpack_or_evaluate():
  """What could run or scatter what a file holds; a new use has to be argued for here."""
  modules = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "tarfile",
             "zipfile", "torch"}  # fmt: skip
  calls = {"eval", "exec", "unpack_archive", "extractall", "load_module", "frompyfunc"}
  found = []
  for package in ("noise2music", "data_pipelines", "launch", "configs"):
    for path in (ROOT / package).rglob("*.py"):
      for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
          names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
          names = [(node.module or "").split(".")[0]]
        elif isinstance(node, ast.Call):
          called = getattr(node.func, "attr", getattr(node.func, "id", ""))
          names = [called] if called in calls else []
          numpy = called == "load" and getattr(getattr(node.func, "value", None), "id", "") == "np"
          pickles = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
          if pickles.get("allow_pickle", not numpy) is not False and (
            numpy or "allow_pickle" in pickles
          ):
            names = ["np.load"]
        bad = modules | calls | {"np.load"}
        where = str(path.relative_to(ROOT))
        found += [(where, n, node.lineno) for n in names if n in bad and (where, n) not in ARGUED]
  assert not found


def test_the_reader_itself_still_reads(step):
  params, _, _ = restore_params(step.parent.parent)
  jax.tree.map(np.testing.assert_array_equal, dict(params), PARAMS)
