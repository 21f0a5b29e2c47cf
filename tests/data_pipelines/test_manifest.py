import gzip
import json

import pytest

from data_pipelines.manifest import (
  Caption,
  Clip,
  ManifestError,
  manifest_path,
  portable_path,
  read_manifest,
  scan_manifest,
  write_manifest,
)
from noise2music.errors import UserError

SHA = "0123456789abcdef" * 4
LINE = {"path": "a.wav", "duration": 1.5, "sample_rate": 24000}


def clips():
  return [
    Clip(
      path="音楽/😀 one.FLAC",
      duration=29.44,
      sample_rate=24_000,
      captions=(
        Caption(text="A slow waltz.", kind="long", source="caption", extra={"rank": 3}),
        Caption(text="piano", kind="entity", score=0.25),
      ),
      license="CC0",
      split="train",
      sha256=SHA,
      id="one",
      extra={"bpm": 90, "nested": {"a": [1, None]}, "broken": "x\udcff"},
    ),
    Clip(path="b.wav", duration=2, sample_rate=8000),
  ]


def write(path, *lines):
  path.write_text("".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
  return path


@pytest.mark.parametrize("name", ["manifest.jsonl", "manifest.jsonl.gz"])
def test_round_trip_keeps_every_field(tmp_path, name):
  path = tmp_path / "new folder" / name
  assert write_manifest(path, iter(clips())) == 2
  assert list(read_manifest(path)) == clips()
  assert [entry.name for entry in path.parent.iterdir()] == [name]


def test_lines_are_plain_json_with_the_agreed_names(tmp_path):
  write_manifest(tmp_path / "m.jsonl", clips())
  first, second = (tmp_path / "m.jsonl").read_text(encoding="utf-8").splitlines()
  assert "音楽/😀 one.FLAC" in first
  assert list(json.loads(first))[:8] == [
    "path", "duration", "sample_rate", "captions", "license", "split", "sha256", "id",
  ]  # fmt: skip
  assert json.loads(first)["captions"][0] == {
    "text": "A slow waltz.", "kind": "long", "source": "caption", "score": None, "rank": 3,
  }  # fmt: skip
  assert json.loads(second)["id"] == "b.wav"


def test_reading_is_streaming(tmp_path):
  path = write(tmp_path / "m.jsonl", LINE, "\n", "broken")
  stream = read_manifest(path)
  assert next(stream).path == "a.wav"
  with pytest.raises(ManifestError, match=r"m\.jsonl:2: not valid JSON"):
    next(stream)


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"path": None}, "'path' is missing"),
    ({"path": " "}, "path must not be empty"),
    ({"path": 3}, "path must be text, not 3"),
    ({"duration": -1}, "duration must be above 0 seconds, not -1"),
    ({"duration": 0}, "duration must be above 0"),
    ({"duration": "1.5"}, "duration must be a finite number, not '1.5'"),
    ({"duration": True}, "duration must be a finite number"),
    ({"duration": 10**400}, "duration must be a finite number"),
    ({"sample_rate": 0}, "sample_rate must be a whole number of Hz"),
    ({"sample_rate": 44100.5}, "sample_rate must be a whole number of Hz"),
    ({"captions": "a waltz"}, "captions must be a list"),
    ({"captions": ["a waltz"]}, "a caption must be an object"),
    ({"captions": [{"text": "a"}]}, "a caption has no 'kind'"),
    ({"captions": [{"kind": "long"}]}, "a caption has no 'text'"),
    ({"captions": [{"text": "", "kind": "long"}]}, "caption text must not be empty"),
    ({"captions": [{"text": "a", "kind": "tall"}]}, "'tall' is none of long, short, title, entity"),
    ({"captions": [{"text": "\ud800", "kind": "long"}]}, "caption text is not valid Unicode"),
    ({"captions": [{"text": "a", "kind": "long", "score": "1"}]}, "caption score must be a finite"),
    ({"sha256": "abc"}, "sha256 must be 64 hexadecimal digits"),
    ({"split": 1}, "split must be text"),
    ({"id": 7}, "id must be text"),
  ],
)
def test_a_bad_line_is_one_sentence_with_its_place(tmp_path, change, reason):
  path = write(tmp_path / "m.jsonl", LINE, "\n\n", {**LINE, **change}, "\n", LINE)
  results = list(scan_manifest(path))
  assert [number for number, _ in results] == [1, 3, 4]
  assert isinstance(results[0][1], Clip)
  assert isinstance(results[2][1], Clip)
  error = str(results[1][1])
  assert error.startswith(f"{path}:3: ")
  assert reason in error
  assert "\n" not in error


