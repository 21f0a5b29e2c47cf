"""The clips and weights that VGGish is compared with torchvggish on; numpy alone."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "vggish_golden.json"
FRAMES, BANDS = slice(None, None, 19), slice(None, None, 9)  # of a patch, that are kept
CLIPS = {
  "sine_1khz_3s": np.sin(2 * np.pi * 1000 * np.arange(0, 3, 1 / 16_000)),
  "noise_5s": 0.1 * np.random.default_rng(1235).standard_normal(80_000),
}


def seeded_weights(kernels: Mapping[str, tuple[int, ...]]) -> dict[str, dict[str, np.ndarray]]:
  """{layer: {kernel, bias}} for kernels [height, width, in, out] or [in, out], in their order."""
  rng = np.random.default_rng(1234)
  out = {}
  for layer, shape in kernels.items():
    scale = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
    kernel = rng.standard_normal(shape, dtype=np.float32) * scale
    bias = rng.standard_normal(shape[-1], dtype=np.float32) * np.float32(0.01)
    out[layer] = {"kernel": kernel, "bias": bias}
  return out


def golden() -> dict[str, dict[str, np.ndarray]]:
  """{clip: {log_mel [patches, 6, 8], embedding [patches, 128]}}"""
  return {
    clip: {name: np.array(values) for name, values in arrays.items()}
    for clip, arrays in json.loads(GOLDEN.read_text()).items()
  }
