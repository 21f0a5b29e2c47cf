from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.truncation import looks_cut_off

SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)


@pytest.mark.parametrize("name", ["a.wav", "a.ogg", "a.opus", "a.mp3"])
def test_a_whole_file_is_whole_and_half_of_it_is_not(tmp_path: Path, name: str) -> None:
  path = tmp_path / name
  subtype = {"a.opus": "OPUS", "a.ogg": "VORBIS"}.get(name)
  kind = {".wav": "WAV", ".mp3": "MP3"}.get(path.suffix, "OGG")
  soundfile.write(path, SOUND, 24_000, format=kind, subtype=subtype)
  assert looks_cut_off(path) is None
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  assert "cut off" in looks_cut_off(path)


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])  # MPEG 2.5, 2 and 1
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("tag_bytes", [0, 300])
def test_an_mp3_of_any_kind(tmp_path: Path, mode, rate, channels, tag_bytes) -> None:
  """Tags before and behind the audio move its end and hide none of it."""
  path = tmp_path / "a.mp3"
  sound = np.stack([SOUND] * channels, axis=1)
  settings = {"bitrate_mode": mode, "compression_level": 0.5}
  soundfile.write(path, sound, rate, format="MP3", **settings)
  audio = path.read_bytes()
  # 300 = 2 * 128 + 44, in bytes of seven bits.
  before = b"ID3\x04\x00\x00\x00\x00\x02\x2c" + bytes(tag_bytes) if tag_bytes else b""
  path.write_bytes(before + audio + b"TAG" + bytes(125))
  assert looks_cut_off(path) is None
  path.write_bytes(before + audio[: len(audio) - 3_000])
  assert "cut off" in looks_cut_off(path)
  assert looks_cut_off(path, decoded=True) is None


def test_a_wav_from_a_pipe_promises_nothing(tmp_path: Path) -> None:
  path = tmp_path / "a.wav"
  soundfile.write(path, SOUND, 24_000)
  data = bytearray(path.read_bytes())
  data[4:8] = b"\xff\xff\xff\xff"
  path.write_bytes(data)
  assert looks_cut_off(path) is None


def test_formats_that_announce_no_end_are_left_to_the_decoder(tmp_path: Path) -> None:
  for k, data in enumerate((b"\xff\xfb\x90" + bytes(100), b"\xff\xfb", b"", b"ID3\x04")):
    path = tmp_path / f"{k}.mp3"
    path.write_bytes(data)
    assert looks_cut_off(path) is None
