"""Examples read from audio files by seeking: formats, channels, splits, and what is refused."""

import dataclasses

import numpy as np
import pytest
import soundfile
from tiny_clips import RATE, ramp, write_clips, write_set

from data_pipelines.manifest import Clip, write_manifest
from data_pipelines.sources import ManifestSource, RecordError
from noise2music.errors import UserError


def one_clip(folder, name, audio, *, subtype) -> ManifestSource:
  soundfile.write(folder / name, audio, RATE, subtype=subtype)
  clip = Clip(path=name, duration=len(audio) / RATE, sample_rate=RATE)
  write_manifest(folder / "manifest.jsonl", [clip])
  return ManifestSource(folder)


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_any_snippet_is_the_slice_of_the_whole(tmp_path, name):
  audio = ramp(3, 5_000)
  example = one_clip(tmp_path, name, audio, subtype="PCM_16")[0]
  assert (example.samples, example.sample_rate_hz, example.id) == (5_000, RATE, name)
  np.testing.assert_array_equal(example.audio(), audio)
  for start, length in ((0, 1), (1_234, 777), (4_999, 1)):
    got = example.read(start, length)
    assert got.dtype == np.int16
    np.testing.assert_array_equal(got, audio[start : start + length])


def test_channels_are_averaged_and_floats_scaled(tmp_path):
  left, right = np.full(100, 0.5), np.full(100, -0.25)
  source = one_clip(tmp_path, "a.wav", np.stack([left, right], axis=1), subtype="FLOAT")
  assert set(source[0].audio().tolist()) == {round(0.125 * 32768)}
  loud = one_clip(tmp_path, "b.wav", np.array([2.0, -2.0, 1.0]), subtype="FLOAT")
  assert loud[0].audio().tolist() == [32767, -32768, 32767]


def test_numbers_that_are_not_finite_never_leave(tmp_path):
  source = one_clip(tmp_path, "a.wav", np.array([0.0, np.nan, 0.0]), subtype="FLOAT")
  with pytest.raises(RecordError, match=r"a\.wav.*not finite") as caught:
    source[0].audio()
  assert caught.value.name == "a.wav"
  assert source[0].read(2, 1).tolist() == [0]


def test_a_snippet_beyond_the_end_is_an_error(tmp_path):
  example = one_clip(tmp_path, "a.wav", ramp(0, 100), subtype="PCM_16")[0]
  with pytest.raises(RecordError, match="ends at sample 100"):
    example.read(90, 11)


def test_splits(tmp_path):
  clips = write_clips(tmp_path, count=3) + write_clips(tmp_path, count=2, first=3, split="test")
  write_manifest(tmp_path / "manifest.jsonl", clips)
  assert [clip.id for clip in ManifestSource(tmp_path, split="train").clips] == [
    "clip-0", "clip-1", "clip-2",
  ]  # fmt: skip
  test = ManifestSource(tmp_path / "manifest.jsonl", split="test")
  assert [test.name(k) for k in range(len(test))] == ["clip-3", "clip-4"]
  assert len(ManifestSource(tmp_path)) == 5
  with pytest.raises(UserError, match="no split 'valid'; it has test, train"):
    ManifestSource(tmp_path, split="valid")


def test_refusals(tmp_path):
  with pytest.raises(UserError, match="n2m data import"):
    ManifestSource(tmp_path / "nowhere")
  (tmp_path / "manifest.jsonl").write_text("")
  with pytest.raises(UserError, match="names no clips"):
    ManifestSource(tmp_path)
  clips = write_clips(tmp_path, count=2)
  write_manifest(
    tmp_path / "manifest.jsonl", [clips[0], dataclasses.replace(clips[1], id="clip-0")]
  )
  with pytest.raises(UserError, match="'clip-0' more than once"):
    ManifestSource(tmp_path)
  other = dataclasses.replace(clips[1], sample_rate=2 * RATE)
  write_manifest(tmp_path / "manifest.jsonl", [clips[0], other])
  with pytest.raises(UserError, match="mixes the sample rates"):
    _ = ManifestSource(tmp_path).sample_rate_hz


def test_fingerprint_follows_the_manifest(tmp_path):
  here = ManifestSource(write_set(tmp_path, count=3)).fingerprint()
  assert ManifestSource(tmp_path).fingerprint() == here
  clips = list(ManifestSource(tmp_path).clips)
  write_manifest(tmp_path / "manifest.jsonl", clips[::-1])
  assert ManifestSource(tmp_path).fingerprint() != here
