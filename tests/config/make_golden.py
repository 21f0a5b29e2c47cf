"""Writes the resolved config of every training run in configs/runs, with data's folder as FOLDER.

Also those of the evaluations, as evaluation-NAME, and of the demo's first stage with scores on the
way, as scores.

  PYTHONPATH=. python tests/config/make_golden.py tests/config/golden

A process of its own, since gin finds no default values in classes that the tests' type checks wrap.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.manifest import Caption, Clip, write_manifest
from launch.evaluate import Job
from noise2music.config import gin_utils
from noise2music.training import Training

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RUNS = CONFIGS / "runs"


def main(out: Path) -> None:
  with tempfile.TemporaryDirectory() as name:
    data = make_data(Path(name))
    for path in sorted(RUNS.rglob("*.gin")):
      text = path.read_text()
      if "base/training.gin" in text or "joint_embedding" in path.as_posix():
        run = path.relative_to(RUNS).as_posix().replace("/", "-")
        (out / run).write_text(resolved(path, data))
    for path in sorted((CONFIGS / "evaluation").glob("*.gin")):
      if path.stem != "base":  # which the others include
        (out / f"evaluation-{path.name}").write_text(evaluation(path, data))
    # A run without previews; the smoke runs, which have some, train with scores in their own test.
    first, scores = RUNS / "demo/waveform_generator.gin", CONFIGS / "base/scores.gin"
    (out / "scores.gin").write_text(resolved(first, data, scored_by=scores))


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


def resolved(path: Path, data: Path, *, scored_by: Path | None = None) -> str:
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
  files = [str(path)]
  if scored_by is not None:
    files.append(str(scored_by))
    bindings += [f'SCORED_PROMPTS = "{data}"', f'SCORES = "{data / "scores"}"']
  gin_utils.parse(files, bindings)
  return built(Training, data)


def evaluation(path: Path, data: Path) -> str:
  """As `resolved`, of a file for `n2m evaluate run`."""
  given = {"MODEL_DIR": data / "run", "PROMPTS": data, "OUT": data / "out"}
  gin_utils.parse([str(path)], [f'{name} = "{value}"' for name, value in given.items()])
  return built(Job, data)


def built(constructor: Callable, data: Path) -> str:
  gin_utils.build(constructor)
  gin_utils.check_all_used()
  return gin_utils.operative_config_text().replace(str(data), "FOLDER")


if __name__ == "__main__":
  main(Path(sys.argv[1]))
