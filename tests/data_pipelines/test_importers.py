import collections
import gzip
import json
import os
import unicodedata

import numpy as np
import pytest

from data_pipelines.importers.audiocraft import AudiocraftImporter
from data_pipelines.importers.audiofolder import AudioFolderImporter
from data_pipelines.importers.folder import FolderImporter
from data_pipelines.importers.run import detect_layout, file_sha256, import_dataset
from data_pipelines.ingest import CutSpec
from data_pipelines.ingest_local import cut_dataset
from data_pipelines.manifest import read_manifest
from data_pipelines.splits import HashSplits
from noise2music.audio.wav_io import write_audio
from noise2music.errors import UserError


def tone(path, *, hz=440.0, seconds=0.1, rate=8000):
  path.parent.mkdir(parents=True, exist_ok=True)
  time = np.arange(round(seconds * rate)) / rate
  write_audio(path, 0.5 * np.sin(2 * np.pi * hz * time).astype(np.float32), sample_rate_hz=rate)
  return path


def run(source, out, **kwargs):
  summary = import_dataset(source, out_dir=out, workers=2, **kwargs)
  clips = {clip.id: clip for clip in read_manifest(summary.manifest)}
  report = [json.loads(line) for line in summary.report.read_text().splitlines()]
  assert report == [problem.to_json() for problem in summary.problems]
  assert summary.files == len(clips)
  return clips, report, summary


def texts(clip):
  return [(caption.kind, caption.text) for caption in clip.captions]


def test_a_plain_folder(tmp_path):
  root = tmp_path / "music"
  one = tone(root / "a album" / "01 - one_more.WAV", hz=300, seconds=0.25)
  (root / "a album" / "01 - one_more.txt").write_text("A first text.\n\n A second\ttext. \n")
  tone(root / "test" / "夜曲 😀.flac", hz=500)
  (root / "test" / "夜曲 😀.json").write_text(json.dumps({"genre": "waltz", "rating": 5}))
  tone(root / ".hidden.wav")
  (root / "cover.jpg").write_text("")
  clips, report, summary = run(root, tmp_path / "out", importer=FolderImporter(titles=True))
  assert list(clips) == ["a album/01 - one_more.WAV", "test/夜曲 😀.flac"]
  first, second = clips.values()
  assert first.path == one.as_posix()
  assert (first.duration, first.sample_rate) == (0.25, 8000)
  assert first.sha256 == file_sha256(one)
  assert texts(first) == [
    ("long", "A first text."),
    ("long", "A second text."),
    ("title", "one more"),
  ]
  assert texts(second) == [("entity", "waltz"), ("title", "夜曲 😀")]
  assert second.extra == {"rating": 5}
  assert second.split == "test"
  assert report == []
  assert summary.captions == {"long": 2, "title": 2, "entity": 1}
  assert "2 files" in str(summary)


def test_the_manifest_travels_with_its_folder_and_a_second_run_is_equal(tmp_path):
  root = tmp_path / "music"
  for index in range(20):
    tone(root / f"{index}.wav", hz=100 + index)
  clips, _, summary = run(root, root)
  assert clips["3.wav"].path == "3.wav"
  first = summary.manifest.read_bytes()
  run(root, root)
  assert summary.manifest.read_bytes() == first


def test_given_splits_stay_and_equal_bytes_share_one(tmp_path):
  root = tmp_path / "music"
  tone(root / "train" / "a.wav")
  tone(root / "valid" / "twin.wav")
  tone(root / "valid" / "b.wav", hz=300)
  clips, report, _ = run(root, tmp_path / "out")
  assert {name: clip.split for name, clip in clips.items()} == {
    "train/a.wav": "train",
    "valid/b.wav": "validation",
    "valid/twin.wav": "train",
  }
  assert [
    (line["status"], "the same bytes as train/a.wav" in line["reason"]) for line in report
  ] == [("noted", True)]


def test_hash_splits_have_their_shares_and_move_nothing_else():
  names = [f"{index}.wav" for index in range(4000)]
  splits = HashSplits(validation_percent=10, test_percent=20)
  before = {name: splits(name) for name in names}
  counts = collections.Counter(before.values())
  assert abs(counts["test"] - 800) < 100
  assert abs(counts["validation"] - 400) < 80
  less_test = HashSplits(validation_percent=10, test_percent=5)
  for name in names:
    moved = less_test(name) != before[name]
    assert not moved or (before[name], less_test(name)) == ("test", "train")
  salted = HashSplits(validation_percent=10, test_percent=20, salt="x")
  assert before != {name: salted(name) for name in names}
  for bad in ({"test_percent": -1}, {"test_percent": 60, "validation_percent": 60}):
    with pytest.raises(UserError, match="at most 100 together"):
      HashSplits(**bad)


