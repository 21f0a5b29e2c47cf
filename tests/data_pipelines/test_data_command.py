import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from data_pipelines import command
from data_pipelines.manifest import read_manifest
from noise2music.text.tokenizer import SentencePieceTokenizer


@pytest.fixture
def music(tmp_path):
  folder = tmp_path / "music"
  folder.mkdir()
  for index in range(3):
    sound = 0.2 * np.random.default_rng(index).uniform(-1, 1, 8000)
    soundfile.write(folder / f"0{index} song_{index}.wav", sound, 8000)
  return folder


def test_import_check_cut(music, tmp_path, capsys):
  source, out = tmp_path / "source", tmp_path / "clips"
  assert command.main(["import", str(music), "--out", str(source), "--titles"]) == 0
  assert "3 files" in capsys.readouterr().out
  titles = [clip.captions[0].text for clip in read_manifest(source / "manifest.jsonl")]
  assert titles == ["song 0", "song 1", "song 2"]
  assert command.main(["check", str(source)]) == 0
  assert "ready to train on" in capsys.readouterr().out
  options = ["--seconds", "0.5", "--min-seconds", "0.25", "--min-sample-rate-hz", "8000"]
  options += ["--suffix", ".wav", "--max-clips", "1", "--sample-rate-hz", "8000"]
  assert command.main(["cut", str(source), "--out", str(out), *options]) == 0
  assert "3 clips" in capsys.readouterr().out
  assert [clip.duration for clip in read_manifest(out / "manifest.jsonl")] == [0.5] * 3
  assert command.main(["check", str(out), "--headers-only"]) == 0


def test_vocabulary_of_the_titles(tmp_path, music, capsys):
  for index, path in enumerate(sorted(music.iterdir())):
    path.with_suffix(".txt").write_text(f"A slow tune number {index} for violin and flute.\n")
  source, model = tmp_path / "source", tmp_path / "made" / "vocabulary.model"
  splits = ["--validation-percent", "0", "--test-percent", "0"]
  command.main(["import", str(music), "--out", str(source), *splits])
  assert command.main(["vocabulary", str(source), "--out", str(model), "--size", "290"]) == 0
  assert f"wrote {model}: " in capsys.readouterr().out
  tokenizer = SentencePieceTokenizer(path=model)
  assert tokenizer.decode(tokenizer.encode("violin and flute")) == "violin and flute"
  assert command.main(["vocabulary", str(source), "--out", str(model), "--split", "none"]) == 2
  assert "no captions in its none split" in capsys.readouterr().err


def test_check_finds_and_reports(music, tmp_path, capsys):
  command.main(["import", str(music), "--out", str(music)])
  (music / "00 song_0.wav").write_text("words")
  report = tmp_path / "report.jsonl"
  assert command.main(["check", str(music), "--report", str(report)]) == 1
  assert "1 lines or files cannot be used" in capsys.readouterr().out
  lines = [json.loads(line) for line in report.read_text().splitlines()]
  assert [line["status"] for line in lines].count("refused") == 1


@pytest.mark.parametrize(
  ("arguments", "reason"),
  [
    (["import", "nowhere", "--out", "x"], "there is no folder nowhere; check the spelling"),
    (["import", ".", "--out", "x"], "there is no audio in ."),
    (["import", ".", "--out", "x", "--test-percent", "120"], "at most 100 together"),
    (["import", ".", "--out", "x", "--layout", "audiofolder"], "there is no metadata.csv"),
    (["import", ".", "--out", "x", "--layout", "audiocraft"], "there is no data.jsonl"),
    (["import", ".", "--out", "x", "--layout", "audiocraft", "--titles"], "--titles is for plain"),
    (["check", "."], "there is no manifest at manifest.jsonl; make one with `n2m data import`"),
    (["cut", "nowhere", "--out", "x"], "there is no folder nowhere"),
    (["cut", ".", "--out", "../x", "--seconds", "-1"], "seconds must be above 0, not -1"),
  ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments, reason, tmp_path, monkeypatch, capsys):
  (tmp_path / "empty").mkdir()
  monkeypatch.chdir(tmp_path / "empty")
  assert command.main(arguments) == 2
  printed = capsys.readouterr()
  assert printed.err.startswith("error: ")
  assert reason in printed.err
  assert printed.err.count("\n") == 1
  assert printed.out == ""
  assert list((tmp_path / "empty").iterdir()) == []


def test_defaults_in_the_help_are_those_of_the_dataclass(capsys):
  with pytest.raises(SystemExit) as exit:
    command.main(["cut", "--help"])
  assert exit.value.code == 0
  text = " ".join(capsys.readouterr().out.split())
  assert "length of a clip (default 29.44)" in text
  assert "clips of one file at most (default all)" in text


def test_a_name_that_is_not_utf8_can_be_printed(music, tmp_path, capsys):
  with open(bytes(music) + b"/b\xff.wav", "wb"):
    pass
  assert command.main(["import", str(music), "--out", str(tmp_path / "out")]) == 0
  assert "\\udcff.wav: the name is not valid UTF-8" in capsys.readouterr().err


def test_tensorflow_and_beam_stay_out(music, tmp_path):
  script = (
    "import sys; from data_pipelines import command; command.main(sys.argv[1:]); "
    "print([name for name in ('tensorflow', 'apache_beam', 'seqio') if name in sys.modules])"
  )
  arguments = ["import", str(music), "--out", str(tmp_path / "out")]
  done = subprocess.run(
    [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
  )
  assert done.stdout.splitlines()[-1] == "[]"
