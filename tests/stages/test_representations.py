import numpy as np
import pytest
import tiny

from noise2music.stages.representations import Waveform


def test_a_gain_multiplies_the_signal_and_divides_the_audio() -> None:
  audio = np.random.default_rng(0).uniform(-0.2, 0.2, (2, 800)).astype(np.float32)
  loud = Waveform(sample_rate_hz=8_000, gain=5.0)
  signal = loud.encode(audio, sample_rate_hz=8_000)
  np.testing.assert_allclose(signal[..., 0], 5 * audio, rtol=1e-6)
  back, rate_hz = loud.decode(signal)
  np.testing.assert_allclose(back, audio, rtol=1e-6)
  assert rate_hz == 8_000
  assert loud.limit == 5.0, "where sampling clips is where the audio reaches 1"


def test_another_gain_is_another_representation() -> None:
  assert Waveform(sample_rate_hz=8_000, gain=5.0) != Waveform(sample_rate_hz=8_000)


@pytest.mark.parametrize("settings", [{"sample_rate_hz": 0}, {"sample_rate_hz": 8_000, "gain": 0}])
def test_refuses_what_is_no_sound(settings: dict) -> None:
  with pytest.raises(ValueError, match="positive"):
    Waveform(**settings)


@pytest.mark.parametrize("representation", [tiny.LOW, tiny.HIGH, tiny.MEL])
@pytest.mark.parametrize("samples", [8_000, 4_000, 7_920])
def test_length_foretells_what_encode_gives(representation, samples: int) -> None:
  audio = np.zeros((1, samples), np.float32)
  signal = representation.encode(audio, sample_rate_hz=8_000)
  steps = representation.length(samples, sample_rate_hz=8_000)
  assert signal.shape == (1, steps, representation.channels)