def test_bad_files_are_reported_one_by_one_and_the_rest_kept(tmp_path, monkeypatch):
  root = tmp_path / "music"
  for name in ("a.wav", "z/good.flac"):
    tone(root / name, hz=200 + len(name))
  (root / "empty.wav").write_bytes(b"")
  (root / "text.wav").write_text("these are words\n" * 20)
  (root / "song.m4a").write_bytes(b"x")
  (root / "gone.wav").symlink_to(root / "nowhere.wav")
  (root / "loop.wav").symlink_to(root / "loop.wav")
  (root / "z" / "up").symlink_to(root)
  tone(tmp_path / "elsewhere.wav")
  (root / "z" / "further up").symlink_to(tmp_path)
  os.mkfifo(root / "pipe.wav")
  with open(os.fsencode(root) + b"/bad\xff.wav", "wb"):
    pass
  (root / "a.txt").write_bytes(b"\xff\xfe")
  clips, report, summary = run(root, tmp_path / "out")
  assert list(clips) == ["a.wav", "z/good.flac"]
  reasons = {os.path.basename(line["path"]): (line["status"], line["reason"]) for line in report}
  assert reasons.keys() == {
    "a.txt", "bad\udcff.wav", "empty.wav", "gone.wav", "loop.wav", "pipe.wav", "song.m4a",
    "further up", "text.wav", "up",
  }  # fmt: skip
  assert reasons["a.txt"][0] == "noted"
  for name in ("up", "further up"):
    assert reasons[name] == ("noted", "a link to a folder above it or read already; not followed")
  assert reasons["gone.wav"][1].startswith("a broken link")
  assert reasons["loop.wav"][1].startswith("a broken link")
  assert reasons["pipe.wav"][1] == "not a regular file"
  assert "convert it to .flac" in reasons["song.m4a"][1]
  assert "not valid UTF-8" in reasons["bad\udcff.wav"][1]
  assert all(reasons[name][0] == "refused" for name in ("empty.wav", "text.wav", "pipe.wav"))
  assert "7 refused, 0 repaired, 3 noted" in str(summary)


@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".ogg"])
def test_a_file_that_was_cut_off_is_noted_and_what_is_there_is_used(tmp_path, suffix):
  music = tmp_path / "music"
  music.mkdir()
  for seed, name in enumerate(("half", "whole")):
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 32_000).astype(np.float32)
    write_audio(music / f"{name}{suffix}", noise, sample_rate_hz=8_000)
  path = music / f"half{suffix}"
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  clips, (line,), summary = run(music, tmp_path / "out")
  assert set(clips) == {f"half{suffix}", f"whole{suffix}"}
  assert (line["status"], line["path"]) == ("noted", str(path))
  assert line["reason"].startswith("ends before the end its format marks, probably cut off")
  assert "1 noted" in str(summary)
  spec = CutSpec(seconds=1.0, min_seconds=0.5, sample_rate_hz=8_000, min_sample_rate_hz=8_000)
  cut = cut_dataset(tmp_path / "out", out_dir=tmp_path / "clips", spec=spec)
  pieces = [clip.id for clip in read_manifest(cut.manifest)]
  assert f"half{suffix}@0.00" in pieces
  assert f"half{suffix}@3.00" not in pieces
  assert f"whole{suffix}@3.00" in pieces


def test_links_to_folders_elsewhere_are_followed_once(tmp_path):
  tone(tmp_path / "disk" / "a.wav")
  (tmp_path / "music").mkdir()
  for name in ("one", "two"):
    (tmp_path / "music" / name).symlink_to(tmp_path / "disk")
  clips, report, _ = run(tmp_path / "music", tmp_path / "out")
  assert list(clips) == ["one/a.wav"]
  assert [os.path.basename(line["path"]) for line in report] == ["two"]


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
  tone(tmp_path / "music" / "a.wav")
  tone(tmp_path / "music" / "b.wav", hz=300)

  def forbidden(path):
    if path.name == "a.wav":
      raise PermissionError(13, "Permission denied")
    return "0" * 64

  monkeypatch.setattr("data_pipelines.importers.run.file_sha256", forbidden)
  clips, report, _ = run(tmp_path / "music", tmp_path / "out")
  assert list(clips) == ["b.wav"]
  assert report[0]["reason"] == "permission denied; make the file readable"


