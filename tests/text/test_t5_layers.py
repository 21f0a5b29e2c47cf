"""Relative positions and activations against numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from t5_cases import V1_1, bucket

from noise2music.text.t5_layers import Activation, relative_position_bucket


def test_buckets_of_t5():
  # 32 buckets up to 128: 0..7 alone, then 8 * sqrt(2)^k = 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5.
  behind = {0: 0, 7: 7, 8: 8, 11: 8, 12: 9, 15: 9, 16: 10, 22: 10, 23: 11, 31: 11, 32: 12}
  behind |= {45: 12, 46: 13, 63: 13, 64: 14, 90: 14, 91: 15, 127: 15, 128: 15, 100_000: 15}
  steps = np.array(list(behind))
  want = np.array(list(behind.values()))
  have = relative_position_bucket(-steps, buckets=32, max_distance=128)
  np.testing.assert_array_equal(have, want)
  assert have.dtype == np.int32
  ahead = relative_position_bucket(steps[1:], buckets=32, max_distance=128)
  np.testing.assert_array_equal(ahead, want[1:] + 16)


def test_buckets_agree_with_a_walk_along_the_boundaries():
  distance = np.arange(-300, 301)
  have = relative_position_bucket(distance, buckets=32, max_distance=128)
  np.testing.assert_array_equal(have, [bucket(int(d), V1_1) for d in distance])


@pytest.mark.parametrize(
  ("activation", "want"),
  [
    (Activation.RELU, [0.0, 2.0]),
    (Activation.SILU, [-0.26894142, 1.76159416]),  # x / (1 + e^-x)
    (Activation.GELU, [-0.15865525, 1.95449974]),  # x * (1 + erf(x / sqrt 2)) / 2
    (Activation.GELU_TANH, [-0.15880801, 1.95459769]),
  ],
)
def test_activation(activation, want):
  np.testing.assert_allclose(activation(jnp.array([-1.0, 2.0])), want, atol=1e-6)
