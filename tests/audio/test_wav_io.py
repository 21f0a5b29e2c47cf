import os
import pickle

import numpy as np
import pytest
import soundfile

from noise2music.audio import wav_io
from noise2music.audio.wav_io import AudioError, probe, read_audio, write_audio
from noise2music.errors import UserError

RATE = 24_000
LOSSLESS = (".wav", ".flac")


def tone(seconds=1.0, rate=RATE, hz=440.0):
  return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", wav_io.AUDIO_SUFFIXES)
def test_round_trip(tmp_path, suffix):
  path = tmp_path / f"a{suffix}"
  x = tone()
  assert write_audio(path, x, sample_rate_hz=RATE) == RATE
  assert os.listdir(tmp_path) == [path.name]
  info = probe(path)
  assert (info.sample_rate, info.channels, info.frames) == (RATE, 1, len(x))
  assert info.duration == pytest.approx(1.0)
  y, rate = read_audio(path)
  assert (y.dtype, y.shape, rate) == (np.float32, x.shape, RATE)
  inner = slice(2_000, -2_000)  # codecs need a moment to start and stop
  np.testing.assert_allclose(y[inner], x[inner], atol=2e-5 if suffix in LOSSLESS else 0.1)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_int16_survives_bit_for_bit_and_beyond_full_scale_is_clipped(tmp_path, suffix):
  x = np.array([-32768, -32767, -1, 0, 1, 12_345, 32_767], np.float32) / 32768
  write_audio(tmp_path / f"a{suffix}", x, sample_rate_hz=8_000)
  np.testing.assert_array_equal(read_audio(tmp_path / f"a{suffix}")[0], x)
  write_audio(tmp_path / f"b{suffix}", 3 * x, sample_rate_hz=8_000)
  assert np.abs(read_audio(tmp_path / f"b{suffix}")[0]).max() == 1.0


@pytest.mark.parametrize("suffix", wav_io.AUDIO_SUFFIXES)
def test_a_segment_is_the_same_as_a_slice(tmp_path, suffix):
  path = tmp_path / f"a{suffix}"
  x = np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32) * 0.1
  write_audio(path, x, sample_rate_hz=RATE)
  whole, _ = read_audio(path)
  part, _ = read_audio(path, start_seconds=1.25, seconds=0.5)
  np.testing.assert_allclose(part, whole[30_000:42_000], atol=1e-4)
  tail, _ = read_audio(path, start_seconds=2.5, seconds=9.0)
  np.testing.assert_allclose(tail, whole[60_000:], atol=1e-4)


def test_a_long_mp3_has_no_seams(tmp_path):
  path = tmp_path / "a.mp3"
  x = np.random.default_rng(0).normal(size=300_000).astype(np.float32) * 0.1
  write_audio(path, x, sample_rate_hz=RATE)
  np.testing.assert_allclose(read_audio(path)[0], soundfile.read(path)[0], atol=1e-6)


def test_only_the_segment_is_decoded(tmp_path, monkeypatch):
  path = tmp_path / "a.flac"
  write_audio(path, tone(20.0), sample_rate_hz=RATE)
  counts = []
  read = soundfile.SoundFile.read
  monkeypatch.setattr(
    soundfile.SoundFile, "read", lambda self, n, **kw: counts.append(n) or read(self, n, **kw)
  )
  read_audio(path, start_seconds=15.0, seconds=0.5)
  assert sum(counts) == 12_000


