"""Resolved configs of all runs as golden files: a change to an experiment shows up as a diff.

After a change that is meant: python tests/config/test_golden_configs.py
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.manifest import Caption, Clip, write_manifest
from noise2music.config import gin_utils
from noise2music.training import Training

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "golden"
RUNS = sorted(
  path.relative_to(ROOT / "configs/runs").with_suffix("").as_posix()
  for path in (ROOT / "configs/runs").rglob("*.gin")
  if "loop.Training" in path.read_text() or "base/training.gin" in path.read_text()
)


def resolved(run: str, folder: Path) -> str:
  """The config that a run would keep, with `folder` written as FOLDER."""
  text = (ROOT / "configs/runs" / f"{run}.gin").read_text()
  values = {"MODEL_DIR": folder / "run", "DATA": folder}
  bindings = [f'{name} = "{value}"' for name, value in values.items()]
  if "small_vocabulary" in text:
    bindings.append(f'VOCABULARY = "{folder / "vocabulary.model"}"')
  if "shared.gin" in text:
    bindings.append("TRAIN_STEPS = 1000")
  gin_utils.parse([f"configs/runs/{run}.gin"], bindings)
  gin_utils.build(Training)
  gin_utils.check_all_used()
  return gin_utils.operative_config_text().replace(str(folder), "FOLDER")


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


def golden(run: str) -> Path:
  return GOLDEN / f"{run.replace('/', '-')}.gin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return make_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("run", RUNS)
def test_a_run_resolves_to_what_it_did(run: str, folder: Path) -> None:
  assert resolved(run, folder) == golden(run).read_text(), f"see {__doc__.splitlines()[-1]}"


def test_each_golden_file_is_of_a_run() -> None:
  assert sorted(GOLDEN.iterdir()) == sorted(golden(run) for run in RUNS)


if __name__ == "__main__":
  sys.path.insert(0, str(ROOT))
  with tempfile.TemporaryDirectory() as name:
    data = make_data(Path(name))
    for run in RUNS:
      golden(run).write_text(resolved(run, data))
