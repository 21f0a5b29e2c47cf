import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from tiny_encoder import RATE, load_tiny, long_captions, tone, write_music, write_vocabulary

from data_pipelines.manifest import read_manifest
from data_pipelines.pseudo_label.job import LabelJob
from data_pipelines.pseudo_label.run import label_dataset
from data_pipelines.pseudo_label.search import Search
from noise2music.errors import UserError

OUTPUTS = ("manifest.jsonl", "labels.jsonl", "candidates.jsonl", "frequencies.jsonl")
BAD = {"words", "silent", "missing"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("labels")
  write_music(folder / "music", count=12)
  write_vocabulary(folder / "llm.txt", long_captions(60), kind="long")
  write_vocabulary(folder / "rater.txt", long_captions(90)[60:], kind="long")
  write_vocabulary(folder / "tags.txt", [f"tag {i}" for i in range(25)], kind="short")
  return folder


def job(folder, out, **changes) -> LabelJob:
  vocabularies = {str(folder / f"{n}.txt"): k for n, k in (("llm", 3), ("rater", 3), ("tags", 6))}
  settings = {
    "source": str(folder / "music"),
    "out_dir": str(out),
    "encoder": "0",
    "vocabularies": vocabularies,
    "exclude": ("rater",),
  }
  return LabelJob(**{**settings, **changes})


def lines(path) -> list[dict]:
  return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_good_clip_gets_its_labels_and_the_counts_add_up(folder, tmp_path):
  summary = label_dataset(job(folder, tmp_path), load=load_tiny)
  assert (summary.clips_in, summary.clips, summary.dead) == (15, 12, 3)
  assert summary.labels == {"llm": 36, "rater": 36, "tags": 72}
  dead = lines(tmp_path / "dead_letters.jsonl")
  assert {line["id"] for line in dead} == BAD
  assert "silence" in next(line["reason"] for line in dead if line["id"] == "silent")
  clips = list(read_manifest(tmp_path / "manifest.jsonl"))
  assert [clip.id for clip in clips] == [f"clip-{i}" for i in range(12)]
  for clip in clips:
    assert clip.audio_path(tmp_path).is_file()
    sources = [caption.source for caption in clip.captions]
    assert sources == ["", *["label:llm"] * 3, *["label:tags"] * 6]  # rater is excluded
    assert [c.kind for c in clip.captions] == ["title", *["long"] * 3, *["short"] * 6]
    assert all(caption.extra["encoder"] == "tiny-16-0" for caption in clip.captions[1:])
  assert json.loads((tmp_path / "run.json").read_text())["clips"] == {
    "in": 15,
    "good": 12,
    "bad": 3,
  }


def test_labels_are_drawn_from_the_nearest_with_rank_margin_and_frequency(folder, tmp_path):
  label_dataset(job(folder, tmp_path), load=load_tiny)
  candidates = {(r["clip"], r["vocabulary"]): r for r in lines(tmp_path / "candidates.jsonl")}
  encoder = load_tiny("0")
  texts = long_captions(60)
  vector = encoder.embed_audio([soundfile.read(folder / "music/4.wav", dtype="float32")[0]])[0]
  cosine = encoder.embed_texts(texts).astype(float) @ vector.astype(float)
  order = sorted(range(60), key=lambda i: -cosine[i])
  mine = candidates["clip-4", "llm"]
  assert [text for text, _ in mine["candidates"]] == [texts[i] for i in order[:10]]
  assert mine["beyond"] == pytest.approx(cosine[order[10]], abs=1e-6)
  for label in lines(tmp_path / "labels.jsonl"):
    record = candidates[label["clip"], label["vocabulary"]]
    assert record["candidates"][label["rank"] - 1] == [label["text"], label["score"]]
    assert label["margin"] == pytest.approx(label["score"] - record["beyond"], abs=1e-9)
    having = [
      r
      for r in candidates.values()
      if r["vocabulary"] == label["vocabulary"]
      and label["text"] in [text for text, _ in r["candidates"]]
    ]
    assert label["frequency"] == len(having)


def test_reruns_workers_and_chunks_change_no_byte(folder, tmp_path):
  first = tmp_path / "a"
  label_dataset(job(folder, first), load=load_tiny, workers=1)
  wanted = {name: (first / name).read_bytes() for name in OUTPUTS}
  label_dataset(job(folder, first), load=load_tiny)  # everything lies there already
  assert {name: (first / name).read_bytes() for name in OUTPUTS} == wanted
  label_dataset(
    job(folder, tmp_path / "b"), load=load_tiny, workers=5, search=Search(captions=8, clips=5)
  )
  assert {name: (tmp_path / "b" / name).read_bytes() for name in OUTPUTS} == wanted
  label_dataset(job(folder, tmp_path / "c", seed=1), load=load_tiny)
  assert (tmp_path / "c" / "candidates.jsonl").read_bytes() == wanted["candidates.jsonl"]
  assert (tmp_path / "c" / "labels.jsonl").read_bytes() != wanted["labels.jsonl"]


def test_a_labelled_manifest_can_be_labelled_again(folder, tmp_path):
  label_dataset(job(folder, tmp_path / "a"), load=load_tiny)
  again = job(folder, tmp_path / "b", source=str(tmp_path / "a"))
  label_dataset(again, load=load_tiny)
  first, second = (
    [clip.captions for clip in read_manifest(tmp_path / name / "manifest.jsonl")] for name in "ab"
  )
  assert first == second  # the labels of the first run gave way


def test_decisions_are_kept_to_by_the_next_run(folder, tmp_path):
  out = tmp_path / "out"
  label_dataset(job(folder, out), load=load_tiny)
  before = [r for r in lines(out / "labels.jsonl") if r["vocabulary"] == "llm"]
  rejected, accepted, banned = before[0], long_captions(60)[52], "for choir"
  decisions = tmp_path / "decisions.jsonl"
  said = [
    {"decision": "reject", "clip": rejected["clip"], "text": rejected["text"]},
    {"decision": "accept", "clip": "clip-3", "text": accepted, "vocabulary": "llm"},
    {"decision": "ban", "phrase": "For  CHOIR"},
    {"decision": "ban", "phrase": "for orhcestra"},
    {"decision": "accept", "clip": "nobody", "text": accepted},
  ]
  decisions.write_text("".join(json.dumps(line) + "\n" for line in said))
  summary = label_dataset(job(folder, out, decisions=str(decisions)), load=load_tiny)
  after = [r for r in lines(out / "labels.jsonl") if r["vocabulary"] == "llm"]
  assert len(after) == 36
  assert summary.unused_decisions == 2
  assert json.loads((out / "run.json").read_text())["unused_decisions"] == [
    {"decision": "accept", "clip": "nobody", "text": accepted},
    {"decision": "ban", "phrase": "for orhcestra"},
  ]
  assert (rejected["clip"], rejected["text"]) not in {(r["clip"], r["text"]) for r in after}
  given = next(r for r in after if r["clip"] == "clip-3" and r["given_by"] == "decision")
  assert given["text"] == accepted
  assert any(banned in r["text"] for r in before)
  candidates = lines(out / "candidates.jsonl")
  assert not any(banned in text for r in candidates for text, _ in r["candidates"])
  assert {len(r["candidates"]) for r in candidates} == {10}  # others moved up


def test_sentences_of_an_evaluation_set_are_never_candidates(folder, tmp_path):
  leaked = long_captions(60)[:40]
  evaluation = write_vocabulary(
    tmp_path / "eval.txt", [f"{text.upper()[:-1]}!  It is slow." for text in leaked], kind="long"
  )
  out = tmp_path / "out"
  label_dataset(job(folder, out, evaluation=(str(evaluation),)), load=load_tiny)
  found = {text for r in lines(out / "candidates.jsonl") for text, _ in r["candidates"]}
  assert not found & set(leaked)
  assert found & set(long_captions(60)[40:])
  told = json.loads((out / "run.json").read_text())["vocabularies"]
  assert [v["never_given"] for v in told] == [40, 0, 0]


def test_clips_without_a_licence_are_refused_when_asked(folder, tmp_path):
  summary = label_dataset(job(folder, tmp_path, require_license=True), load=load_tiny)
  assert (summary.clips_in, summary.clips, summary.dead) == (15, 11, 4)
  dead = {line["id"]: line["reason"] for line in lines(tmp_path / "dead_letters.jsonl")}
  assert "licence" in dead["clip-1"]


def test_lines_that_are_no_captions_are_dropped_and_counted(folder, tmp_path):
  path = write_vocabulary(tmp_path / "odd.txt", [*long_captions(20), "x" * 20_000], kind="long")
  path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
  summary = label_dataset(job(folder, tmp_path / "out", vocabularies={str(path): 3}, exclude=()),
                          load=load_tiny)  # fmt: skip
  assert summary.dropped_lines == 2
  assert "2 dropped" in str(summary)


def test_a_mended_file_is_labelled_by_the_next_run(folder, tmp_path):
  music = write_music(tmp_path / "music", count=3)
  mine = dataclasses.replace(job(folder, tmp_path / "out"), source=str(music))
  assert label_dataset(mine, load=load_tiny).clips == 3
  soundfile.write(tmp_path / "music/words.wav", tone(9), RATE)
  assert label_dataset(mine, load=load_tiny).clips == 4


_KILLED = """\
import json, os, sys
from tiny_encoder import TinyEncoder
from data_pipelines.pseudo_label.job import LabelJob
from data_pipelines.pseudo_label.run import label_dataset
class Dying(TinyEncoder):
  def embed_audio(self, clips):
    os._exit(9)
label_dataset(LabelJob(**json.loads(sys.argv[1])), load=lambda name: Dying(seed=0))
"""


def test_a_run_that_was_killed_goes_on_where_it_stood(folder, tmp_path):
  label_dataset(job(folder, tmp_path / "whole"), load=load_tiny)
  out = tmp_path / "killed"
  settings = json.dumps(dataclasses.asdict(job(folder, out)))
  roots = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
  killed = subprocess.run(
    [sys.executable, "-c", _KILLED, settings],
    env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
  )
  assert killed.returncode == 9
  assert not (out / "manifest.jsonl").exists()
  shards = {path: path.stat().st_mtime_ns for path in out.rglob("0*.npy")}
  assert len(shards) == 3  # of the vocabularies, which were finished
  label_dataset(job(folder, out), load=load_tiny)
  assert {path: path.stat().st_mtime_ns for path in shards} == shards
  for name in OUTPUTS:
    assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"vocabularies": {}}, "need a vocabulary"),
    ({"exclude": ("raters",)}, "exclude one of llm, rater, tags"),
    ({"candidates": 5}, "ask for fewer labels"),
  ],
)
def test_settings_that_cannot_be_honoured_are_refused(folder, tmp_path, changes, said):
  with pytest.raises(UserError, match=said):
    job(folder, tmp_path, **changes)


def test_labels_do_not_overwrite_their_own_manifest(folder):
  with pytest.raises(UserError, match="choose another folder"):
    label_dataset(job(folder, folder / "music"), load=load_tiny)


def test_no_clip_left_is_one_sentence(folder, tmp_path):
  music = write_music(tmp_path / "music", count=0)
  with pytest.raises(UserError, match="none of 3 clips could be labelled"):
    label_dataset(job(folder, tmp_path / "out", source=str(music)), load=load_tiny)
