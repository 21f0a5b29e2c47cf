"""Resolved configs of runs and evaluations as golden files: a changed experiment is a diff.

After a change that is meant, make_golden.py writes them anew.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
GOLDEN = sorted((HERE / "golden").iterdir())
EVALUATIONS = [path for path in GOLDEN if path.stem.startswith("evaluation-")]
RUNS = [path for path in GOLDEN if path not in EVALUATIONS and path.stem != "scores"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
  folder = tmp_path_factory.mktemp("resolved")
  subprocess.run(
    [sys.executable, str(HERE / "make_golden.py"), str(folder)],
    check=True,
    env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
  )
  return folder


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_run_resolves_to_what_it_did(golden: Path, made: Path) -> None:
  assert (made / golden.name).read_text() == golden.read_text()


def test_every_run_has_a_golden_file(made: Path) -> None:
  assert sorted(path.name for path in made.iterdir()) == [path.name for path in GOLDEN]


@pytest.mark.parametrize("golden", RUNS, ids=lambda path: path.stem)
def test_a_run_says_what_it_reproduces_what_it_costs_and_its_command(golden: Path) -> None:
  kind, _, stage = golden.stem.partition("-")
  head = _header(ROOT / f"configs/runs/{kind}/{stage}.gin")
  for word in ("Reproduces: ", "Costs: ", f"--gin_file=configs/runs/{kind}/{stage}.gin"):
    assert word in head


@pytest.mark.parametrize("golden", EVALUATIONS, ids=lambda path: path.stem)
def test_an_evaluation_says_so_too(golden: Path) -> None:
  name = f"evaluation/{golden.stem.removeprefix('evaluation-')}.gin"
  head = _header(ROOT / "configs" / name)
  for word in ("# Reproduces: ", "# Costs: ", f"--gin_file={name}"):
    assert word in head


def test_scores_come_to_a_run_without_previews_and_bring_them() -> None:
  run = (ROOT / "configs/runs/demo/waveform_generator.gin").read_text()
  assert "previews.gin" not in run
  text = (HERE / "golden/scores.gin").read_text()
  for hook in ("@hooks.SampleHook()", "@scores/hooks.SampleHook()"):
    assert hook in text


def _header(path: Path) -> str:
  lines = path.read_text().splitlines()
  return "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
