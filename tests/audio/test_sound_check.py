import numpy as np
import pytest

from noise2music.audio.sound_check import sound_check

T = np.arange(48_000) / 24_000


def test_a_tone_is_fine() -> None:
  check = sound_check(0.5 * np.sin(2 * np.pi * 440 * T))
  assert check.problems == ()
  assert check.rms_db == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
  assert check.flatness < 1e-3


def test_white_noise_has_the_flatness_of_its_distribution() -> None:
  check = sound_check(0.1 * np.random.default_rng(0).normal(size=240_000))
  assert check.flatness == pytest.approx(np.exp(-np.euler_gamma), abs=0.03)
  assert check.problems == ("noise",)


def test_silence_and_clipping_are_named() -> None:
  assert sound_check(np.zeros(4096)).problems == ("silent",)
  loud = np.clip(3 * np.sin(2 * np.pi * 440 * T), -1, 1)
  assert sound_check(loud).problems == ("clipped",)


def test_too_short_is_refused() -> None:
  with pytest.raises(ValueError, match="1024"):
    sound_check(np.zeros(100))
