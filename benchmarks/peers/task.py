"""The work that all workers of the race do, and the shape of a worker's answer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from noise2music.nn.unet1d import UNet1D

CLIPS, FRAMES, BANDS = 8, 384, 80
TOKENS, TEXT_WIDTH, VOCABULARY = 64, 256, 384
SAMPLED, STEPS, GUIDANCE, PERCENTILE = 4, 5, 5.0, 99.5
OURS = UNet1D(
  out_channels=BANDS,
  base_width=80,
  kernel_size=5,
  strides=(4, 3, 2),
  width_multipliers=(1, 2, 3),
  blocks=2,
  self_attention=(False, False, True),
  cross_attention=(False, False, True),
  text_width=TEXT_WIDTH,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """call: does `steps` steps."""

  call: Callable[[], Any]
  steps: int
  parameters: int
  gflop_per_step: float
  product: Callable[[], Any]  # a matrix product of 1024 x 1024


def table_of_text() -> np.ndarray:
  return np.random.default_rng(0).normal(size=(VOCABULARY, TEXT_WIDTH)).astype(np.float32)
