import json
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from tiny_encoder import load_tiny, long_captions, write_music, write_vocabulary

from data_pipelines.manifest import read_manifest, write_manifest
from data_pipelines.pseudo_label.command import main
from noise2music import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp("labels")
  manifest = write_music(folder / "mu <sic>", count=6)
  shutil.copy(folder / "mu <sic>/2.wav", folder / "mu <sic>/copy.wav")
  clips = list(read_manifest(manifest))
  copied = next(clip for clip in clips if clip.id == "clip-2").to_json()
  clips.append(type(clips[0]).from_json({**copied, "id": "copy", "path": "copy.wav"}))
  write_manifest(manifest, clips)
  llm = write_vocabulary(folder / "llm.txt", long_captions(60), kind="long")
  rater = write_vocabulary(folder / "rater.txt", [f"A take {i} & <more>." for i in range(20)],
                           kind="long")  # fmt: skip
  (folder / "d.jsonl").write_text('{"decision": "ban", "phrase": "for choir"}\n')
  (folder / "eval.txt").write_text("\n".join(long_captions(60)[:30]))
  arguments = ["run", str(manifest), f"--out={folder / 'out'}", "--encoder=0"]
  arguments += [f"--vocabulary={llm}", f"--vocabulary={rater}:2", "--exclude=rater"]
  arguments += [f"--decisions={folder / 'd.jsonl'}", f"--evaluation={folder / 'eval.txt'}"]
  assert main(arguments, load=load_tiny) == 0
  return folder / "out"


def test_explain_tells_the_fate_of_what_is_near(run, capsys):
  clip = run.parent / "mu <sic>/4.wav"
  assert main(["explain", str(clip), "--run", str(run)], load=load_tiny) == 0
  out = capsys.readouterr().out
  labels = [json.loads(line) for line in (run / "labels.jsonl").read_text().splitlines()]
  mine = [label for label in labels if label["clip"] == "clip-4"]
  for label in mine:
    line = next(line for line in out.splitlines() if line.endswith(f"  {label['text']}"))
    assert "label, drawn" in line
    assert f"{label['score']:.4f}  {label['margin']:+.4f}  {label['frequency']:>9}" in line
  assert out.count("label, drawn") == 3 + 2
  assert out.count("(excluded)") == 2
  assert out.count("candidate, not drawn") == 7 + 8
  assert "holds the banned phrase 'for choir'" in out
  assert "shares a sentence with an evaluation set" in out


_COMMAND = """\
import json, pathlib, sys
import numpy as np, soundfile
from tiny_encoder import TinyEncoder
encoder, folder = TinyEncoder(), pathlib.Path(sys.argv[-1])
requests = [json.loads(line) for line in open(folder / "requests.jsonl")]
audio = [soundfile.read(folder / r["wav"], dtype="float32")[0] for r in requests if "wav" in r]
texts = [r["text"] for r in requests if "text" in r]
vectors = encoder.embed_audio(audio) if audio else encoder.embed_texts(texts)
np.savez(folder / "vectors.npz", vectors=vectors, sample_rate_hz=encoder.sample_rate_hz,
         fingerprint=encoder.fingerprint)
"""


def test_an_encoder_in_a_process_of_its_own_gives_the_same_labels(run, tmp_path, monkeypatch):
  roots = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(roots))
  (tmp_path / "encoder.py").write_text(_COMMAND)
  folder = run.parent
  arguments = ["run", str(folder / "mu <sic>"), f"--out={tmp_path / 'out'}"]
  arguments += [f"--encoder=command:'{sys.executable}' '{tmp_path / 'encoder.py'}'"]
  arguments += [f"--vocabulary={folder / 'llm.txt'}", f"--vocabulary={folder / 'rater.txt'}:2"]
  arguments += [f"--decisions={folder / 'd.jsonl'}", f"--evaluation={folder / 'eval.txt'}"]
  assert cli.main(["label", *arguments]) == 0
  assert (tmp_path / "out/labels.jsonl").read_bytes() == (run / "labels.jsonl").read_bytes()
  told = (tmp_path / "out/dead_letters.jsonl").read_text()
  assert {json.loads(line)["id"] for line in told.splitlines()} == {"words", "silent", "missing"}
  assert "cannot bear silence" in told


def test_explain_takes_a_file_that_is_not_of_the_run(run, tmp_path, capsys):
  shutil.copy(run.parent / "mu <sic>/1.wav", tmp_path / "new.wav")
  assert main(["explain", str(tmp_path / "new.wav"), "--run", str(run)], load=load_tiny) == 0
  assert capsys.readouterr().out.count("label, drawn") == 5


def test_explain_refuses_another_encoder(run, capsys):
  arguments = ["explain", str(run.parent / "mu <sic>/1.wav"), "--run", str(run)]
  assert main(arguments, load=lambda name: load_tiny("9")) == 2
  assert "the encoder has changed" in capsys.readouterr().err


def test_audit_is_one_page_with_players_that_find_their_audio(run, tmp_path, capsys):
  for page in (run / "audit.html", tmp_path / "page.html"):
    out = [] if page.parent == run else [f"--out={page}"]
    assert main(["audit", f"--run={run}", "--clips=4", *out], load=load_tiny) == 0
    text = page.read_text(encoding="utf-8")
    players = re.findall(r'<audio [^>]*src="([^"]+)"', text)
    assert len(players) == 4 + 2  # and a pair of duplicates
    assert all((page.parent / unquote(link)).is_file() for link in players)
    assert not any(link.startswith(("/", "http")) for link in players)
    assert "clip-2" in text
    assert "<p>1 pairs</p>" in text
    assert text.count("<svg") == 2 * 2
    assert "&lt;more&gt;" in text
    assert "<more>" not in text
    assert "<script" not in text
    assert text.count("class=clip>") == 4
    assert "no audio that can be read" in text  # of the words, among those left out
  capsys.readouterr()


def test_duplicates_within_a_set_and_against_another(run, tmp_path, capsys):
  source, out = str(run.parent / "mu <sic>"), tmp_path / "out"
  arguments = ["duplicates", source, "--encoder=0", f"--out={out}", "--cosine=0.9"]
  assert main(arguments, load=load_tiny) == 0
  assert "1 clips of 7 could go" in capsys.readouterr().out
  found = [json.loads(line) for line in (out / "duplicates.jsonl").read_text().splitlines()]
  assert [(d["first"], d["second"]) for d in found] == [("clip-2", "copy")]
  assert main([*arguments, f"--against={run}"], load=load_tiny) == 0
  found = [json.loads(line) for line in (out / "duplicates.jsonl").read_text().splitlines()]
  # Each of the seven is itself, and two of them each other.
  assert {(d["first"], d["second"]) for d in found} == {
    *((name, name) for name in [*(f"clip-{i}" for i in range(6)), "copy"]),
    ("clip-2", "copy"),
    ("copy", "clip-2"),
  }


def test_the_command_is_part_of_n2m(tmp_path, capsys):
  assert cli.main(["label", "audit", f"--run={tmp_path}"]) == 2
  assert "holds no finished run" in capsys.readouterr().err
  assert cli.main(["label", "run", str(tmp_path), "--encoder=x"]) == 2
  assert "see n2m label run --help" in capsys.readouterr().err
  assert "label" in cli.HELP


def test_paths_are_absolute_so_that_a_run_is_found_from_anywhere(run):
  settings = json.loads((run / "run.json").read_text())["settings"]
  paths = [settings["source"], settings["decisions"], *settings["evaluation"]]
  assert all(Path(path).is_absolute() for path in [*paths, *settings["vocabularies"]])
