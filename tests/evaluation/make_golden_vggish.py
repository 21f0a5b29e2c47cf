"""Writes vggish_golden.json: what torchvggish makes of two clips with seeded weights.

Not run by the tests; it needs torchvggish (the file was made with 0.2, on torch 2.14).
    python tests/evaluation/make_golden_vggish.py

Content: for each clip of vggish_cases.py `log_mel`, every 19th frame and 9th band of its patches,
and `embedding`, what comes before the last ReLU.
"""

import json

import torch
from torchvggish import torchvggish, vggish_input
from vggish_cases import BANDS, CLIPS, FRAMES, GOLDEN, seeded_weights


def main() -> None:
  model = torchvggish._vgg(postprocess=False).eval()
  state = model.state_dict()
  names = [name.removesuffix(".weight") for name in state if name.endswith(".weight")]
  kernels = {
    name: tuple(_ours(state[f"{name}.weight"]).shape)
    for name in names  # in the layers' order
  }
  for name, layer in seeded_weights(kernels).items():
    kernel = torch.from_numpy(layer["kernel"])
    state[f"{name}.weight"] = kernel.permute(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
    state[f"{name}.bias"] = torch.from_numpy(layer["bias"])
  model.load_state_dict(state)
  model.embeddings = model.embeddings[:-1]
  out = {}
  for clip, samples in CLIPS.items():
    patches = vggish_input.waveform_to_examples(samples, 16_000)
    with torch.no_grad():
      embedding = model(patches)
    out[clip] = {
      "log_mel": _rounded(patches.detach()[:, 0, FRAMES, BANDS].tolist()),
      "embedding": _rounded(embedding.tolist()),
    }
  GOLDEN.write_text(json.dumps(out, separators=(",", ":")))


def _ours(weight: torch.Tensor) -> torch.Tensor:
  return weight.permute(2, 3, 1, 0) if weight.ndim == 4 else weight.T


def _rounded(values: list | float) -> list | float:
  """To what a float32 holds."""
  return float(f"{values:.7g}") if isinstance(values, float) else [_rounded(v) for v in values]


if __name__ == "__main__":
  main()
