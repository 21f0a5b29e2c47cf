import dataclasses

import numpy as np
import pytest
import soundfile

from data_pipelines.check import check_manifest
from data_pipelines.importers.run import file_sha256
from data_pipelines.manifest import Caption, Clip, write_manifest
from noise2music.errors import UserError

RATE = 8000


@pytest.fixture
def clips(tmp_path):
  """Four good clips in three splits."""
  random = np.random.default_rng(0)
  made = []
  for name, split in (("a", "train"), ("b", "train"), ("c", "validation"), ("d", "test")):
    path = tmp_path / f"{name}.wav"
    soundfile.write(path, 0.2 * random.uniform(-1, 1, RATE), RATE)
    caption = Caption(text=f"Piece {name}.", kind="long")
    made.append(
      Clip(
        path=path.name, duration=1.0, sample_rate=RATE, captions=(caption,), split=split,
        sha256=file_sha256(path), extra={"source_id": name},
      )
    )  # fmt: skip
  return made


def check(folder, clips, **kwargs):
  write_manifest(folder / "manifest.jsonl", clips)
  return check_manifest(folder, workers=1, **kwargs)


def change(clips, index, **changes):
  return [*clips[:index], dataclasses.replace(clips[index], **changes), *clips[index + 1 :]]


def found(summary):
  return [(problem.status, problem.reason) for problem in summary.problems]


def test_good_clips_pass(tmp_path, clips):
  summary = check(tmp_path, clips)
  assert (summary.ok, summary.problems, summary.clips, summary.seconds) == (True, (), 4, 4.0)
  assert summary.splits == {"train": 2, "validation": 1, "test": 1}
  assert "ready to train on" in str(summary)


@pytest.mark.parametrize(
  ("index", "changes", "status", "reason"),
  [
    (0, {"path": "none.wav"}, "refused", "there is no such file"),
    (0, {"duration": 1.2}, "refused", "is 1.00 s long, the manifest says 1.20"),
    (0, {"sample_rate": 24_000}, "refused", "is at 8000 Hz, the manifest says 24000"),
    (0, {"sha256": "0" * 64}, "refused", "has changed since the manifest was made"),
    (1, {"id": "a.wav"}, "refused", "the id appears 2 times"),
    (3, {"extra": {"source_id": "a"}}, "refused", "the same source is in train (a.wav) and test"),
    (0, {"captions": ()}, "noted", "has no captions"),
    (0, {"captions": (Caption(text="caf\ufffd", kind="long"),)}, "noted", "a wrong encoding"),
    (0, {"captions": (Caption(text="x" * 3000, kind="long"),)}, "noted", "has 3000 characters"),
  ],
)
def test_each_flaw_is_named(tmp_path, clips, index, changes, status, reason):
  summary = check(tmp_path, change(clips, index, **changes))
  assert len(summary.problems) == 1
  assert summary.problems[0].status == status
  assert reason in summary.problems[0].reason
  assert summary.ok == (status == "noted")


def test_the_same_audio_in_two_splits(tmp_path, clips):
  (tmp_path / "d.wav").write_bytes((tmp_path / "a.wav").read_bytes())
  summary = check(tmp_path, change(clips, 3, sha256=clips[0].sha256))
  assert found(summary) == [
    ("refused", "the same audio is in train (a.wav) and test (d.wav); tests would be too easy")
  ]


@pytest.mark.parametrize(
  ("value", "status", "reason"),
  [(np.nan, "refused", "NaN or infinite"), (0.0, "noted", "is silent")],
)
def test_the_sound_itself_is_looked_at_unless_told_not_to(tmp_path, clips, value, status, reason):
  soundfile.write(tmp_path / "a.wav", np.full(RATE, value), RATE, subtype="FLOAT")
  changed = change(clips, 0, sha256=file_sha256(tmp_path / "a.wav"))
  summary = check(tmp_path, changed)
  assert [problem.status for problem in summary.problems] == [status]
  assert reason in summary.problems[0].reason
  assert check(tmp_path, changed, decode=False).problems == ()


def test_bad_lines_and_files_are_counted_not_fatal(tmp_path, clips):
  check(tmp_path, clips)
  (tmp_path / "b.wav").write_text("words")
  with open(tmp_path / "manifest.jsonl", "a") as lines:
    lines.write("{\n")
  summary = check_manifest(tmp_path / "manifest.jsonl")
  assert summary.clips == 4
  assert summary.problems[0].path == f"{tmp_path / 'manifest.jsonl'}:5"
  assert summary.problems[1].path == str(tmp_path / "b.wav")
  assert not summary.ok


def test_a_file_that_was_cut_off_is_noted(tmp_path, clips):
  whole = (tmp_path / "a.wav").read_bytes()
  (tmp_path / "a.wav").write_bytes(whole[: len(whole) // 2])
  summary = check(tmp_path, change(clips, 0, sha256=file_sha256(tmp_path / "a.wav"), duration=0.5))
  assert [problem.status for problem in summary.problems] == ["noted"]
  assert "probably cut off" in summary.problems[0].reason


def test_a_cut_off_mp3_is_noted_by_its_header_and_refused_by_its_sound(tmp_path, clips):
  """Its header promises samples that training would ask for."""
  path = tmp_path / "a.mp3"
  soundfile.write(path, 0.2 * np.random.default_rng(0).uniform(-1, 1, 4 * RATE), RATE)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  clips = change(clips, 0, path="a.mp3", sha256=None, duration=soundfile.info(path).duration)
  (noted,) = found(check(tmp_path, clips, decode=False))
  assert noted[0] == "noted"
  assert "probably cut off" in noted[1]
  (refused,) = found(check(tmp_path, clips))
  assert refused[0] == "refused"
  assert "is cut off at " in refused[1]


def test_no_manifest(tmp_path):
  with pytest.raises(UserError, match=r"there is no manifest .*n2m data import"):
    check_manifest(tmp_path)