def test_no_folder_no_audio_nothing_usable(tmp_path):
  out = tmp_path / "out"
  with pytest.raises(UserError, match=r"there is no folder .*nowhere; check the spelling"):
    import_dataset(tmp_path / "nowhere", out_dir=out)
  (tmp_path / "music").mkdir()
  (tmp_path / "music" / "readme.md").write_text("")
  with pytest.raises(UserError, match=r"there is no audio in .*\.wav"):
    import_dataset(tmp_path / "music", out_dir=out)
  assert not out.exists()
  (tmp_path / "music" / "a.wav").write_text("")
  with pytest.raises(UserError, match="none of the 1 files or rows"):
    import_dataset(tmp_path / "music", out_dir=out)
  assert not (out / "manifest.jsonl").exists()
  with pytest.raises(UserError, match="one audio file; give the folder"):
    detect_layout(tone(tmp_path / "b.wav"))


CSV = (
  "\ufefffile_name,caption,attribution,license\r\n"
  'x/a.wav,"A waltz, slow.",by me,CC0\r\n'
  "x/a.wav,Another.,,\r\n"
  "x/none.wav,Gone.,,\r\n"
  "x/b.wav,too,many,columns,here\r\n"
)


def test_an_audiofolder_csv(tmp_path):
  root = tmp_path / "music"
  for name, hz in (("a", 200), ("b", 300), ("c", 400)):
    tone(root / "x" / f"{name}.wav", hz=hz)
  (root / "metadata.csv").write_text(CSV, encoding="utf-8", newline="")
  assert isinstance(detect_layout(root), AudioFolderImporter)
  clips, report, _ = run(root, tmp_path / "out", license="CC-BY-4.0")
  assert list(clips) == ["x/a.wav", "x/b.wav", "x/c.wav"]
  assert texts(clips["x/a.wav"]) == [("long", "A waltz, slow."), ("long", "Another.")]
  assert clips["x/a.wav"].extra == {"attribution": "by me"}
  assert clips["x/a.wav"].license == "CC0"
  assert clips["x/c.wav"].license == "CC-BY-4.0"
  where = [(line["path"].removeprefix(f"{root}/"), line["status"]) for line in report]
  assert where == [
    ("metadata.csv:4", "refused"),
    ("metadata.csv:5", "refused"),
    ("x/b.wav", "noted"),
    ("x/c.wav", "noted"),
  ]
  assert report[0]["reason"] == "x/none.wav: there is no such file"
  assert report[1]["reason"].startswith("5 columns where the header has 4")
  listed, _, _ = run(root, tmp_path / "listed", importer=AudioFolderImporter(unlisted=False))
  assert list(listed) == ["x/a.wav"]


def test_an_audiofolder_jsonl_for_each_split(tmp_path):
  root = tmp_path / "music"
  for split, hz in (("train", 200), ("test", 300)):
    tone(root / split / "a.wav", hz=hz)
    rows = [{"file_name": "a.wav", "text": f"for {split}", "tags": ["x"], "n": {"deep": 1}}, "no"]
    (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{")
  clips, report, _ = run(root, tmp_path / "out")
  assert {name: clip.split for name, clip in clips.items()} == {
    "test/a.wav": "test",
    "train/a.wav": "train",
  }
  assert texts(clips["test/a.wav"]) == [("long", "for test"), ("short", "x")]
  assert clips["test/a.wav"].extra == {"n": {"deep": 1}}
  assert [line["path"].removeprefix(f"{root}/") for line in report] == [
    "test/metadata.jsonl:2",
    "test/metadata.jsonl:3",
    "train/metadata.jsonl:2",
    "train/metadata.jsonl:3",
  ]


def test_accents_match_however_they_are_composed(tmp_path):
  name = unicodedata.normalize("NFD", "é.wav")
  tone(tmp_path / "music" / name)
  (tmp_path / "music" / "metadata.csv").write_text("file_name,caption\né.wav,hi\n", "utf-8")
  clips, report, _ = run(tmp_path / "music", tmp_path / "out")
  assert texts(clips["é.wav"]) == [("long", "hi")]
  assert report == []


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    (b"file_name;caption\na.wav;hi\n", "is separated by semicolons; save it separated by commas"),
    (b"file_name\tcaption\na.wav\thi\n", "is separated by tabs"),
    (b"caption\nhi\n", "there is no column file_name"),
    (b"", "there is no column file_name"),
    (b"file_name,caption\na.wav,\xe9\n", "is not UTF-8"),
    ("file_name,caption\na.wav,hi\n".encode("utf-16"), "is not UTF-8"),
    (b"file_name,caption,caption\n", "a column name appears twice"),
    (b'file_name,caption\na.wav,"open\n', "look for a quote that is not closed"),
  ],
)
def test_a_bad_csv_is_one_sentence(tmp_path, content, reason):
  tone(tmp_path / "a.wav")
  (tmp_path / "metadata.csv").write_bytes(content)
  with pytest.raises(UserError, match=reason) as caught:
    import_dataset(tmp_path, out_dir=tmp_path / "out")
  assert "\n" not in str(caught.value)
  assert str(tmp_path / "metadata.csv") in str(caught.value)