@pytest.mark.parametrize(
  ("text", "reason"),
  [
    ('{"path": "a.wav", "dur', "may be cut off there"),
    ('{"path": "a.wav", "duration": ', "may be cut off there"),
    ('{"path": "a.wav",, "duration": 1}', "mend the line"),
    ('{"path": "a.wav", "duration": NaN, "sample_rate": 1}', "NaN is not a JSON number"),
    ("[" * 100_000, "not valid JSON"),
    ("[1, 2]", "a line must be a JSON object"),
  ],
)
def test_what_is_not_json_says_so(tmp_path, text, reason):
  with pytest.raises(ManifestError, match=reason):
    list(read_manifest(write(tmp_path / "m.jsonl", text)))


def test_bytes_that_are_not_utf8_name_the_line(tmp_path):
  (tmp_path / "m.jsonl").write_bytes(json.dumps(LINE).encode() + b"\n{\xff}\n")
  with pytest.raises(ManifestError, match=r"m\.jsonl:2: the line is not UTF-8"):
    list(read_manifest(tmp_path / "m.jsonl"))


def test_a_byte_order_mark_is_skipped(tmp_path):
  (tmp_path / "m.jsonl").write_text(json.dumps(LINE), encoding="utf-8-sig")
  assert next(read_manifest(tmp_path / "m.jsonl")).path == "a.wav"


def test_a_damaged_gz_is_one_sentence(tmp_path):
  whole = gzip.compress(json.dumps(LINE).encode() * 1000)
  (tmp_path / "m.jsonl.gz").write_bytes(whole[: len(whole) // 2])
  with pytest.raises(UserError, match=r"m\.jsonl\.gz is damaged"):
    list(read_manifest(tmp_path / "m.jsonl.gz"))


def test_a_line_that_would_fill_the_memory_costs_only_itself(tmp_path):
  good = json.dumps(LINE).encode()
  bomb = b'{"path": "' + bytes(40 << 20)
  path = tmp_path / "m.jsonl.gz"
  path.write_bytes(gzip.compress(b"\n".join([good, bomb, good, bomb])))
  found = list(scan_manifest(path))
  assert [number for number, _ in found] == [1, 2, 3, 4]
  assert isinstance(found[2][1], Clip)
  assert "m.jsonl.gz:2: the line is longer than 16 MB" in str(found[1][1])
  assert "m.jsonl.gz:4: the line is longer than 16 MB" in str(found[3][1])


def test_no_such_manifest(tmp_path):
  with pytest.raises(UserError, match="there is no file"):
    list(read_manifest(tmp_path / "none.jsonl"))
  with pytest.raises(UserError, match="n2m data import"):
    manifest_path(tmp_path)
  write_manifest(tmp_path / "manifest.jsonl", [])
  assert manifest_path(tmp_path) == tmp_path / "manifest.jsonl"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
  path = tmp_path / "m.jsonl"
  write_manifest(path, clips()[:1])

  def some():
    yield clips()[1]
    raise RuntimeError("importer broke")

  with pytest.raises(RuntimeError):
    write_manifest(path, some())
  assert list(read_manifest(path)) == clips()[:1]
  assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match=r"cannot write .*choose another output folder"):
    write_manifest(tmp_path / "file" / "m.jsonl", clips())


def test_paths_are_relative_only_inside_the_folder(tmp_path):
  assert portable_path(tmp_path / "a" / "b.wav", folder=tmp_path) == "a/b.wav"
  assert portable_path(tmp_path / "b.wav", folder=tmp_path / "a") == (tmp_path / "b.wav").as_posix()
  clip = Clip(path="a/b.wav", duration=1, sample_rate=1)
  assert clip.audio_path(tmp_path) == tmp_path / "a" / "b.wav"
  absolute = Clip(path="/x/b.wav", duration=1, sample_rate=1)
  assert absolute.audio_path(tmp_path).as_posix() == "/x/b.wav"
