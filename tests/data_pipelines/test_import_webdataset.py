import errno
import io
import json
import os
import tarfile

import pytest

from data_pipelines import command
from data_pipelines.importers.run import detect_layout
from data_pipelines.importers.webdataset import WebDatasetImporter
from data_pipelines.manifest import CannotWrite, read_manifest
from noise2music.errors import UserError
from tests.data_pipelines.test_importers import run, texts, tone


@pytest.fixture
def sound(tmp_path):
  return lambda hz: tone(tmp_path / "one" / f"{hz}.wav", hz=hz).read_bytes()


def shard(path, members):
  path.parent.mkdir(parents=True, exist_ok=True)
  with tarfile.open(path, "w") as archive:
    for name, content in members:
      member = tarfile.TarInfo(name)
      if isinstance(content, bytes):
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
      else:
        member.type, member.linkname = content
        archive.addfile(member)
  return path


def unpacking(tmp_path, **kwargs):
  return WebDatasetImporter(unpack_to=tmp_path / "unpacked", **kwargs)


def files_below(folder):
  return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def test_samples_of_two_shards(tmp_path, sound):
  caption = json.dumps({"caption": "A waltz.", "genre": "folk", "n": 1}).encode()
  root = tmp_path / "shards"
  first = [("x/1.wav", sound(200)), ("x/1.json", caption), ("x/1.cls", b"5")]
  second = [("1.txt", b"One.\n\nTwo.\n"), ("1.wav", sound(300)), ("2.wav", sound(400))]
  second += [("2.json", b"{"), ("3.txt", b"Alone.")]
  shard(root / "train-000.tar", first)
  shard(root / "train-001.tar", second)
  assert isinstance(detect_layout(root), WebDatasetImporter)
  assert command.main(["import", str(root), "--out", str(tmp_path / "out")]) == 0
  clips = list(read_manifest(tmp_path / "out" / "manifest.jsonl"))
  assert [clip.id for clip in clips] == [
    "train-000.tar/x/1.wav",
    "train-001.tar/1.wav",
    "train-001.tar/2.wav",
  ]
  assert clips[0].path == "unpacked/train-000.tar/x/1.wav"
  assert texts(clips[0]) == [("long", "A waltz."), ("entity", "folk")]
  assert texts(clips[1]) == [("long", "One."), ("long", "Two.")]
  assert (clips[0].split, clips[0].extra) == ("train", {"n": 1})
  report = [json.loads(line) for line in (tmp_path / "out" / "report.jsonl").open()]
  assert [(line["status"], line["reason"].split(" (")[0]) for line in report] == [
    ("noted", "1 members that end in .cls were not read"),
    ("noted", "its .json was not read"),
    ("refused", "texts without audio of the same key"),
  ]


def test_nothing_is_written_outside_the_folder(tmp_path, sound):
  path = shard(tmp_path / "a.tar", [
    ("../up.wav", sound(200)),
    ("/abs.wav", sound(200)),
    ("x/../../up.wav", sound(200)),
    ("x\\..\\up.wav", sound(200)),
    ("C:/up.wav", sound(200)),
    ("new\nline.wav", sound(200)),
    ("link", (tarfile.SYMTYPE, str(tmp_path / "target"))),
    ("link/through.wav", sound(300)),
    ("hard.wav", (tarfile.LNKTYPE, "/etc/passwd")),
    ("pipe.wav", (tarfile.FIFOTYPE, "")),
    ("n" * 250 + ".wav", sound(200)),
    ("./good.wav", sound(400)),
    ("good.wav", sound(500)),
  ])  # fmt: skip
  (tmp_path / "target").mkdir()
  before = files_below(tmp_path)
  clips, report, _ = run(path, tmp_path / "out", importer=unpacking(tmp_path))
  assert list(clips) == ["a.tar/link/through.wav", "a.tar/good.wav"]
  assert clips["a.tar/good.wav"].sha256
  new = set(files_below(tmp_path)) - set(before)
  assert new == {
    "unpacked/a.tar/link/through.wav", "unpacked/a.tar/good.wav",
    "out/manifest.jsonl", "out/report.jsonl",
  }  # fmt: skip
  assert len(report) == 11
  (tmp_path / "unpacked" / "b.tar").symlink_to(tmp_path / "target")
  with pytest.raises(UserError, match="a link in the output folder leads out of it"):
    run(shard(tmp_path / "b.tar", [("x/1.wav", sound(200))]), tmp_path / "o2",
        importer=unpacking(tmp_path))  # fmt: skip
  assert files_below(tmp_path / "target") == []


def test_members_of_two_shards_are_never_one_file(tmp_path, sound):
  root = tmp_path / "shards"
  shard(root / "a.tar", [("b/x.wav", sound(200)), ("b/x.txt", b"One.")])
  shard(root / "a" / "b.tar", [("x.wav", sound(300)), ("x.txt", b"Two.")])
  clips, report, _ = run(root, tmp_path / "out", importer=unpacking(tmp_path))
  assert {name: texts(clip) for name, clip in clips.items()} == {
    "a.tar/b/x.wav": [("long", "One.")],
    "a/b.tar/x.wav": [("long", "Two.")],
  }
  assert len({clip.sha256 for clip in clips.values()}) == 2
  assert report == []


