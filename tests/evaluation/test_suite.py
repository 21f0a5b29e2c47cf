"""Files to scores with small encoders: sane and silly in order, faults one by one, going on."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from noise2music.errors import UserError
from noise2music.evaluation.embedders.stored import Stored
from noise2music.evaluation.embeddings import Embeddings, File, Middle, Whole, embed_files
from noise2music.evaluation.protocols import (
  AUDIO_SET_MUSIC_EVAL,
  FOLDER,
  MAGNA_TAG_A_TUNE,
  MUSIC_CAPS,
  protocol_of,
)
from noise2music.evaluation.suite import Clips, Suite, audio_files, score_clips

RATE = 8_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bands:
  """Log power in 4 bands of each half second: small, quick, and hears pitch."""

  name: str = "bands"
  protocol: str = "half seconds"
  width: int = 4
  sample_rate_hz: int = RATE
  shortest_seconds: float = 0.5
  fingerprint: str = "v1"

  def embed(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [self._one(clip) for clip in clips]

  def _one(self, clip: np.ndarray) -> np.ndarray:
    length = RATE // 2
    if len(clip) < length:
      raise UserError(f"a clip of {len(clip) / RATE:.2f} s is shorter than the window of 0.5 s")
    rows = clip[: len(clip) // length * length].reshape(-1, length)
    power = np.abs(np.fft.rfft(rows))[:, : 4 * 500].reshape(len(rows), 4, -1) ** 2
    return np.log(power.mean(-1) + 1e-3).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pitch(Bands):
  """One vector a clip, and texts "low" and "high" in the same space."""

  name: str = "joint"
  width: int = 2
  fingerprint: str = "v2"

  def _one(self, clip: np.ndarray) -> np.ndarray:
    low, high = np.split(np.abs(np.fft.rfft(clip))[: 2 * (len(clip) // 8)] ** 2, 2)
    vector = np.array([[low.sum(), high.sum()]]) + 1e-9
    return (vector / np.linalg.norm(vector)).astype(np.float32)

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    return np.array([[1.0, 0.0] if "low" in text else [0.0, 1.0] for text in texts], np.float32)


def tune(pitch: float, seconds: float, *, seed: int) -> np.ndarray:
  rng = np.random.default_rng(seed)
  t = np.arange(round(seconds * RATE)) / RATE
  notes = pitch * 2 ** (rng.integers(0, 12, 40) / 12)
  phase = 2 * np.pi * np.cumsum(notes[(t * 8).astype(int) % 40]) / RATE
  return 0.3 * np.sin(phase) + 0.01 * rng.standard_normal(len(t))


def folder(path: Path, *, pitch: float = 300, count: int = 8, seed: int = 0) -> Path:
  path.mkdir()
  for k in range(count):
    soundfile.write(path / f"{k:02d}.wav", tune(pitch, 2.0, seed=seed + k), RATE)
  return path


def of(path: Path, **texts: str) -> Clips:
  return Clips(name=path.name, files=audio_files(path), texts=texts)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
  return Suite(encoders=(Bands(),), protocol=FOLDER, folder=tmp_path / "kept", rounds=30)


def test_like_music_scores_better_than_other_music_and_that_better_than_noise(tmp_path, suite):
  real = folder(tmp_path / "real", seed=100, count=12)
  near, far = (folder(tmp_path / name, pitch=p) for name, p in (("near", 300), ("far", 600)))
  results = {path.name: score_clips(of(path), of(real), suite) for path in (near, far)}
  for name in ("fad_bands", "kad_bands"):
    values = {
      key: next(s for s in result.scores if s.metric == name) for key, result in results.items()
    }
    assert values["near"].value < values["far"].value < values["far"].floor.value
  score = values["near"]
  assert score.protocol == "folder: whole clips"
  assert score.seconds == pytest.approx(16)
  assert score.reference.startswith("real ")
  assert set(results["near"].clips["fad bands"]) == {f"{k:02d}" for k in range(8)}
  assert not results["near"].failed


def test_pairs_and_prompts_are_scored_where_there_are_any(tmp_path, suite):
  suite = dataclasses.replace(suite, encoders=(Pitch(),))
  ours, real = tmp_path / "ours", tmp_path / "real"
  for path, seed in ((ours, 0), (real, 50)):
    path.mkdir()
    for k in range(8):
      audio = tune(200 if k % 2 else 1_500, 1.0, seed=seed + k)
      soundfile.write(path / f"{k}.wav", audio, RATE)
  texts = {str(k): "a low tune" if k % 2 else "a high tune" for k in range(8)}
  truth = of(real)
  result = score_clips(of(ours, **texts), truth, suite, truth=truth)
  scores = {score.metric: score for score in result.scores}
  assert scores["similarity_text"].value > 0.95
  assert scores["similarity_text"].floor.value < 0.8
  assert scores["similarity_text"].ceiling.what == "ground truth"
  assert scores["similarity_audio"].value > 0.95
  assert result.clips["similarity_text joint"]["3"] > 0.95


def test_an_encoder_that_labelled_the_data_is_named_with_what_another_says(tmp_path, suite):
  real, ours = folder(tmp_path / "real", count=10), folder(tmp_path / "ours", seed=5)
  texts = {f"{k:02d}": "low" for k in range(8)}
  suite = dataclasses.replace(suite, encoders=(Pitch(), Bands()), labelled_by=("v2",))
  result = score_clips(of(ours, **texts), of(real), suite)
  warned = {s.metric: [w for w in s.warnings if "labelled" in w] for s in result.scores}
  assert (
    "its similarity_text and the fad of bands rank 8 clips alike by Spearman's rho"
    in warned["similarity_text"][0]
  )
  assert not warned["fad_bands"]
  alone = score_clips(of(ours, **texts), of(real), dataclasses.replace(suite, encoders=(Pitch(),)))
  told = [line for score in alone.scores for line in score.warnings]
  assert any("no other encoder scores clip by clip" in line for line in told)


def test_a_bad_clip_costs_itself_alone_and_is_told(tmp_path, suite):
  real, ours = folder(tmp_path / "real", count=10), folder(tmp_path / "ours", count=9)
  soundfile.write(ours / "00.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
  soundfile.write(ours / "01.wav", np.zeros(100), RATE)
  soundfile.write(ours / "02.wav", tune(300, 2.0, seed=2), RATE // 2)
  (ours / "03.wav").write_bytes(b"")
  result = score_clips(of(ours), of(real), suite)
  assert set(result.failed) == {"ours/00", "ours/01", "ours/03"}
  assert all(why.count("\n") == 0 for why in result.failed.values())
  score = result.scores[0]
  assert score.estimate.n == 6
  assert any("3 clips could not be scored" in line for line in score.warnings)
  assert any("4,000, 8,000 Hz" in line for line in score.warnings)


def test_a_file_that_goes_away_meanwhile_costs_itself_alone(tmp_path, suite):
  real, ours = folder(tmp_path / "real", count=10), folder(tmp_path / "ours")
  clips = of(ours)
  (ours / "05.wav").unlink()
  result = score_clips(clips, of(real), suite)
  assert list(result.failed) == ["ours/05"]
  assert "does not exist" in result.failed["ours/05"]


@pytest.mark.parametrize("count", [0, 1])
def test_a_folder_with_too_few_files_is_refused(tmp_path, count):
  with pytest.raises(UserError, match=f"holds {count} audio files: give at least 2"):
    audio_files(folder(tmp_path / "few", count=count))


def test_a_folder_without_a_clip_that_can_be_scored_is_refused(tmp_path, suite):
  real, ours = folder(tmp_path / "real", count=10), tmp_path / "ours"
  ours.mkdir()
  for name in "ab":
    soundfile.write(ours / f"{name}.wav", np.zeros(100), RATE)
  with pytest.raises(
    UserError, match=r"0 of 2 clips of ours can be scored.*shorter than the window"
  ):
    score_clips(of(ours), of(real), suite)


def test_vectors_that_were_made_before_are_looked_up_by_the_clips_name(tmp_path, suite):
  real, ours = folder(tmp_path / "real", count=10), folder(tmp_path / "ours", seed=5)
  rng = np.random.default_rng(0)
  ids = [f"{k:02d}" for k in range(10)] + [f"ours/{k:02d}" for k in range(8)]
  np.savez(
    tmp_path / "v.npz",
    clip_ids=np.array(ids),
    counts=np.full(18, 3),
    vectors=rng.normal(size=(54, 5)).astype(np.float32),
    name="clap",
    protocol="3 windows",
    fingerprint="c1",
  )
  stored = dataclasses.replace(suite, encoders=(Stored(path=tmp_path / "v.npz"),))
  fad, kad = score_clips(of(ours), of(real), stored).scores
  assert (fad.metric, kad.metric) == ("fad_clap", "kad_clap")
  assert fad.floor is None
  assert fad.rows == (24, 30)
  assert fad.encoder["sample_rate_hz"] is None
  soundfile.write(ours / "99.wav", tune(300, 2.0, seed=2), RATE)
  result = score_clips(of(ours), of(real), stored)
  assert "holds no vectors of the clip '99'" in result.failed["ours/99"]
  with pytest.raises(UserError, match=r"share the vectors of '00'.*as in 'real/00'"):
    score_clips(of(folder(tmp_path / "real2")), of(real), stored)


def test_files_that_hide_or_are_no_files_are_passed_over(tmp_path):
  path = folder(tmp_path / "clips", count=2)
  (path / ".hidden").mkdir()
  soundfile.write(path / ".hidden/h.wav", np.zeros(100), RATE)
  (path / "folder.wav").mkdir()
  assert [file.id for file in audio_files(path)] == ["00", "01"]


def test_a_missing_folder_and_two_files_of_one_name_are_refused(tmp_path):
  with pytest.raises(UserError, match="there is no folder"):
    audio_files(tmp_path / "nowhere")
  path = folder(tmp_path / "twice", count=2)
  soundfile.write(path / "00.flac", np.zeros(100), RATE)
  with pytest.raises(UserError, match="share a name"):
    audio_files(path)


class Counting(Bands):
  seen: list = []  # noqa: RUF012

  def _one(self, clip):
    self.seen.append(len(clip))
    return super()._one(clip)


def test_what_is_embedded_is_not_embedded_again(tmp_path):
  path = folder(tmp_path / "clips", count=40)
  encoder, kept = Counting(), tmp_path / "kept"
  Counting.seen.clear()
  first = embed_files(encoder, audio_files(path), folder=kept)
  assert len(Counting.seen) == 40
  again = embed_files(encoder, audio_files(path), folder=kept)
  assert len(Counting.seen) == 40
  assert np.array_equal(first.embeddings.vectors, again.embeddings.vectors)
  os.utime(path / "39.wav", ns=(1, 1))  # in the second of two shards
  embed_files(encoder, audio_files(path), folder=kept)
  assert len(Counting.seen) == 41
  largest = max(kept.glob("*.npz"), key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:500])  # half a shard
  embed_files(encoder, audio_files(path), folder=kept)
  assert len(Counting.seen) == 73
  embed_files(dataclasses.replace(encoder, fingerprint="v9"), audio_files(path), folder=kept)
  assert len(Counting.seen) == 113


def test_hosts_that_embed_a_part_each_get_the_same(tmp_path):
  path = folder(tmp_path / "clips", count=9)
  files = audio_files(path)
  whole = embed_files(Bands(), files, folder=tmp_path / "one").embeddings
  parts = [
    embed_files(Bands(), files[k::3], folder=tmp_path / str(k)).embeddings for k in (2, 0, 1)
  ]
  merged = parts[0].merge(*parts[1:])
  assert merged.ids == whole.ids
  assert np.array_equal(merged.vectors, whole.vectors)


def test_a_full_disk_is_one_sentence(tmp_path, small_disk):
  files = [File(id=str(k), path=str(tmp_path / "a.wav")) for k in range(3)]
  soundfile.write(tmp_path / "a.wav", tune(300, 30.0, seed=0), RATE)
  (small_disk / "filler").write_bytes(b"x" * (2 * 2**20 - 8192))

  class Wide(Bands):
    def _one(self, clip):
      return np.zeros((5_000, 4), np.float32)

  with pytest.raises(UserError, match="what is embedded is kept; make room and run again"):
    embed_files(Wide(), files, folder=small_disk / "kept")


def test_the_middle_is_scored(tmp_path):
  audio = np.concatenate([np.zeros(RATE), tune(300, 2.0, seed=0), np.zeros(RATE)])
  soundfile.write(tmp_path / "a.wav", audio, RATE)
  files = [File(id="a", path=str(tmp_path / "a.wav"))]
  middle = embed_files(Bands(), files, folder=tmp_path / "m", scored=Middle(seconds=2.0)).embeddings
  whole = embed_files(Bands(), files, folder=tmp_path / "w", scored=Whole()).embeddings
  assert middle.counts == [4]
  np.testing.assert_array_equal(middle.vectors, whole.vectors[2:6])
  too_short = embed_files(Bands(), files, folder=tmp_path / "s", scored=Middle(seconds=10.0))
  assert "is 4.00 s long, of which the middle 10 s" in too_short.failed["a"]


TEXTS = [("title", "Aria"), ("short", "harp"), ("short", "slow"), ("long", "A slow harp.")]


@pytest.mark.parametrize(
  ("protocol", "seconds", "scored", "prompt"),
  [
    (MUSIC_CAPS, 30, Middle(seconds=10), "A slow harp."),
    (AUDIO_SET_MUSIC_EVAL, 30, Middle(seconds=10), "harp, slow"),
    (MAGNA_TAG_A_TUNE, 29, Whole(), "harp, slow"),
    (FOLDER, None, Whole(), "A slow harp."),
  ],
)
def test_the_protocols_of_the_paper(protocol, seconds, scored, prompt):
  assert protocol.generated_seconds == seconds
  assert protocol.scored == scored
  assert protocol.prompt(TEXTS) == prompt
  assert protocol_of(protocol.name) is protocol


def test_a_clip_without_texts_has_no_prompt_and_an_unknown_protocol_is_named():
  assert MUSIC_CAPS.prompt(TEXTS[:3]) is None
  assert MAGNA_TAG_A_TUNE.prompt(TEXTS[:1]) is None
  assert FOLDER.prompt(TEXTS[1:2]) == "harp"
  with pytest.raises(UserError, match="use one of folder, musiccaps"):
    protocol_of("fma")


def test_no_embeddings_merge_to_none():
  assert len(Embeddings.of((), width=4).merge()) == 0
