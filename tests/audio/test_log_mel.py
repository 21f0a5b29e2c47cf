import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.audio.log_mel import LogMel, hz_to_mel, mel_to_hz

SETTINGS = {
  "paper": LogMel(),
  "coarse": LogMel(sample_rate_hz=3_200, bands=32, frames_per_second=50),
  "high": LogMel(sample_rate_hz=24_000, bands=80, max_hz=11_000.0),
  "short_window": LogMel(window_seconds=0.025, bands=64),
}


def tones(mel, *, seconds=1.0, hz=(440.0,), amplitude=0.5):
  t = np.arange(int(seconds * mel.sample_rate_hz)) / mel.sample_rate_hz
  return sum(amplitude * np.sin(2 * np.pi * f * t + f) for f in hz).astype(np.float32)


def test_mel_scale():
  assert hz_to_mel(0.0) == 0
  np.testing.assert_allclose(hz_to_mel(1000.0), 999.99, atol=0.01)
  np.testing.assert_allclose(mel_to_hz(hz_to_mel(np.array([50.0, 7_000.0]))), [50, 7_000])


@pytest.mark.parametrize("mel", SETTINGS.values(), ids=SETTINGS)
def test_frames_bands_range_and_batch(mel):
  x = np.stack([tones(mel), 0 * tones(mel)])[None]
  y = mel(x)
  assert y.shape == (1, 2, mel.frames_per_second, mel.bands)
  assert y.dtype == jnp.float32
  assert float(y.min()) == -1.0
  assert float(y.max()) < 1.0
  np.testing.assert_allclose(y[0, 0], mel(x[0, 0]), atol=1e-5)


@pytest.mark.parametrize("mel", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("amplitude", "decibels"), [(1.0, 0.0), (0.1, -20.0), (0.01, -40.0)])
def test_a_sine_has_its_own_power_in_the_bands_around_it(mel, amplitude, decibels):
  y = mel(tones(mel, hz=(700.0,), amplitude=amplitude))
  total = 10 * np.log10(np.asarray(mel.power(y)).sum(axis=-1))
  np.testing.assert_allclose(total[8:-8], decibels, atol=0.1)  # away from both ends
  centres = mel_to_hz(np.linspace(0, hz_to_mel(mel.top_hz), mel.bands + 2))[1:-1]
  nearest = np.abs(centres - 700).argmin()
  assert abs(int(np.asarray(y)[20].argmax()) - nearest) <= 1


def test_square_wave_stays_below_the_ceiling_and_loudness_is_linear_in_db():
  mel = SETTINGS["paper"]
  square = np.sign(tones(mel, hz=(110.0,)))
  assert float(mel(square).max()) < 1.0
  step = 20 / (mel.ceiling_db - mel.floor_db) * 2  # 20 dB on the scaled axis
  loud, soft = mel(tones(mel, amplitude=0.8)), mel(tones(mel, amplitude=0.08))
  peak = np.asarray(loud)[50].argmax()
  np.testing.assert_allclose(loud[50, peak] - soft[50, peak], step, atol=1e-3)


def test_frames_lie_over_the_samples_they_stand_for():
  mel = SETTINGS["paper"]
  click = np.zeros(16_000, np.float32)
  click[30 * mel.hop + mel.hop // 2] = 1.0  # the middle of frame 30
  loudness = np.asarray(mel.power(mel(click))).sum(axis=-1)
  assert loudness.argmax() == 30
  np.testing.assert_allclose(loudness[29], loudness[31], rtol=1e-3)


@pytest.mark.parametrize("mel", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("hz", [220.0, 1_000.0])
def test_inverse_of_a_sine_has_its_frequency_and_loudness(mel, hz):
  x = tones(mel, hz=(hz,))
  y = np.asarray(mel.inverse(mel(x)))
  assert y.shape == x.shape
  spectrum = np.abs(np.fft.rfft(y * np.hanning(len(y))))
  spacing = hz_to_mel(mel.top_hz) / (mel.bands + 1)  # one band, in mel; one bin here is 1 Hz
  assert abs(hz_to_mel(float(spectrum.argmax())) - hz_to_mel(hz)) < max(0.5 * spacing, 10)
  np.testing.assert_allclose(np.std(y), np.std(x), rtol=0.15)


@pytest.mark.parametrize("mel", SETTINGS.values(), ids=SETTINGS)
def test_log_mel_of_the_inverse_is_close(mel):
  notes = tones(mel, hz=(196.0, 392.0, 587.0, 880.0), amplitude=0.2)
  t = np.arange(len(notes)) / mel.sample_rate_hz
  x = notes * np.exp(-4 * (t % 0.25))  # four plucked chords
  x = x + np.random.default_rng(0).normal(size=len(x)).astype(np.float32) * 1e-2
  want = mel(x.astype(np.float32))
  got = mel(mel.inverse(want))
  scale = (mel.ceiling_db - mel.floor_db) / 2
  assert float(jnp.abs(got - want).mean()) * scale < 3.0  # dB of 83, deep gaps included
  assert float(jnp.median(jnp.abs(got - want))) * scale < 1.0
  without = mel(mel.inverse(want, iterations=0))
  assert float(jnp.abs(got - want).mean()) < 0.5 * float(jnp.abs(without - want).mean())


@pytest.mark.parametrize("mel", SETTINGS.values(), ids=SETTINGS)
def test_silence_is_minus_one_and_comes_back_as_silence(mel):
  y = mel(np.zeros(mel.sample_rate_hz, np.float32))
  np.testing.assert_array_equal(y, np.full_like(y, -1))
  back = mel.inverse(y)
  assert back.shape == (mel.sample_rate_hz,)
  assert float(jnp.abs(back).max()) < 1e-6
  assert np.isfinite(mel.inverse(jnp.full((3, mel.bands), 7.0), iterations=2)).all()


def test_gradients_are_finite_in_silence():
  mel = SETTINGS["coarse"]
  gradient = jax.grad(lambda x: mel(x).sum())(jnp.zeros(640))
  assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("settings", "message"), [
  ({"sample_rate_hz": 3_200, "bands": 80, "window_seconds": 0.03}, "no frequency bin under"),
  ({"window_seconds": 0.01, "bands": 80}, "longer window_seconds"),
  ({"window_seconds": 0.005}, "gaps"),
  ({"min_hz": 800.0, "max_hz": 20.0}, "min_hz < max_hz"),
  ({"max_hz": 9_000.0}, "half the rate"),
  ({"frames_per_second": 99}, "divides"),
  ({"floor_db": 10.0}, "floor_db"),
  ({"bands": 0}, "at least one"),
])  # fmt: skip
def test_refuses_when_built(settings, message):
  with pytest.raises(ValueError, match=message):
    LogMel(**settings)


def test_refuses_broken_frames_and_foreign_bands():
  mel = SETTINGS["paper"]
  with pytest.raises(ValueError, match="whole number of frames"):
    mel(np.zeros(1_001, np.float32))
  with pytest.raises(ValueError, match="80 bands"):
    mel.inverse(np.zeros((10, 40), np.float32))
