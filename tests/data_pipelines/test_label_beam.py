import argparse
import contextlib
import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_encoder import load_tiny, long_captions, write_music, write_vocabulary

pytest.importorskip("apache_beam", reason="needs noise2music[beam]")

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from data_pipelines.duplicates_beam import main as duplicates_main
from data_pipelines.manifest import read_manifest, write_manifest
from data_pipelines.pseudo_label.beam import (
  DEAD,
  GOOD,
  EmbedCaptions,
  EmbedClips,
  EncoderHandler,
  collect,
  main,
)
from data_pipelines.pseudo_label.command import add_run_options, job_from
from data_pipelines.pseudo_label.command import main as local_main
from data_pipelines.pseudo_label.embed import clip_items
from data_pipelines.pseudo_label.job import open_shelves, plan_labels
from noise2music.errors import UserError

OUTPUTS = ("labels.jsonl", "candidates.jsonl", "frequencies.jsonl", "dead_letters.jsonl")
RUNNER = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("labels")
  write_music(folder / "music", count=9)
  write_vocabulary(folder / "llm.txt", long_captions(50), kind="long")
  write_vocabulary(folder / "tags.txt", [f"tag {i}" for i in range(25)], kind="short")
  decisions = [
    {"decision": "reject", "clip": "clip-2", "text": "tag 3"},
    {"decision": "accept", "clip": "clip-5", "text": "tag 7"},
    {"decision": "ban", "phrase": "for choir"},
  ]
  (folder / "decisions.jsonl").write_text("\n".join(map(json.dumps, decisions)))
  return folder


def options(folder, out, *more) -> list[str]:
  vocabularies = [f"--vocabulary={folder / 'llm.txt'}", f"--vocabulary={folder / 'tags.txt'}:6"]
  decisions = f"--decisions={folder / 'decisions.jsonl'}"
  out, encoder = f"--out={out}", "--encoder=0"
  return [str(folder / "music"), out, encoder, *vocabularies, decisions, *more]


def run_options(arguments: list[str]) -> argparse.Namespace:
  parser = argparse.ArgumentParser()
  add_run_options(parser)
  return parser.parse_known_args(arguments)[0]


@pytest.fixture(scope="module")
def local(folder):
  assert local_main(["run", *options(folder, folder / "local")], load=load_tiny) == 0
  return folder / "local"


def check_same(out, local) -> None:
  for name in OUTPUTS:
    assert (out / name).read_bytes() == (local / name).read_bytes(), name
  assert list(read_manifest(out / "manifest.jsonl")) == list(
    read_manifest(local / "manifest.jsonl")
  )
  assert json.loads((out / "run.json").read_text()) == json.loads((local / "run.json").read_text())


def test_beam_gives_the_bytes_of_the_local_run(folder, local, tmp_path, capsys):
  out = tmp_path / "beam"
  for _ in range(2):  # a second run starts from what lies there
    assert main(options(folder, out, *RUNNER), load=load_tiny) == 0
    assert "9 of 12 clips labelled: llm 27, tags 54" in capsys.readouterr().out
    check_same(out, local)


@pytest.mark.slow
@pytest.mark.parametrize(
  "runner",
  [
    ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"],
  ],
  ids=["worker processes", "job service"],
)
def test_other_engines_give_the_same_bytes(folder, local, tmp_path, monkeypatch, runner):
  roots = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(roots))  # for workers, which import the encoder
  assert main(options(folder, tmp_path / "out", *runner), load=load_tiny) == 0
  check_same(tmp_path / "out", local)


@pytest.mark.parametrize(
  "runner",
  [
    RUNNER,
    pytest.param(
      ["--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2"],
      marks=pytest.mark.slow,
    ),
  ],
  ids=["in one process", "worker processes"],
)
def test_what_was_killed_in_the_middle_is_the_same_when_run_again(folder, local, tmp_path, runner):
  """Worker processes: the engine fails or waits for the one it has lost; it is then ended."""
  here = Path(__file__).parent
  command = [sys.executable, here / "killed_label.py", tmp_path / "killed"]
  command += options(folder, tmp_path / "out", *runner)
  env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here)])}
  start = functools.partial(subprocess.Popen, command, env=env, start_new_session=True)
  with start(stderr=subprocess.DEVNULL) as first:
    try:
      assert first.wait(90) != 0
    except subprocess.TimeoutExpired:
      pass
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(first.pid, signal.SIGKILL)
  assert (tmp_path / "killed").exists()
  assert not (tmp_path / "out/labels.jsonl").exists()
  with start() as second:
    assert second.wait() == 0
  check_same(tmp_path / "out", local)


