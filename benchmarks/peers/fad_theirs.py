"""FAD by the packages frechet_audio_distance, fadtk and torchvggish, for `benchmarks.fad`.

Runs in an environment of theirs: pip install frechet_audio_distance fadtk torchvggish, and torch.
It is called with a folder: task.npz in it holds embeddings and clips, vggish.npz weights by the
names of torchvggish; theirs.json and theirs.npz are its answer.
"""

import json
import sys
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

# Imported by the second, it fetches a tokenizer; nothing here uses it.
sys.modules["laion_clap"] = types.ModuleType("laion_clap")
from fadtk import fad as fadtk  # noqa: E402
from frechet_audio_distance import FrechetAudioDistance  # noqa: E402
from torchvggish import torchvggish, vggish_input  # noqa: E402

RATE = 16_000
PACKAGES = ("frechet_audio_distance", "fadtk", "torchvggish", "torch", "scipy", "numpy")


class WithFrontEnd(torchvggish.VGG):
  """As the package's own hub entry gives it: samples in, embeddings out."""

  device = torch.device("cpu")

  def forward(self, audio, rate):
    return super().forward(vggish_input.waveform_to_examples(audio, rate).detach()).detach()


def main(folder: Path) -> None:
  task = np.load(folder / "task.npz", allow_pickle=False)
  weights = np.load(folder / "vggish.npz", allow_pickle=False)
  model = WithFrontEnd(torchvggish.make_layers(), postprocess=False)
  model.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
  torch.hub.load = lambda *_, **__: model  # it would fetch the published weights
  gudgud = FrechetAudioDistance(model_name="vggish")

  def distances(a, b):
    ours = [gudgud.calculate_embd_statistics(x) for x in (a, b)]
    theirs = [fadtk.calc_embd_statistics(x) for x in (a, b)]
    return {
      "frechet_audio_distance": float(gudgud.calculate_frechet_distance(*ours[0], *ours[1])),
      "fadtk": float(fadtk.calc_frechet_distance(*theirs[0], *theirs[1])),
    }

  sides = {side: gudgud.get_embeddings(list(task[f"clips_{side}"]), RATE) for side in "ab"}
  answer = {
    "embeddings": distances(task["embeddings_a"], task["embeddings_b"]),
    "audio": distances(sides["a"], sides["b"]),
    "versions": {name: metadata.version(name) for name in PACKAGES},
  }
  np.savez(folder / "theirs.npz", **sides)
  (folder / "theirs.json").write_text(json.dumps(answer))


if __name__ == "__main__":
  main(Path(sys.argv[1]))
