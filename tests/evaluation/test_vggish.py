"""VGGish beside the numbers of other implementations, which make_golden_vggish.py wrote."""

import dataclasses
import os

import numpy as np
import pytest
from vggish_cases import BANDS, CLIPS, FRAMES, golden, seeded_weights

from noise2music.errors import UserError
from noise2music.evaluation.embedders.encoder import AudioEncoder
from noise2music.evaluation.embedders.load import load_audio_encoder
from noise2music.evaluation.embedders.vggish import (
  GOOGLE,
  LAYERS,
  TFHUB,
  VGGish,
  VGGishProtocol,
  log_mel,
  mel_matrix,
)
from noise2music.evaluation.embedders.vggish_weights import load_vggish, save_vggish

SINE = CLIPS["sine_1khz_3s"]
RELU = VGGishProtocol(
  name="released", window_samples=15_600, step_samples=15_360, final_relu=True
)  # fmt: skip


@pytest.fixture(scope="module")
def encoder() -> VGGish:
  return VGGish(params=seeded_weights(LAYERS), batch_size=16)


@pytest.mark.parametrize("name", CLIPS)
def test_patches_are_those_of_torchvggish(name):
  found = TFHUB.patches(CLIPS[name])[:, FRAMES, BANDS]
  np.testing.assert_allclose(found, golden()[name]["log_mel"], atol=1e-4)


def test_embeddings_are_those_of_torchvggish(encoder):
  assert isinstance(encoder, AudioEncoder)
  rows = encoder.embed(list(CLIPS.values()))
  for found, name in zip(rows, CLIPS, strict=True):
    wanted = golden()[name]["embedding"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-3 * np.abs(wanted).max(), rtol=0)


def test_the_front_end_has_its_published_values():
  matrix = mel_matrix()
  assert matrix.sum() == pytest.approx(230.913599, abs=1e-6)
  assert np.count_nonzero(matrix) == 461
  used = np.flatnonzero(matrix.sum(axis=1))
  assert (used[0], used[-1]) == (5, 239)
  columns = matrix.sum(axis=0)
  np.testing.assert_allclose([columns[0], columns[-1]], [0.94769, 8.94418], atol=1e-5)
  assert log_mel(SINE).shape == (298, 64)
  patches = TFHUB.patches(SINE)
  assert patches.shape == (3, 96, 64)
  facts = [patches.mean(), patches.std(), patches.min(), patches.max()]
  np.testing.assert_allclose(facts, [-3.429619, 2.126577, -4.601163, 4.811118], atol=1e-5)
  assert set(patches.argmax(axis=2).ravel()) == {19}
  bands = [0, 1, 10, 14, 15, 16, 17, 18, 20, 40, 63]
  wanted = [-4.48313, -4.27083, -3.47829, -2.99165, -1.65174, -0.92909, -0.14772, 2.693, 4.77504]
  np.testing.assert_allclose(patches[0, 0, bands], [*wanted, -4.52841, -4.60116], atol=1e-5)
  np.testing.assert_allclose(TFHUB.patches(np.zeros(16_000)), np.log(0.01), atol=1e-6)


@pytest.mark.parametrize(
  ("samples", "frames", "tfhub", "google"),
  [
    (15_360, 94, 0, 0),  # 0.96 s
    (15_600, 96, 1, 0),
    (16_000, 98, 1, 1),
    (160_000, 998, 10, 19),
    (464_000, 2898, 30, 57),
    (465_984, 2910, 30, 57),  # 29.124 s, a clip of MagnaTagATune
    (480_000, 2998, 31, 59),
  ],
)
def test_clips_have_as_many_frames_and_patches_as_elsewhere(samples, frames, tfhub, google):
  clip = np.zeros(samples)
  assert len(log_mel(clip)) == frames
  assert (len(TFHUB.patches(clip)), len(GOOGLE.patches(clip))) == (tfhub, google)


