"""Shards of the TFDS builder: round trip, determinism, damage, and life without TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_clips import RATE, digest_batches, ramp, write_clips, write_set, write_wav

from data_pipelines.command import main
from data_pipelines.datasets.clips import build_shards
from data_pipelines.index_batches import IndexBatches
from data_pipelines.manifest import write_manifest
from data_pipelines.sources import ManifestSource, RecordError, ShardSource
from noise2music.batch import BatchSpec
from noise2music.errors import UserError
from noise2music.text.tokenizer import ByteTokenizer


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """A manifest of 12 + 3 clips, one of them broken, and its shards."""
  folder = tmp_path_factory.mktemp("set")
  clips = write_clips(folder, count=12) + write_clips(folder, count=3, first=12, split="test")
  write_manifest(folder / "manifest.jsonl", clips)
  (folder / "5.wav").write_bytes(b"no audio")
  return folder, build_shards(folder, folder / "shards", shards=4)


def test_round_trip(built):
  folder, shards = built
  assert len(list(shards.glob("clips-train.array_record-*-of-00004"))) == 4
  assert len(list(shards.glob("clips-test.array_record-*-of-00003"))) == 3  # one a clip
  source = ShardSource(folder / "shards")
  written = {clip.id: clip for clip in ManifestSource(folder).clips}
  assert len(source) == 11
  assert source.sample_rate_hz == RATE
  seen = set()
  for k in range(len(source)):
    example = source[k]
    clip = written[example.id]
    seen.add(example.id)
    assert example.captions == clip.captions
    assert example.samples == round(clip.duration * RATE)
    np.testing.assert_array_equal(example.audio(), ramp(int(example.id[5:]), example.samples))
    np.testing.assert_array_equal(example.read(50, 20), example.audio()[50:70])
  assert seen == {f"clip-{i}" for i in range(12)} - {"clip-5"}
  test = ShardSource(shards, split="test")
  assert {test[k].id for k in range(3)} == {"clip-12", "clip-13", "clip-14"}


def test_what_was_left_out_is_written_down(built):
  lines = (built[1] / "refused.jsonl").read_text().splitlines()
  assert [json.loads(line)["id"] for line in lines] == ["clip-5"]


def test_same_manifest_same_bytes(built, tmp_path):
  """In another process, which draws an order of its own for whatever is a map."""
  folder, shards = built
  command = [sys.executable, "-m", "noise2music.cli", "data", "shards", folder, "--out", tmp_path]
  subprocess.run([*command, "--shards=4"], cwd=Path(__file__).parents[2], check=True)
  again = tmp_path / "clips" / "1.0.0"
  names = sorted(path.name for path in shards.iterdir())
  assert names == sorted(path.name for path in again.iterdir())
  for name in names:
    if "array_record" in name:
      assert (again / name).read_bytes() == (shards / name).read_bytes()
  assert ShardSource(again).fingerprint() == ShardSource(shards).fingerprint()


def test_tfds_reads_them_too(built):
  import tensorflow_datasets as tfds

  data = tfds.builder_from_directory(built[1]).as_data_source("test")
  by_id = {record["id"].decode(): record for record in data}
  np.testing.assert_array_equal(by_id["clip-13"]["audio"], ramp(13, 2_300))
  assert by_id["clip-13"]["captions"]["kind"] == [b"long", b"short"]
  assert json.loads(by_id["clip-13"]["json"])["work"] == "opus 13"


def test_one_flipped_bit_costs_one_record(built, tmp_path):
  rng = np.random.default_rng(0)
  clips = write_clips(tmp_path, count=6)
  for i in range(6):
    write_wav(tmp_path / f"{i}.wav", rng.integers(-9_000, 9_000, 40_000).astype(np.int16))
  write_manifest(tmp_path / "manifest.jsonl", clips)
  shards = build_shards(tmp_path, tmp_path / "out", shards=1)
  (shard,) = shards.glob("*.array_record-*")
  data = bytearray(shard.read_bytes())
  data[150_000] ^= 1
  shard.write_bytes(data)
  source = ShardSource(shards)
  bad = []
  for k in range(6):
    try:
      source[k]
    except RecordError as error:
      bad.append(error.name)
  assert len(bad) == 1
  assert bad[0].startswith("clips-train.array_record-00000-of-00001#")
  batches = IndexBatches(
    source=source,
    spec=BatchSpec(batch_size=6, seconds=0.1, sample_rate_hz=RATE),
    tokenizer=ByteTokenizer(),
  )
  iterator = batches.batches()
  for _ in range(3):
    assert len({tuple(row) for row in next(iterator)["clip_id"]}) == 5
  iterator.close()
  assert list(batches.examples.bad_records.reasons) == bad


@pytest.mark.parametrize("damage", ["cut", "emptied"])
def test_a_broken_shard_costs_its_records(built, tmp_path, damage):
  shards = build_shards(built[0], tmp_path, shards=2)
  shard = sorted(shards.glob("clips-train*"))[1]
  data = shard.read_bytes()
  shard.write_bytes(data[: len(data) // 2] if damage == "cut" else b"")
  source = ShardSource(shards)
  lost = [k for k in range(11) if source.name(k).startswith(shard.name)]
  assert len(lost) in (5, 6)
  for k in range(11):
    if k in lost:
      with pytest.raises(RecordError, match=shard.name):
        source[k]
    else:
      assert source[k].samples >= 1_000


def test_what_is_refused_at_the_start(built, tmp_path):
  folder, shards = built
  with pytest.raises(UserError, match="no split 'valid'; it has test, train"):
    ShardSource(shards, split="valid")
  with pytest.raises(UserError, match="no data set"):
    ShardSource(tmp_path)
  with pytest.raises(UserError, match="holds shards already"):
    build_shards(folder, folder / "shards")
  with pytest.raises(UserError, match="give 1 or more"):
    build_shards(folder, tmp_path, shards=0)
  with pytest.raises(IndexError):
    ShardSource(shards)[11]
  copy = build_shards(folder, tmp_path, shards=2)
  next(copy.glob("clips-train*")).unlink()
  with pytest.raises(UserError, match="is missing"):
    ShardSource(tmp_path)
  (copy / "metadata.json").write_text("{}")
  with pytest.raises(UserError, match="write it again"):
    ShardSource(tmp_path, split="test")


def test_manifests_that_no_shard_can_hold(tmp_path):
  one = write_clips(tmp_path, count=2)
  other = write_clips(tmp_path, count=2, first=2, rate=2 * RATE)
  write_manifest(tmp_path / "mixed.jsonl", one + other)
  with pytest.raises(UserError, match=r"mixes the sample rates.*n2m data cut"):
    build_shards(tmp_path / "mixed.jsonl", tmp_path / "out")
  write_manifest(tmp_path / "twice.jsonl", one + one)
  with pytest.raises(UserError, match="'clip-0' more than once"):
    build_shards(tmp_path / "twice.jsonl", tmp_path / "out")
  write_set(tmp_path / "odd", count=2, split="my split")
  with pytest.raises(UserError, match="rename it"):
    build_shards(tmp_path / "odd", tmp_path / "out")
  write_set(tmp_path / "bad", count=1)
  (tmp_path / "bad" / "0.wav").write_bytes(b"")
  with pytest.raises(UserError, match="no clip that can be read, clip-0"):
    build_shards(tmp_path / "bad", tmp_path / "out")
  assert not list((tmp_path / "out").rglob("*array_record*"))


def test_command(tmp_path, capsys):
  write_set(tmp_path / "clips", count=3)
  arguments = ["shards", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--shards", "2"]
  assert main(arguments) == 0
  folder = capsys.readouterr().out.splitlines()[-1].strip()
  assert len(ShardSource(folder)) == 3
  assert main(arguments) == 2
  assert "choose another output folder" in capsys.readouterr().err


_WITHOUT_TENSORFLOW = """
import importlib.abc, json, sys

class Missing(importlib.abc.MetaPathFinder):
  def find_spec(self, name, path=None, target=None):
    if name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "seqio", "tensorflow_text"):
      raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, sys.argv[1])
from tiny_clips import digest_batches
digests = [digest_batches(path) for path in sys.argv[2:]]
assert "tensorflow" not in sys.modules
print(json.dumps(digests))
"""


def test_both_sources_work_where_tensorflow_is_missing(built):
  arguments = [str(Path(__file__).parent), *map(str, built)]
  done = subprocess.run(
    [sys.executable, "-c", _WITHOUT_TENSORFLOW, *arguments],
    cwd=Path(__file__).parents[2],
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout) == [digest_batches(path) for path in built]