@pytest.mark.parametrize(("suffix", "rate", "want"), [
  (".opus", 3_200, 8_000), (".opus", 44_100, 48_000), (".opus", 16_000, 16_000),
  (".mp3", 3_200, 8_000), (".mp3", 96_000, 48_000), (".ogg", 3_200, 3_200),
  (".wav", 96_000, 96_000),
])  # fmt: skip
def test_rates_a_format_cannot_hold_go_up_to_the_next(tmp_path, suffix, rate, want):
  path = tmp_path / f"a{suffix}"
  x = tone(rate=rate)
  assert write_audio(path, x, sample_rate_hz=rate) == want == probe(path).sample_rate
  y, back = read_audio(path, sample_rate_hz=rate)
  assert (back, len(y)) == (rate, len(x))
  inner = slice(rate // 8, -rate // 8)
  np.testing.assert_allclose(y[inner], x[inner], atol=0.1)


def test_resampling_on_reading_matches_the_closed_form(tmp_path):
  write_audio(tmp_path / "a.wav", tone(), sample_rate_hz=RATE)
  y, rate = read_audio(tmp_path / "a.wav", sample_rate_hz=16_000)
  assert (rate, len(y)) == (16_000, 16_000)
  np.testing.assert_allclose(y[500:-500], tone(rate=16_000)[500:-500], atol=1e-3)
  write_audio(tmp_path / "two.wav", tone()[5:7], sample_rate_hz=RATE)
  assert len(read_audio(tmp_path / "two.wav", sample_rate_hz=3_200)[0]) == 1


def test_eight_channels_are_averaged_or_kept(tmp_path):
  x = np.stack([tone(0.1) * k / 8 for k in range(8)])
  write_audio(tmp_path / "a.wav", x, sample_rate_hz=RATE)
  assert probe(tmp_path / "a.wav").channels == 8
  mono, _ = read_audio(tmp_path / "a.wav")
  np.testing.assert_allclose(mono, x.mean(axis=0), atol=2e-5)
  every, _ = read_audio(tmp_path / "a.wav", mono=False)
  np.testing.assert_allclose(every, x, atol=2e-5)


def cut(path, fraction):
  data = path.read_bytes()
  path.write_bytes(data[: int(len(data) * fraction)])


def broken_file(kind, folder):
  """A file that cannot be read, and a word of what must be said about it."""
  names = {
    "missing": "no.wav", "folder": "f.wav", "empty": "e.wav", "text": "t.wav", "m4a": "m.m4a",
    "mp3_cut": "c.mp3", "flac_cut": "c.flac", "nan": "n.wav", "no_samples": "z.wav", "raw": "r.raw",
  }  # fmt: skip
  path = folder / names[kind]
  if kind == "folder":
    path.mkdir()
  elif kind in ("empty", "m4a"):
    path.write_bytes(b"" if kind == "empty" else b"\0\0\0\x20ftypM4A ")
  elif kind in ("text", "raw"):
    path.write_text("this is not sound\n" * 50)
  elif kind in ("mp3_cut", "flac_cut"):
    write_audio(path, np.random.default_rng(0).uniform(-1, 1, 2 * RATE), sample_rate_hz=RATE)
    cut(path, 0.5)
  elif kind == "nan":
    x = tone()
    x[777] = np.nan
    soundfile.write(path, x, RATE, subtype="FLOAT")
  elif kind == "no_samples":
    soundfile.write(path, np.zeros(0, np.float32), RATE)
  return path


BROKEN = {
  "missing": "does not exist", "folder": "folder", "empty": "0 bytes", "text": "no audio",
  "m4a": "convert it first", "mp3_cut": "cut off", "flac_cut": "cut off", "nan": "NaN",
  "no_samples": "no samples", "raw": "no audio",
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_gives_one_sentence(tmp_path, kind):
  path = broken_file(kind, tmp_path)
  with pytest.raises(AudioError, match=BROKEN[kind]) as caught:
    read_audio(path)
  assert isinstance(caught.value, UserError)
  assert str(caught.value).startswith(str(path))
  assert "\n" not in str(caught.value)
  again = pickle.loads(pickle.dumps(caught.value))
  assert (str(again), again.reason) == (str(caught.value), caught.value.reason)


def test_a_wav_without_its_end_is_read_as_far_as_it_goes(tmp_path):
  path = tmp_path / "a.wav"
  write_audio(path, tone(), sample_rate_hz=RATE)
  cut(path, 0.5)
  y, _ = read_audio(path)
  np.testing.assert_allclose(y, tone()[: len(y)], atol=2e-5)
  assert abs(len(y) - RATE / 2) < 50


def test_the_good_part_of_a_cut_off_mp3_can_be_read(tmp_path):
  path = broken_file("mp3_cut", tmp_path)
  assert len(read_audio(path, seconds=0.5)[0]) == RATE // 2


def test_segments_that_do_not_exist(tmp_path):
  path = tmp_path / "a.wav"
  write_audio(path, tone(), sample_rate_hz=RATE)
  with pytest.raises(AudioError, match=r"ends at 1\.00 s"):
    read_audio(path, start_seconds=1.0)
  for times in ({"start_seconds": -1.0}, {"seconds": 0.0}, {"start_seconds": float("nan")}):
    with pytest.raises(AudioError, match="positive"):
      read_audio(path, **times)


@pytest.mark.parametrize(("name", "audio", "message"), [
  ("a.aiff", tone(0.1), "use one of .wav"),
  ("no/a.wav", tone(0.1), "create it"),
  ("a.wav", np.zeros(10, np.int16), "floats"),
  ("a.wav", np.zeros(0, np.float32), "without samples"),
  ("a.wav", np.array([0.0, np.nan]), "NaN"),
  ("a.mp3", np.zeros((3, 99)), "at most 2"),
  ("a.wav", np.zeros((1, 2, 3)), "channels, samples"),
])  # fmt: skip
def test_refuses_to_write(tmp_path, name, audio, message):
  with pytest.raises(AudioError, match=message):
    write_audio(tmp_path / name, audio, sample_rate_hz=RATE)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("failure", [OSError("disk full"), AssertionError(), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, failure):
  path = tmp_path / "a.wav"
  write_audio(path, tone(), sample_rate_hz=RATE)
  before = path.read_bytes()

  def fail(*_):
    raise failure

  monkeypatch.setattr(soundfile.SoundFile, "write", fail)
  with pytest.raises((AudioError, KeyboardInterrupt)):
    write_audio(path, 0 * tone(), sample_rate_hz=RATE)
  assert os.listdir(tmp_path) == ["a.wav"]
  assert path.read_bytes() == before


def test_a_full_disk_is_named_and_leaves_nothing_behind(small_disk):
  loud = np.random.default_rng(0).uniform(-1, 1, 2_000_000).astype(np.float32)
  with pytest.raises(AudioError, match=r"the disk is full\): make room"):
    write_audio(small_disk / "long.wav", loud, sample_rate_hz=RATE)
  assert list(small_disk.iterdir()) == []
