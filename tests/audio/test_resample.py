import jax
import numpy as np
import pytest

from noise2music.audio.resample import resample, resample_in_blocks, resampled_length

RATES = [(24_000, 3_200), (16_000, 24_000), (44_100, 16_000), (3_200, 16_000), (8_000, 7_999)]


def band_limited(n: int, highest_bin: int, *, rows: int = 2) -> np.ndarray:
  """Random periodic signals [rows, n] with every bin up to highest_bin occupied."""
  rng = np.random.default_rng(3)
  spectrum = np.zeros((rows, n // 2 + 1), np.complex128)
  shape = (rows, highest_bin + 1)
  spectrum[:, : highest_bin + 1] = rng.normal(size=shape) + 1j * rng.normal(size=shape)
  x = np.fft.irfft(spectrum, n=n)
  return (x / np.abs(x).max()).astype(np.float32)


@pytest.mark.parametrize(("n", "from_hz", "to_hz", "want"), [
  (706_560, 24_000, 3_200, 94_208),
  (706_560, 24_000, 16_000, 471_040),
  (94_208, 3_200, 16_000, 471_040),
  (3, 2, 1, 2),  # 1.5 rounds up
  (5, 4, 2, 3),  # 2.5 rounds up, not to even
  (1, 24_000, 3_200, 1),
  (2**40, 3, 1, 366503875925),
])  # fmt: skip
def test_resampled_length(n, from_hz, to_hz, want):
  assert resampled_length(n, from_hz=from_hz, to_hz=to_hz) == want


@pytest.mark.parametrize(("high", "low"), RATES)
def test_round_trips_of_band_limited_signals_are_exact(high, low):
  high, low = max(high, low), min(high, low)
  n = 7 * high // np.gcd(high, low)  # exact in both directions
  short = n * low // high
  x = band_limited(n, (short - 1) // 2)
  down = resample(x, from_hz=high, to_hz=low)
  assert down.shape == (2, short)
  np.testing.assert_allclose(resample(down, from_hz=low, to_hz=high), x, atol=3e-6)


@pytest.mark.parametrize(("high", "low"), RATES)
def test_up_then_down_is_the_identity_for_any_signal(high, low):
  high, low = max(high, low), min(high, low)
  n = 8 * low // np.gcd(high, low)  # even, so the Nyquist bin is there, and noise fills it
  x = np.random.default_rng(0).uniform(-1, 1, (3, n)).astype(np.float32)
  up = resample(x, from_hz=low, to_hz=high)
  np.testing.assert_allclose(resample(up, from_hz=high, to_hz=low), x, atol=3e-6)


@pytest.mark.parametrize(("from_hz", "to_hz"), [*RATES, *[(b, a) for a, b in RATES]])
def test_sine_matches_its_closed_form(from_hz, to_hz):
  seconds = 1
  t = np.arange(from_hz * seconds) / from_hz

  def wave(t):
    return 0.7 * np.sin(2 * np.pi * 440 * t + 0.3) + 0.2 * np.cos(2 * np.pi * 1_237 * t)

  y = resample(wave(t).astype(np.float32), from_hz=from_hz, to_hz=to_hz)
  np.testing.assert_allclose(y, wave(np.arange(to_hz * seconds) / to_hz), atol=1e-5)


def test_a_sine_above_the_new_nyquist_frequency_vanishes():
  x = np.sin(2 * np.pi * 1_700 * np.arange(24_000) / 24_000).astype(np.float32)
  assert np.abs(resample(x, from_hz=24_000, to_hz=3_200)).max() < 1e-5


def test_nyquist_bin_downward_is_what_sampling_gives():
  n, m = 24, 8
  for phase in (0.0, 0.4):
    x = np.cos(2 * np.pi * (m // 2) * np.arange(n) / n + phase).astype(np.float32)
    y = resample(x, from_hz=n, to_hz=m)
    np.testing.assert_allclose(y, np.cos(np.pi * np.arange(m) + phase), atol=1e-6)


def test_lengths_that_do_not_divide_stay_aligned_and_jit():
  n = 4_801  # 640.13 samples at 3.2 kHz
  t = np.arange(n) / 24_000
  window = np.exp(-(((t - 0.1) / 0.02) ** 2))  # so that the ends do not matter
  x = (window * np.sin(2 * np.pi * 300 * t)).astype(np.float32)
  y = jax.jit(lambda x: resample(x, from_hz=24_000, to_hz=3_200))(x)
  assert y.shape == (640,)
  s = np.arange(640) / 3_200
  want = np.exp(-(((s - 0.1) / 0.02) ** 2)) * np.sin(2 * np.pi * 300 * s)
  np.testing.assert_allclose(y, want, atol=1e-5)


def test_equal_rates_change_nothing_and_integers_are_refused():
  x = np.linspace(-1, 1, 5, dtype=np.float32)
  np.testing.assert_array_equal(resample(x, from_hz=8_000, to_hz=8_000), x)
  with pytest.raises((ValueError, TypeError)):  # TypeError where shapes are checked at run time
    resample(np.zeros(4, np.int16), from_hz=2, to_hz=1)
  with pytest.raises(ValueError, match="at least one"):
    resample(np.zeros(0, np.float32), from_hz=2, to_hz=1)
  with pytest.raises(ValueError, match="1 Hz"):
    resample(x, from_hz=0, to_hz=1)


@pytest.mark.parametrize(
  ("from_hz", "to_hz", "n"),
  [(16_000, 24_000, 200_000), (24_000, 16_000, 200_001), (3_200, 16_000, 70_000), (1, 2, 5)],
)
def test_blocks_give_what_one_transform_gives(from_hz: int, to_hz: int, n: int) -> None:
  """Away from the ends, of a signal with no energy right at the lower Nyquist frequency."""
  t = np.arange(n) / from_hz
  top = 0.45 * min(from_hz, to_hz)
  tones = [np.sin(2 * np.pi * f * t + f) for f in top * np.array([0.01, 0.3, 0.77, 1.0])]
  x = np.stack([sum(tones), tones[1]]).astype(np.float32)
  want = resample(x, from_hz=from_hz, to_hz=to_hz)
  got = resample_in_blocks(x, from_hz=from_hz, to_hz=to_hz)
  assert got.shape == want.shape
  inner = slice(want.shape[1] // 10, -want.shape[1] // 10)
  np.testing.assert_allclose(got[:, inner], want[:, inner], atol=2e-3 if n > 10 else 1)
  assert np.isfinite(got).all()


def test_blocks_at_one_rate_leave_the_signal_alone() -> None:
  x = np.random.default_rng(0).normal(size=(2, 99)).astype(np.float32)
  np.testing.assert_array_equal(resample_in_blocks(x, from_hz=8_000, to_hz=8_000), x)
