"""Writes the resolved config of every training run in configs/runs, with data's folder as FOLDER.

  PYTHONPATH=. python tests/config/make_golden.py tests/config/golden

A process of its own, since gin finds no default values in classes that the tests' type checks wrap.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.manifest import Caption, Clip, write_manifest
from noise2music.config import gin_utils
from noise2music.training import Training

RUNS = Path(__file__).resolve().parents[2] / "configs" / "runs"


def main(out: Path) -> None:
  with tempfile.TemporaryDirectory() as name:
    data = make_data(Path(name))
    for path in sorted(RUNS.rglob("*.gin")):
      text = path.read_text()
      if "base/training.gin" in text or "joint_embedding" in path.as_posix():
        run = path.relative_to(RUNS).as_posix().replace("/", "-")
        (out / run).write_text(resolved(path, data))


def make_data(folder: Path) -> Path:
  """One clip with captions, and a vocabulary made from them."""
  soundfile.write(folder / "clip.wav", np.zeros(24_000, np.int16), 24_000)
  captions = [
    Caption(text=f"A {mood} {what} number {number}.", kind="long")
    for mood in ("slow", "fast", "merry")
    for what in ("waltz", "march", "reel")
    for number in range(20)
  ]
  clip = Clip(
    path="clip.wav", duration=1.0, sample_rate=24_000, captions=tuple(captions), split="train"
  )
  write_manifest(folder / "manifest.jsonl", [clip])
  train_vocabulary(folder / "manifest.jsonl", folder / "vocabulary.model")
  return folder


def resolved(path: Path, data: Path) -> str:
  """What the run would keep as its config. Raises UserError on a binding that nothing uses."""
  text = path.read_text()
  bindings = [f'MODEL_DIR = "{data / "run"}"', f'DATA = "{data}"']
  vocabulary = data / "vocabulary.model"
  towers = ("joint_embedding/tiny.gin", "joint_embedding/demo.gin")
  if "small_vocabulary" in text or any(name in text for name in towers):
    bindings.append(f'VOCABULARY = "{vocabulary}"')
  if "t5_frozen" in text:
    bindings += [f'T5_VOCABULARY = "{vocabulary}"', 'T5_WEIGHTS = "t5"']
  if "demo/shared.gin" in text:
    bindings.append("TRAIN_STEPS = 1000")
  gin_utils.parse([str(path)], bindings)
  gin_utils.build(Training)
  gin_utils.check_all_used()
  return gin_utils.operative_config_text().replace(str(data), "FOLDER")


if __name__ == "__main__":
  main(Path(sys.argv[1]))