def test_googles_windows_overlap_and_are_levelled_by_the_highest_sample_of_the_clip():
  # Loud below zero, soft above: the highest sample is not the loudest.
  clip = np.clip(0.1 * np.random.default_rng(0).standard_normal(40_000), -1, 0.125)
  clip[0], clip[-1] = -0.75, 0.125
  found = GOOGLE.patches(clip)
  wanted = [log_mel(clip[start : start + 16_000] / 0.125)[:96] for start in range(0, 24_001, 8_000)]
  np.testing.assert_allclose(found, wanted, atol=1e-6)
  np.testing.assert_allclose(GOOGLE.patches(0.01 * clip), found, atol=1e-6)
  assert np.abs(TFHUB.patches(0.01 * clip)[0] - TFHUB.patches(clip)[0]).max() > 0.1
  # A clip that is as good as silent, or never above zero, is divided by the least peak.
  np.testing.assert_allclose(GOOGLE.patches(0 * clip), np.log(0.01), atol=1e-6)
  below = -np.abs(clip)
  np.testing.assert_allclose(
    GOOGLE.patches(below)[0], log_mel(below[:16_000] * 327_680)[:96], atol=1e-5
  )


def test_a_clips_rows_are_its_own_to_the_bit(encoder):
  clips = [CLIPS["noise_5s"][:n] for n in (80_000, 15_600, 50_000)] + [SINE] * 4
  together = encoder.embed(clips)
  assert [len(rows) for rows in together] == [5, 1, 3, 3, 3, 3, 3]
  for clip, rows in zip(clips, together, strict=True):
    np.testing.assert_array_equal(encoder.embed([clip])[0], rows)
  assert np.abs(together[0][0] - together[3][0]).max() > 0.1
  assert encoder.embed([]) == []


def test_the_last_relu_is_a_choice(encoder):
  plain = encoder.embed([SINE])[0]
  assert plain.min() < 0
  cut = dataclasses.replace(encoder, variant=RELU).embed([SINE])[0]
  np.testing.assert_array_equal(cut, np.maximum(plain, 0))


def test_protocols_say_what_they_do():
  said = [str(variant) for variant in (TFHUB, GOOGLE, RELU)]
  assert said[0] == (
    "tfhub: 16000 Hz, level as it is, windows of 0.975 s every 0.96 s, patches of 0.96 s, fc2"
    " before its ReLU"
  )
  assert "divided by the highest sample" in said[1]
  assert "windows of 1 s every 0.5 s" in said[1]
  assert "fc2 after its ReLU" in said[2]


@pytest.mark.parametrize(("variant", "seconds"), [(TFHUB, 0.975), (GOOGLE, 1.0)])
def test_clips_shorter_than_the_window_are_refused(encoder, variant, seconds):
  encoder = dataclasses.replace(encoder, variant=variant)
  assert encoder.shortest_seconds == seconds
  short = np.zeros(round(seconds * 16_000) - 1)
  with pytest.raises(
    UserError, match=rf"clip 1 .*window of vggish \({seconds:g} s\): leave it out"
  ):
    encoder.embed([np.zeros(16_000), short])


@pytest.mark.parametrize(
  ("clip", "said"),
  [
    (np.zeros((2, 16_000)), "clip 0 is float64.2, 16000.: give vggish mono floats"),
    (np.zeros(16_000, np.int16), "clip 0 is int16"),
    (np.full(16_000, np.nan), "clip 0 holds NaN"),
  ],
)
def test_what_is_no_clip_is_refused(encoder, clip, said):
  with pytest.raises(UserError, match=said):
    encoder.embed([clip])


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"window_samples": 15_599}, "at least 15600 samples"),
    ({"step_samples": 100}, "multiples of 160"),
    ({"least_peak": 0.0}, "least peak above 0"),
  ],
)
def test_protocols_that_cannot_be_kept_are_refused(changes, said):
  settings = {"name": "x", "window_samples": 16_000, "step_samples": 8_000, **changes}
  with pytest.raises(UserError, match=said):
    VGGishProtocol(**settings)


def test_weights_are_found_by_the_environment_and_protocols_by_name(encoder, tmp_path, monkeypatch):
  path = tmp_path / "vggish.safetensors"
  save_vggish(encoder.params, path)
  monkeypatch.setenv("N2M_VGGISH", str(path))
  try:
    loaded = load_audio_encoder("vggish:google")
    assert loaded.variant is GOOGLE
    assert loaded.fingerprint == encoder.fingerprint == "4d7b56f031e9"
  finally:
    path.unlink()  # 288 MB, which pytest would keep


@pytest.mark.skipif(not os.environ.get("N2M_VGGISH"), reason="needs the published weights")
def test_published_weights_give_the_published_embedding():
  rows = VGGish(params=load_vggish()).embed([SINE])[0]
  assert rows.mean() == pytest.approx(0.000657, rel=0.1)
  assert rows.std() == pytest.approx(0.343, rel=0.1)
