"""Shards that Beam writes hold the records that a build without it writes, in the same order."""

import json
from pathlib import Path

import pytest
from tiny_clips import write_clips, write_set

pytest.importorskip("apache_beam", reason="needs noise2music[beam]")
pytest.importorskip("tensorflow_datasets", reason="needs noise2music[shards]")

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from data_pipelines.command import main
from data_pipelines.datasets import clips_beam
from data_pipelines.datasets.clips import build_shards
from data_pipelines.manifest import write_manifest
from data_pipelines.sources import ShardSource
from noise2music.errors import UserError

RUNNER = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]
WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """30 + 3 clips, of which one is no audio and one is gone."""
  folder = tmp_path_factory.mktemp("set")
  clips = write_clips(folder, count=30) + write_clips(folder, count=3, first=30, split="test")
  write_manifest(folder / "manifest.jsonl", clips)
  (folder / "5.wav").write_bytes(b"no audio")
  (folder / "31.wav").unlink()
  return folder


@pytest.fixture(scope="module")
def local(folder):
  return build_shards(folder, folder / "local", shards=4)


@pytest.fixture(scope="module")
def far(folder):
  return build_shards(folder, folder / "far", shards=4, beam_args=RUNNER)


def records(shards: Path, split: str) -> list[bytes]:
  source = ShardSource(shards, split=split)
  return [source._records[k] for k in range(len(source))]


def files(shards: Path) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in shards.glob("*array_record*")}


def test_the_same_records_in_the_same_order(local, far):
  for split, count in (("train", 29), ("test", 2)):
    assert records(far, split) == records(local, split)
    assert len(records(far, split)) == count
  assert len(list(far.glob("clips-train.array_record-*-of-00004"))) == 4
  # Without Beam shards differ by a record at most; with it they are ranges of hashes.
  assert ShardSource(far)._ends != ShardSource(local)._ends == [7, 14, 22, 29]
  for name in ("refused.jsonl", "features.json", "metadata.json"):
    assert (far / name).read_bytes() == (local / name).read_bytes()
  refused = [json.loads(line) for line in (far / "refused.jsonl").read_text().splitlines()]
  assert [line["id"] for line in refused] == ["clip-31", "clip-5"]


def test_one_shard_is_the_same_to_the_byte(folder, tmp_path):
  here = build_shards(folder, tmp_path / "here", shards=1)
  there = build_shards(folder, tmp_path / "there", shards=1, beam_args=RUNNER)
  assert files(there) == files(here)
  assert ShardSource(there).fingerprint() == ShardSource(here).fingerprint()


def test_the_command_and_worker_processes_write_the_same_bytes(folder, far, tmp_path, monkeypatch):
  monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for the workers
  options = ["--shards=4", "--runner=DirectRunner", *(f"--beam={option}" for option in WORKERS)]
  assert main(["shards", str(folder), f"--out={tmp_path}", *options]) == 0
  again = tmp_path / "clips" / "1.0.0"
  assert files(again) == files(far)
  assert ShardSource(again).fingerprint() == ShardSource(far).fingerprint()
  assert (again / "refused.jsonl").read_bytes() == (far / "refused.jsonl").read_bytes()


def test_the_transform_alone(folder, tmp_path):
  clips = write_clips(tmp_path, count=2)
  (tmp_path / "1.wav").write_bytes(b"")
  with beam.Pipeline(options=PipelineOptions(RUNNER)) as pipeline:
    made = pipeline | clips_beam.MakeExamples(clips, folder=tmp_path, refused=tmp_path / "refused")
    counts = made | beam.Map(lambda pair: (pair[0], pair[1]["audio"].size))
    assert_that(counts, equal_to([("clip-0", 1_000)]))
  (line,) = [line for path in tmp_path.glob("refused*") for line in path.read_text().splitlines()]
  assert json.loads(line)["id"] == "clip-1"


def test_what_cannot_be_is_one_sentence(folder, local, tmp_path, capsys):
  bad = write_set(tmp_path / "bad", count=2)
  for k in range(2):
    (bad / f"{k}.wav").write_bytes(b"")
  with pytest.raises(UserError, match="a split has no clip that can be read, clip-0 for one"):
    build_shards(bad, tmp_path / "out", beam_args=RUNNER)
  assert not list((tmp_path / "out").rglob("*array_record*"))
  with pytest.raises(UserError, match="holds shards already"):
    build_shards(folder, folder / "local", beam_args=RUNNER)
  assert main(["shards", str(folder), f"--out={tmp_path / 'x'}", "--beam=--x"]) == 2
  assert "name a --runner besides" in capsys.readouterr().err


def test_clips_that_nobody_counted_are_an_error(folder, tmp_path, monkeypatch):
  """As where workers write to a disk of their own."""
  monkeypatch.setattr(clips_beam, "read_results", lambda folder, name: iter(()))
  with pytest.raises(UserError, match=r"of 33 clips 31 are in .* and 0 were left out"):
    build_shards(folder, tmp_path, shards=1, beam_args=RUNNER)
