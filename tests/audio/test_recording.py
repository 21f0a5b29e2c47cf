from pathlib import Path

import numpy as np
import pytest
import soundfile

from noise2music.audio.recording import Recording
from noise2music.errors import UserError

TONE = 0.5 * np.sin(2 * np.pi * 100 * np.arange(4_800) / 48_000)


def test_a_file_of_many_channels_and_another_rate_is_brought_to_one(tmp_path: Path) -> None:
  path = tmp_path / "in.wav"
  soundfile.write(path, np.stack([TONE] * 8, axis=1), 48_000)
  recording = Recording.read(path).at(24_000)
  assert recording.audio.shape == (1, 2_400)
  assert recording.audio.dtype == np.float32
  assert recording.seconds == pytest.approx(0.1)
  wanted = 0.5 * np.sin(2 * np.pi * 100 * np.arange(2_400) / 24_000)
  np.testing.assert_allclose(recording.audio[0, 200:-200], wanted[200:-200], atol=1e-3)


@pytest.mark.parametrize(
  ("audio", "message"),
  [
    (np.zeros((0,)), "must be floats"),
    (np.zeros((1, 2, 3)), "must be floats"),
    (np.arange(5), "must be floats"),
    (np.array([0.1, np.nan]), "NaN or infinity"),
    (np.array([0.1, 20_000.0]), "reaches 20000: scale it"),
  ],
)
def test_audio_that_is_nothing_to_work_with_is_refused(audio: np.ndarray, message: str) -> None:
  with pytest.raises(UserError, match=message):
    Recording(audio=audio, sample_rate_hz=8_000)


def test_files_that_are_silent_cut_off_or_none_are_refused(tmp_path: Path) -> None:
  soundfile.write(tmp_path / "silent.wav", np.zeros(800), 8_000)
  soundfile.write(tmp_path / "cut.flac", np.random.default_rng(0).normal(size=80_000) / 9, 8_000)
  whole = (tmp_path / "cut.flac").read_bytes()
  (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
  (tmp_path / "text.wav").write_text("no sound")
  for name, message in {
    "silent.wav": "silent from beginning to end",
    "cut.flac": "cut off",
    "text.wav": "no audio that can be read",
    "none.wav": "does not exist",
  }.items():
    with pytest.raises(UserError, match=message):
      Recording.read(tmp_path / name)


def test_what_goes_on_is_mirrored_so_that_nothing_jumps() -> None:
  recording = Recording(audio=np.array([0.1, 0.2, 0.3]), sample_rate_hz=1)
  np.testing.assert_allclose(recording.lasting(2).audio, [[0.1, 0.2]])
  longer = [[0.1, 0.2, 0.3, 0.3, 0.2, 0.1, 0.1, 0.2]]
  np.testing.assert_allclose(recording.lasting(8).audio, longer)
