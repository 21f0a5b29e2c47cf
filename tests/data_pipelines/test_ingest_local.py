import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from data_pipelines import ingest, ingest_local
from data_pipelines.ingest import CutSpec
from data_pipelines.ingest_local import Stopped, cut_dataset
from data_pipelines.manifest import CannotWrite, read_manifest
from noise2music.errors import UserError

RATE = 8000
SPEC = CutSpec(
  seconds=0.5, min_seconds=0.2, sample_rate_hz=RATE, min_sample_rate_hz=RATE, suffix=".wav"
)


@pytest.fixture
def music(tmp_path):
  """Six files with 1, 2, 3, 1, 2 and 3 clips, and captions."""
  folder = tmp_path / "music"
  folder.mkdir()
  random = np.random.default_rng(0)
  for index in range(6):
    sound = 0.2 * random.uniform(-1, 1, round((0.5 + index % 3 * 0.5) * RATE))
    soundfile.write(folder / f"曲 {index}.wav", sound, RATE)
    (folder / f"曲 {index}.txt").write_text(f"Piece number {index}.")
  return folder


@pytest.fixture
def calls(monkeypatch):
  """The ids that were cut, in order."""
  names = []
  real = ingest.cut_file

  def counting(audio, *, clip_id, **kwargs):
    names.append(clip_id)
    return real(audio, clip_id=clip_id, **kwargs)

  monkeypatch.setattr(ingest_local, "cut_file", counting)
  return names


def run(source, out, *, workers=1, **changes):
  return cut_dataset(
    source, out_dir=out, spec=dataclasses.replace(SPEC, **changes), workers=workers
  )


def clip_bytes(out):
  return {path.relative_to(out): path.read_bytes() for path in out.glob("clips/**/*.*")}


def test_every_file_is_cut_and_listed_in_order(music, tmp_path):
  summary = run(music, tmp_path / "out")
  clips = list(read_manifest(summary.manifest))
  assert [clip.id for clip in clips][:4] == ["曲 0.wav@0.00", "曲 1.wav@0.00", "曲 1.wav@0.50", "曲 2.wav@0.00"]  # fmt: skip  # noqa: E501
  assert (summary.clips, summary.files, len(clips)) == (12, 6, 12)
  assert summary.seconds == pytest.approx(6.0)
  assert sum(summary.splits.values()) == 12
  assert [caption.text for caption in clips[-1].captions] == ["Piece number 5."]
  assert summary.report.read_text() == ""
  for clip in clips:
    info = soundfile.info(clip.audio_path(tmp_path / "out"))
    assert (info.frames / RATE, info.samplerate) == (clip.duration, clip.sample_rate)
  assert len({clip.path for clip in clips}) == 12
  assert "12 clips, 0.1 minutes, from 6 files" in str(summary)


def test_the_result_does_not_depend_on_the_number_of_threads(music, tmp_path):
  one, three = run(music, tmp_path / "1"), run(music, tmp_path / "3", workers=3)
  assert one.manifest.read_bytes() == three.manifest.read_bytes()
  assert clip_bytes(tmp_path / "1") == clip_bytes(tmp_path / "3")


