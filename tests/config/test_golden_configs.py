"""Resolved configs of all runs as golden files: a change to an experiment shows up as a diff.

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


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda path: path.stem)
def test_a_run_says_what_it_reproduces_what_it_costs_and_its_command(golden: Path) -> None:
  kind, _, stage = golden.stem.partition("-")
  lines = (ROOT / f"configs/runs/{kind}/{stage}.gin").read_text().splitlines()
  head = "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
  for word in ("Reproduces: ", "Costs: ", f"--gin_file=configs/runs/{kind}/{stage}.gin"):
    assert word in head