def test_a_name_that_no_file_can_have_costs_itself(tmp_path, sound):
  members = [("a.wav", sound(200)), ("a.wav/b.wav", sound(300)), ("c.wav/b.wav", sound(400))]
  members += [("c.wav", sound(500)), ("/".join(["n" * 200] * 31) + ".wav", sound(600))]
  path = shard(tmp_path / "a.tar", members)
  clips, report, _ = run(path, tmp_path / "out", importer=unpacking(tmp_path))
  assert list(clips) == ["a.tar/a.wav", "a.tar/c.wav/b.wav"]
  assert len(report) == 3
  for line in report:
    assert line["reason"].startswith("its name cannot be that of a file here (")
    assert line["reason"].endswith("); rename it in the archive")


def test_a_full_disk_ends_the_import(tmp_path, sound, monkeypatch):
  replace = os.replace

  def full(source, target):
    if str(target).endswith("1.wav"):
      raise OSError(errno.ENOSPC, "No space left on device")
    replace(source, target)

  path = shard(tmp_path / "a.tar", [(f"{i}.wav", sound(200 + i)) for i in range(3)])
  monkeypatch.setattr("os.replace", full)
  with pytest.raises(CannotWrite, match="is full; free some space"):
    run(path, tmp_path / "out", importer=unpacking(tmp_path))
  assert files_below(tmp_path / "unpacked") == ["a.tar/0.wav"]


def test_a_damaged_member_is_lost_alone(tmp_path, sound):
  path = shard(tmp_path / "a.tar", [(f"{i}.wav", sound(200 + i)) for i in range(4)])
  with tarfile.open(path) as archive:
    starts = [member.offset for member in archive]
  raw = bytearray(path.read_bytes())
  raw[starts[1] + 10] ^= 0xFF  # a header: found by its checksum
  path.write_bytes(raw)
  clips, report, _ = run(path, tmp_path / "out", importer=unpacking(tmp_path))
  assert list(clips) == ["a.tar/0.wav", "a.tar/2.wav", "a.tar/3.wav"]
  assert [line["reason"] for line in report] == [
    f"the bytes {starts[1]} to {starts[2]} are damaged; the members in them are lost"
  ]
  path.write_bytes(raw[: starts[3] + 600])
  clips, report, _ = run(path, tmp_path / "cut", importer=unpacking(tmp_path))
  assert list(clips) == ["a.tar/0.wav", "a.tar/2.wav"]
  assert report[1]["reason"] == "the archive ends within this member"
  assert not list((tmp_path / "unpacked").rglob("*.part"))


@pytest.mark.parametrize("first", [0, 1])
def test_a_damaged_long_name_is_lost_alone(tmp_path, sound, first):
  names = ["é" * 60 + ".wav", "1.wav"][:: 1 if first == 0 else -1]
  path = shard(tmp_path / "a.tar", [*((name, sound(200)) for name in names), ("2.wav", sound(300))])
  with tarfile.open(path) as archive:
    long = next(member for member in archive if member.name.startswith("é"))
  raw = bytearray(path.read_bytes())
  raw[long.offset_data - 512 + 3] ^= 0xFF  # the header behind that of the name
  path.write_bytes(raw)
  clips, report, _ = run(path, tmp_path / "out", importer=unpacking(tmp_path))
  assert list(clips) == ["a.tar/1.wav", "a.tar/2.wav"]
  assert ["damaged" in line["reason"] for line in report] == [True]


def test_a_size_below_zero_does_not_lead_backwards(tmp_path, sound):
  path = shard(tmp_path / "a.tar", [("0.wav", sound(200)), ("1.wav", sound(300))])
  raw = bytearray(path.read_bytes())
  raw[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024 in base 256
  raw[148:156] = b" " * 8
  raw[148:156] = b"%06o\0 " % sum(raw[:512])
  path.write_bytes(raw)
  clips, report, _ = run(path, tmp_path / "out", importer=unpacking(tmp_path))
  assert list(clips) == ["a.tar/1.wav"]
  assert len(report) == 1


def test_an_archive_without_an_end_is_noted(tmp_path, sound):
  path = shard(tmp_path / "a.tar", [("0.wav", sound(200)), ("1.wav", sound(300))])
  with tarfile.open(path) as archive:
    second = archive.getmembers()[1].offset
  path.write_bytes(path.read_bytes()[:second])
  clips, report, _ = run(path, tmp_path / "out", importer=unpacking(tmp_path))
  assert list(clips) == ["a.tar/0.wav"]
  assert [line["status"] for line in report] == ["noted"]


def test_sizes_are_checked_before_anything_is_written(tmp_path, sound):
  path = shard(tmp_path / "a.tar", [("1.wav", sound(200)), ("big.wav", bytes(5000)),
                                    ("1.txt", b"x" * ((1 << 20) + 1))])  # fmt: skip
  clips, report, _ = run(
    path, tmp_path / "out", importer=unpacking(tmp_path, most_audio_bytes=4999)
  )
  assert list(clips) == ["a.tar/1.wav"]
  assert [line["reason"] for line in report] == [
    "5000 bytes of audio, more than 4999",
    "a text of more than 1 MB",
  ]
  assert files_below(tmp_path / "unpacked") == ["a.tar/1.wav"]


def test_no_archive_is_one_sentence(tmp_path):
  with pytest.raises(UserError, match="give unpack_to"):
    list(WebDatasetImporter()(tmp_path))
  with pytest.raises(UserError, match=r"there is no \.tar file"):
    list(unpacking(tmp_path)(tmp_path))
  (tmp_path / "a.tar").write_bytes(b"words" * 1000)
  problems = list(unpacking(tmp_path)(tmp_path))
  assert len(problems) == 1
  assert "are damaged" in problems[0].reason
