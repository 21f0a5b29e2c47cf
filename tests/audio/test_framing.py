import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.audio import framing


@pytest.mark.parametrize(
  ("n", "multiple", "want"),
  [(96_000, 4096, 98_304), (3_000, 48, 3_024), (3_000, 96, 3_072), (4096, 4096, 4096), (0, 8, 8)],
)
def test_padded_length(n, multiple, want):
  assert framing.padded_length(n, multiple) == want


def test_padded_length_refuses_nonsense():
  with pytest.raises(ValueError, match="multiple"):
    framing.padded_length(5, 0)


def test_pad_then_crop_gives_back_the_signal():
  x = np.arange(10.0, dtype=np.float32).reshape(2, 5)
  for axis, length in ((-1, 8), (0, 3)):
    padded = framing.pad_to(x, length, axis=axis)
    assert padded.shape[axis] == length
    assert float(jnp.abs(padded).sum()) == x.sum()
    np.testing.assert_array_equal(framing.crop_to(padded, x.shape[axis], axis=axis), x)


def test_pad_and_crop_refuse_the_other_direction_and_fit_takes_both():
  x = np.ones((1, 4), np.float32)
  with pytest.raises(ValueError, match="fit"):
    framing.pad_to(x, 3)
  with pytest.raises(ValueError, match="fit"):
    framing.crop_to(x, 5)
  np.testing.assert_array_equal(framing.fit(x, 6), [[1, 1, 1, 1, 0, 0]])
  np.testing.assert_array_equal(framing.fit(x, 2), [[1, 1]])


def test_snippet_with_known_and_traced_start():
  x = np.arange(12).reshape(2, 6)
  np.testing.assert_array_equal(framing.snippet(x, 2, 3), x[:, 2:5])
  np.testing.assert_array_equal(framing.snippet(x, 1, 1, axis=0), x[1:])
  traced = jax.jit(lambda start: framing.snippet(x, start, 3))
  np.testing.assert_array_equal(traced(3), x[:, 3:])
  for start in (-1, 4):
    with pytest.raises(ValueError, match="leaves"):
      framing.snippet(x, start, 3)
  with pytest.raises(ValueError, match="pad"):
    framing.snippet(x, 0, 7)


def test_valid_mask_counts():
  mask = framing.valid_mask(np.array([0, 2, 5]), 4)
  assert mask.dtype == jnp.float32
  np.testing.assert_array_equal(mask, [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