def test_vocabularies_are_embedded_by_the_workers(folder, local, tmp_path):
  job = job_from(run_options(options(folder, tmp_path / "out")))
  shards = [(path, 0) for path in job.vocabularies]
  for counts in ([50, 25], [0, 0]):  # done twice, the second one finds all there
    with beam.Pipeline(options=PipelineOptions(RUNNER)) as pipeline:
      done = pipeline | beam.Create(shards) | EmbedCaptions(job, load=load_tiny)
      assert_that(done, equal_to(counts))
  for name in ("llm/00000.npy", "llm/00000.json", "tags/00000.npy", "tags/00000.json"):
    made = (tmp_path / "out/embeddings" / name).read_bytes()
    assert made == (local / "embeddings" / name).read_bytes()


def test_a_poisoned_clip_ends_among_the_dead_letters(folder, local):
  dead = [json.loads(line) for line in (local / "dead_letters.jsonl").read_text().splitlines()]
  assert {line["id"] for line in dead} == {"words", "silent", "missing"}
  items = clip_items(read_manifest(folder / "music/manifest.jsonl"), folder=folder / "music")
  with beam.Pipeline(options=PipelineOptions(RUNNER)) as pipeline:
    handler = EncoderHandler("0", load=load_tiny)
    out = pipeline | beam.Create(items) | EmbedClips(handler)
    assert_that(out[DEAD], equal_to([(line["id"], line["reason"]) for line in dead]), label="dead")
    good = out[GOOD] | beam.Map(lambda pair: (pair[0], pair[1].shape))
    assert_that(good, equal_to([(f"clip-{i}", (16,)) for i in range(9)]), label="good")


def test_bad_input_is_one_sentence(folder, tmp_path, capsys):
  arguments = options(folder, tmp_path / "out")
  arguments[0] = str(tmp_path / "none")
  assert main(arguments, load=load_tiny) == 2
  assert "there is no manifest" in capsys.readouterr().err


def test_results_that_come_twice_or_in_another_order_change_nothing(folder, local, tmp_path):
  out = tmp_path / "out"
  arguments = options(folder, out, *RUNNER)
  assert main(arguments, load=load_tiny) == 0
  shards = sorted((out / "beam").glob("labels*.jsonl"))
  lines = [line for shard in shards for line in shard.read_text().splitlines()]
  for shard in shards[1:]:
    shard.unlink()
  shards[0].write_text("\n".join([*reversed(lines), *lines[:3]]))
  job = job_from(run_options(arguments))
  settings = plan_labels(job), job, open_shelves(job), "tiny-16-0"
  collect(*settings, results=out / "beam")
  check_same(out, local)
  shards[0].write_text("\n".join(lines[1:]))
  with pytest.raises(UserError, match=r"1 clips, for example .* run the same command again"):
    collect(*settings, results=out / "beam")


def test_duplicates_are_those_of_the_local_search(folder, tmp_path, capsys):
  music = tmp_path / "music"
  shutil.copytree(folder / "music", music)
  clips = list(read_manifest(music / "manifest.jsonl"))
  for name in ("a-copy", "z-copy"):
    shutil.copy(music / "2.wav", music / f"{name}.wav")
    clips.append(dataclasses.replace(clips[2], path=f"{name}.wav", id=name))
  write_manifest(music / "manifest.jsonl", clips)
  arguments = [str(music), "--encoder=0", "--cosine=0.9"]
  near = ["duplicates", *arguments, f"--out={tmp_path / 'local'}"]
  assert local_main(near, load=load_tiny) == 0
  wanted = (tmp_path / "local/duplicates.jsonl").read_bytes()
  pairs = [json.loads(line) for line in wanted.splitlines()]
  assert {(p["first"], p["second"]) for p in pairs} == {
    ("a-copy", "clip-2"),
    ("a-copy", "z-copy"),
    ("clip-2", "z-copy"),
  }
  for blocks in (1, 3):
    far = [*arguments, f"--out={tmp_path / 'beam'}", f"--blocks={blocks}", *RUNNER]
    assert duplicates_main(far, load=load_tiny) == 0
    assert (tmp_path / "beam/duplicates.jsonl").read_bytes() == wanted
  assert "left out: 3" in capsys.readouterr().out
