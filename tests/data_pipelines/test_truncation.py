from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.truncation import looks_cut_off

SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000)


@pytest.mark.parametrize("name", ["a.wav", "a.ogg", "a.opus"])
def test_a_whole_file_is_whole_and_half_of_it_is_not(tmp_path: Path, name: str) -> None:
  path = tmp_path / name
  subtype = {"a.opus": "OPUS", "a.ogg": "VORBIS"}.get(name)
  kind = "WAV" if name.endswith("wav") else "OGG"
  soundfile.write(path, SOUND, 24_000, format=kind, subtype=subtype)
  assert looks_cut_off(path) is None
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  assert "cut off" in looks_cut_off(path)


def test_a_wav_from_a_pipe_promises_nothing(tmp_path: Path) -> None:
  path = tmp_path / "a.wav"
  soundfile.write(path, SOUND, 24_000)
  data = bytearray(path.read_bytes())
  data[4:8] = b"\xff\xff\xff\xff"
  path.write_bytes(data)
  assert looks_cut_off(path) is None


def test_formats_that_announce_no_end_are_left_to_the_decoder(tmp_path: Path) -> None:
  (tmp_path / "a.mp3").write_bytes(b"\xff\xfb\x90" + bytes(100))
  assert looks_cut_off(tmp_path / "a.mp3") is None