def test_bad_files_never_cost_the_good_ones(music, tmp_path):
  (music / "a.wav").write_bytes(b"")
  (music / "b.wav").write_text("words")
  soundfile.write(music / "c.wav", np.zeros(RATE), RATE)
  soundfile.write(music / "d.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
  soundfile.write(music / "e.wav", np.zeros(2), RATE)
  soundfile.write(music / "f.wav", 0.1 * np.ones((RATE, 8)), RATE)
  soundfile.write(music / "g.wav", 0.1 * np.ones(4000), 4000)
  summary = run(music, tmp_path / "out", workers=2)
  assert (summary.files, summary.clips) == (7, 14)
  lines = [json.loads(line) for line in summary.report.read_text().splitlines()]
  assert {os.path.basename(line["path"]): line["status"] for line in lines} == {
    "a.wav": "refused",
    "b.wav": "refused",
    "c.wav": "refused",
    "d.wav": "refused",
    "e.wav": "refused",
    "f.wav": "repaired",
    "g.wav": "refused",
  }
  assert all(line["reason"] for line in lines)
  assert "6 refused, 1 repaired" in str(summary)


def test_a_second_run_cuts_nothing_and_changes_nothing(music, tmp_path, calls):
  first = run(music, tmp_path / "out")
  manifest = first.manifest.read_bytes()
  assert len(calls) == 6
  again = run(music, tmp_path / "out")
  assert len(calls) == 6
  assert again.already_done == 6
  assert again.manifest.read_bytes() == manifest
  assert "6 of them by an earlier run" in str(again)


def test_only_what_changed_is_cut_again(music, tmp_path, calls):
  out = tmp_path / "out"
  first = run(music, out)
  clips = {clip.extra["source_id"]: clip for clip in read_manifest(first.manifest)}
  calls.clear()
  clips["曲 1.wav"].audio_path(out).unlink()
  soundfile.write(music / "曲 3.wav", 0.1 * np.ones(RATE), RATE)
  soundfile.write(music / "曲 6.wav", 0.3 * np.ones(RATE), RATE)
  (music / "曲 5.txt").write_text("Another text.")
  (music / "曲 0.wav").unlink()
  summary = run(music, out)
  assert calls == ["曲 1.wav", "曲 3.wav", "曲 6.wav"]
  clips = list(read_manifest(summary.manifest))
  assert {clip.extra["source_id"] for clip in clips} == {f"曲 {index}.wav" for index in range(1, 7)}
  assert [c.captions[0].text for c in clips if c.extra["source_id"] == "曲 5.wav"] == (
    ["Another text."] * 3
  )
  assert all(clip.audio_path(out).is_file() for clip in clips)


def test_refused_files_are_tried_again(music, tmp_path, calls):
  soundfile.write(music / "z.wav", np.zeros(RATE), RATE)
  run(music, tmp_path / "out")
  calls.clear()
  assert run(music, tmp_path / "out").clips == 12
  assert calls == ["z.wav"]


def test_a_torn_journal_line_costs_one_file(music, tmp_path, calls):
  out = tmp_path / "out"
  first = run(music, out)
  manifest = first.manifest.read_bytes()
  journal = out / "journal.jsonl"
  journal.write_bytes(journal.read_bytes()[:-20])
  calls.clear()
  assert run(music, out).manifest.read_bytes() == manifest
  assert len(calls) == 1
  run(music, out)
  assert len(calls) == 1


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(music, tmp_path, monkeypatch):
  out, done = tmp_path / "out", []
  real = ingest.cut_file

  def interrupted(audio, *, clip_id, **kwargs):
    if len(done) == 3:
      raise KeyboardInterrupt
    done.append(clip_id)
    return real(audio, clip_id=clip_id, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(ingest_local, "cut_file", interrupted)
    with pytest.raises(Stopped, match="stopped after 3 of 6 files; run the same command again"):
      run(music, out)
  assert not (out / "manifest.jsonl").exists()
  summary = run(music, out)
  assert (summary.already_done, summary.clips) == (3, 12)
  assert summary.manifest.read_bytes() == run(music, tmp_path / "whole").manifest.read_bytes()


def test_a_full_disk_is_one_sentence_and_keeps_what_is_done(music, tmp_path, monkeypatch):
  out, written = tmp_path / "out", []
  real = ingest.write_audio

  def full(path, *args, **kwargs):
    if len(written) == 6:  # clips; the first three files
      raise OSError(errno.ENOSPC, "No space left on device")
    written.append(path)
    return real(path, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(ingest, "write_audio", full)
    with pytest.raises(CannotWrite, match="is full; free some space and run the same command"):
      run(music, out)
  summary = run(music, out)
  assert (summary.already_done, summary.clips, summary.problems) == (3, 12, ())


SCRIPT = """
import sys
from data_pipelines import command, ingest_local
real = ingest_local.cut_file
def slow(*args, **kwargs):
  import time
  time.sleep(0.2)
  return real(*args, **kwargs)
ingest_local.cut_file = slow
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_killed_goes_on_where_it_stood(music, tmp_path, calls, how):
  out = tmp_path / "out"
  options = [f"--{name.replace('_', '-')}={value}" for name, value in dataclasses.asdict(SPEC).items() if value is not None]  # fmt: skip  # noqa: E501
  process = subprocess.Popen(
    [sys.executable, "-c", SCRIPT, "cut", music, "--out", out, "--workers", "1", *options],
    stderr=subprocess.PIPE,
    text=True,
    # A runner in the background may have told its children to ignore Ctrl-C.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
  )
  journal, patience = out / "journal.jsonl", time.monotonic() + 60
  while not (journal.is_file() and journal.read_bytes().count(b'"id"') >= 2):
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < patience
    time.sleep(0.02)
  process.send_signal(how)
  _, errors = process.communicate(timeout=60)
  assert process.returncode == (130 if how == signal.SIGINT else -how)
  if how == signal.SIGINT:
    assert "run the same command again to go on from there" in errors
    assert "Traceback" not in errors
  assert not (out / "manifest.jsonl").exists()
  summary = run(music, out)
  assert summary.already_done >= 2
  assert len(calls) == 6 - summary.already_done
  whole = run(music, tmp_path / "whole")
  assert summary.manifest.read_bytes() == whole.manifest.read_bytes()
  assert clip_bytes(out) == clip_bytes(tmp_path / "whole")


def test_one_folder_never_mixes_settings(music, tmp_path):
  run(music, tmp_path / "out")
  with pytest.raises(UserError, match=r"other settings \(seconds 0.5 -> 0.25\); choose another"):
    run(music, tmp_path / "out", seconds=0.25)


def test_a_manifest_as_source(music, tmp_path, calls):
  first = run(music, tmp_path / "out")
  source = tmp_path / "out" / "source"
  lines = (source / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
  (source / "manifest.jsonl").write_text("\n".join([*lines, lines[0], "{", ""]), encoding="utf-8")
  for given in (source, source / "manifest.jsonl"):
    summary = run(given, tmp_path / "again")
    assert summary.manifest.read_bytes() == first.manifest.read_bytes()
    assert [problem.path for problem in summary.problems] == [
      f"{source / 'manifest.jsonl'}:7",
      f"{source / 'manifest.jsonl'}:8",
    ]
  with pytest.raises(UserError, match="would overwrite the manifest"):
    run(source, source)


def test_sources_that_cannot_be(music, tmp_path):
  with pytest.raises(UserError, match="there is no folder"):
    run(tmp_path / "nowhere", tmp_path / "out")
  with pytest.raises(UserError, match="lies inside the music"):
    run(music, music / "clips")
  silent = tmp_path / "silent"
  silent.mkdir()
  soundfile.write(silent / "a.wav", np.zeros(RATE), RATE)
  with pytest.raises(UserError, match=r"none of the 1 files could be cut, for example .*silence"):
    run(silent, tmp_path / "none")
  assert not (tmp_path / "none" / "manifest.jsonl").exists()
  assert "silence" in (tmp_path / "none" / "report.jsonl").read_text()
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot write"):
    run(music, tmp_path / "file" / "out")