def test_a_table_of_another_name_and_long_cells(tmp_path):
  tone(tmp_path / "a.wav")
  (tmp_path / "songs.csv").write_text(f"File_Name,caption\na.wav,{'la ' * 100_000}\n")
  clips, _, _ = run(tmp_path / "songs.csv", tmp_path / "out")
  assert len(clips["a.wav"].captions[0].text) == 3 * 100_000 - 1


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_audiocraft_lines_and_sidecars(tmp_path, suffix):
  song = tone(tmp_path / "dataset" / "electro.wav", seconds=0.5)
  other = tone(tmp_path / "dataset" / "plain.flac", hz=300)
  sidecar = {
    "key": "", "artist": "Voyager I", "sample_rate": 48000, "file_extension": "wav",
    "description": "A cool song.", "keywords": "bright, pulsing", "duration": 15.0, "bpm": "120",
    "genre": "electronic", "title": "Electro track", "name": "electro", "instrument": "Mix",
    "moods": [],
  }  # fmt: skip
  song.with_suffix(".json").write_text(json.dumps(sidecar))
  other.with_suffix(".json").write_text("{")
  lines = [
    {"path": "dataset/electro.wav", "duration": 15.0, "sample_rate": 48000, "amplitude": None,
     "weight": 0.5, "info_path": None},
    {"path": str(other), "duration": 1.0, "sample_rate": 1},
    {"path": "dataset/none.wav", "duration": 1.0, "sample_rate": 1},
    {"path": "dataset/a.zip:b.wav"},
    {"duration": 1.0},
  ]  # fmt: skip
  data = tmp_path / "egs" / "valid" / f"data{suffix}"
  data.parent.mkdir(parents=True)
  opener = gzip.open if suffix.endswith("gz") else open
  with opener(data, "wt") as out:
    out.write("\n".join(map(json.dumps, lines)))
  assert isinstance(detect_layout(tmp_path / "egs"), AudiocraftImporter)
  for source in (tmp_path / "egs", data):
    clips, report, _ = run(source, tmp_path / "out")
    first, second = clips.values()
    assert (first.duration, first.sample_rate, first.split) == (0.5, 8000, "validation")
    assert texts(first) == [
      ("entity", "Voyager I"),
      ("long", "A cool song."),
      ("short", "bright"),
      ("short", "pulsing"),
      ("short", "120 BPM"),
      ("entity", "electronic"),
      ("title", "Electro track"),
      ("title", "electro"),
      ("entity", "Mix"),
    ]
    assert first.extra == {"weight": 0.5, "bpm": "120"}
    assert second.captions == ()
    assert [(line["path"], line["status"]) for line in report] == [
      (str(other.with_suffix(".json")), "noted"),
      (f"{data}:3", "refused"),
      (f"{data}:4", "refused"),
      (f"{data}:5", "refused"),
    ]


def test_a_manifest_is_not_imported_again(tmp_path):
  tone(tmp_path / "music" / "a.wav")
  _, _, summary = run(tmp_path / "music", tmp_path / "out")
  with pytest.raises(UserError, match="is a manifest already"):
    import_dataset(summary.manifest, out_dir=tmp_path / "again")
