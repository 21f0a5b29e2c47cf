"""Every size of every stage can be put together, and is the size it says."""

import itertools
import math

import jax
import pytest

from benchmarks import measure
from noise2music.config import gin_utils
from noise2music.training import Training

STAGES = measure.STAGES
SIZES = ("tiny", "small", "paper")


def build(stage: str, size: str) -> Training:
  files = ["base/training.gin", f"stages/{stage}.gin", "sampling/fast.gin", "text/tiny_trained.gin"]
  if stage in ("spectrogram_vocoder", "super_resolution"):
    files.remove("text/tiny_trained.gin")
  files += [f"sizes/{size}.gin", "base/nothing_read.gin"]
  # As the smoke run does: 80 bands need a network that is at least 80 wide.
  narrow = size == "tiny" and stage == "spectrogram_generator"
  gin_utils.parse([f"configs/{file}" for file in files], ["BANDS = 32"] if narrow else [])
  return gin_utils.build(Training)


@pytest.mark.parametrize("stage", STAGES)
def test_a_larger_size_has_wider_levels_and_keeps_the_strides(stage: str) -> None:
  nets = [build(stage, size).objective.stage.network for size in SIZES]
  cost = [
    [net.base_width**2 * k**2 * n for k, n in zip(net.width_multipliers, net.blocks, strict=True)]
    for net in nets
  ]
  assert all(sum(a) < sum(b) for a, b in itertools.pairwise(cost))
  assert len({math.prod(net.strides) for net in nets}) == 1
  assert [jax.numpy.dtype(net.dtype).name for net in nets] == ["float32", "bfloat16", "bfloat16"]
