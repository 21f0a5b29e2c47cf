"""Our FAD beside that of two public packages, on the same vectors, and on the same clips with the
same random weights of VGGish.

  python -m benchmarks.fad --peers=/path/to/their/python --out=benchmarks/fad.json

Their environment: pip install frechet_audio_distance fadtk torchvggish, and torch.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.errors import Parser
from noise2music.evaluation.embedders.vggish import LAYERS, TFHUB, VGGish
from noise2music.evaluation.frechet import Gaussian, Moments, frechet_distance

RATE, WIDTH = 16_000, 128
# Places of the layers in torchvggish's state dict.
PLACES = ("features.0", "features.3", "features.6", "features.8", "features.11", "features.13",
          "embeddings.0", "embeddings.2", "embeddings.4")  # fmt: skip
THEIRS = Path(__file__).parent / "peers/fad_theirs.py"


def random_weights(seed: int) -> dict[str, Any]:
  """Of our names; kernels with the variance that keeps a signal's size through ReLUs."""
  rng, params = np.random.default_rng(seed), {}
  for name, shape in LAYERS.items():
    scale = np.float32(np.sqrt(2 / np.prod(shape[:-1])))
    kernel = rng.standard_normal(shape, dtype=np.float32) * scale
    bias = rng.standard_normal(shape[-1], dtype=np.float32) * np.float32(0.01)
    params[name] = {"kernel": kernel, "bias": bias}
  return params


def torch_names(params: dict[str, Any]) -> dict[str, np.ndarray]:
  out = {}
  for place, layer in zip(PLACES, params.values(), strict=True):
    kernel = layer["kernel"]
    order = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
    out[f"{place}.weight"] = np.ascontiguousarray(kernel.transpose(order))
    out[f"{place}.bias"] = layer["bias"]
  return out


def clips(count: int, *, pitch: float, seed: int) -> np.ndarray:
  """float32 [count, 5 s]: notes drawn from a scale, and a little noise."""
  rng, t = np.random.default_rng(seed), np.arange(5 * RATE) / RATE
  notes = pitch * 2 ** (rng.integers(0, 24, (count, 20)) / 12)
  phase = 2 * np.pi * np.cumsum(np.repeat(notes, len(t) // 20, axis=1), axis=1) / RATE
  audio = sum(np.sin(k * phase) / k for k in (1, 2, 3))
  return (0.2 * audio + 0.01 * rng.standard_normal(audio.shape)).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> int:
  parser = Parser(prog="python -m benchmarks.fad", description=__doc__)
  parser.add_argument("--peers", required=True, help="python of their environment")
  parser.add_argument("--out", required=True)
  args = parser.parse_args(argv)
  rng = np.random.default_rng(0)
  mix = rng.standard_normal((WIDTH, WIDTH)) / np.sqrt(WIDTH)
  vectors = {
    "a": rng.standard_normal((1_500, WIDTH)),
    "b": rng.standard_normal((1_000, WIDTH)) @ mix,
  }
  audio = {"a": clips(40, pitch=220, seed=1), "b": clips(40, pitch=330, seed=2)}
  params = random_weights(1234)
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    task = {f"embeddings_{s}": vectors[s] for s in "ab"} | {f"clips_{s}": audio[s] for s in "ab"}
    np.savez(folder / "task.npz", **task)
    np.savez(folder / "vggish.npz", **torch_names(params))
    subprocess.run([args.peers, THEIRS, folder], check=True)
    theirs = json.loads((folder / "theirs.json").read_text())
    rows = dict(np.load(folder / "theirs.npz"))
  encoder = VGGish(params=params, variant=TFHUB)
  ours = {side: np.concatenate(encoder.embed(list(audio[side]))) for side in "ab"}
  record = {
    "command": ["python", "-m", "benchmarks.fad", *(sys.argv[1:] if argv is None else argv)],
    "versions": theirs.pop("versions"),
    "embeddings": {"ours": _distance(vectors), "ours_streamed": _streamed(vectors)},
    "audio": {"ours": _distance(ours), "ours_streamed": _streamed(ours)},
    "largest_difference_of_vggish": max(float(np.abs(ours[s] - rows[s]).max()) for s in "ab"),
    "largest_entry_of_vggish": float(max(np.abs(rows[s]).max() for s in "ab")),
    "counts": {"embeddings": [1_500, 1_000], "audio": [len(ours[s]) for s in "ab"]},
  }
  for what, found in theirs.items():
    record[what] |= found
  Path(args.out).write_text(json.dumps(record, indent=1) + "\n")
  print(json.dumps(record, indent=1))
  return 0


def _distance(sides: dict[str, np.ndarray]) -> float:
  return frechet_distance(*(Gaussian.fit(sides[side]) for side in "ab"))


def _streamed(sides: dict[str, np.ndarray]) -> float:
  """In parts, as `n2m evaluate` adds them up."""
  states = []
  for side in "ab":
    state = Moments.empty(WIDTH)
    for part in np.array_split(sides[side], 7):
      state = state.add(part)
    states.append(state.compute())
  return frechet_distance(*states)


if __name__ == "__main__":
  sys.exit(main())
