import numpy as np
import pytest
import soundfile
from tiny_encoder import RATE

from data_pipelines.duplicates import Overlay, Pair, groups, near_pairs, verified
from noise2music.audio.wav_io import write_audio
from noise2music.errors import UserError


def tune(seed: int, *, seconds: float = 8.0) -> np.ndarray:
  """Four notes a second, of one scale for all seeds."""
  random, time = np.random.default_rng(seed), np.arange(round(RATE / 4)) / RATE
  pitches = 220 * 2 ** (random.choice([0, 2, 4, 7, 9, 12], round(4 * seconds)) / 12)
  notes = [np.sin(2 * np.pi * p * time) * np.exp(-6 * time) for p in pitches]
  return (0.4 * np.concatenate(notes)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tunes")
  one = tune(0, seconds=10)
  sounds = {
    "one.wav": one[: 8 * RATE],
    "quieter.ogg": 0.3 * one[: 8 * RATE],
    "later.wav": one[2 * RATE :],
    "another.wav": tune(1),
    "silent.wav": np.zeros(8 * RATE, np.float32),
  }
  for name, sound in sounds.items():
    write_audio(folder / name, sound, sample_rate_hz=RATE)
  soundfile.write(folder / "high.wav", np.repeat(one[: 8 * RATE], 2), 2 * RATE)
  (folder / "words.wav").write_text("words")
  return folder


def check(files, first: str, second: str, **settings):
  pair = [Pair(first=0, second=1, cosine=1.0)]
  names = [(name, str(files / name)) for name in (first, second)]
  return list(verified(pair, first=names, overlay=Overlay(**settings)))


@pytest.mark.parametrize(
  ("copy", "offset"), [("quieter.ogg", 0.0), ("later.wav", 2.0), ("high.wav", 0.0)]
)
def test_level_codec_rate_and_another_cut_leave_it_one_recording(files, copy, offset):
  found = check(files, "one.wav", copy)
  assert [d.second for d in found] == [copy]
  assert found[0].offset_seconds == pytest.approx(offset, abs=0.05)
  back = check(files, copy, "one.wav")
  assert back[0].offset_seconds == pytest.approx(-offset, abs=0.05)


@pytest.mark.parametrize("other", ["another.wav", "silent.wav"])
def test_near_vectors_alone_make_no_duplicate(files, other):
  assert check(files, "one.wav", other) == []


def test_a_shift_beyond_the_limit_is_not_found(files):
  assert check(files, "one.wav", "later.wav", offset_seconds=1.0) == []


def test_a_file_that_cannot_be_read_is_told(files):
  told = []
  pair = [Pair(first=0, second=0, cosine=1.0)]
  found = verified(
    pair,
    first=[("a", str(files / "one.wav"))],
    second=[("b", str(files / "words.wav"))],
    on_problem=lambda path, reason: told.append(path),
  )
  assert list(found) == []
  assert told == [str(files / "words.wav")]


@pytest.mark.parametrize("chunk", [3, 7, 100])
def test_near_pairs_are_those_of_all_products(chunk):
  vectors = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  scores = vectors @ vectors.T
  found = near_pairs(vectors, cosine=0.95, chunk=chunk)
  wanted = {(i, j) for i, j in np.argwhere(scores >= 0.95).tolist() if i < j}
  assert {(p.first, p.second) for p in found} == wanted
  assert [p.cosine for p in found] == sorted((p.cosine for p in found), reverse=True)
  between = near_pairs(vectors[:15], vectors[15:], cosine=0.95, chunk=chunk)
  across = {(i, j - 15) for i, j in wanted if i < 15 <= j}
  assert {(p.first, p.second) for p in between} == across


def test_what_hangs_together_is_one_group():
  pairs = [{"first": a, "second": b} for a, b in ("ab", "cb", "de")]
  assert groups(pairs) == [["a", "b", "c"], ["d", "e"]]


def test_thresholds_that_cannot_be():
  with pytest.raises(UserError, match="cosine"):
    near_pairs(np.eye(2, dtype=np.float32), cosine=2.0)
  with pytest.raises(UserError, match="threshold"):
    Overlay(threshold=0.0)
