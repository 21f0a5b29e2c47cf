"""What the fault tests share: a few clips, and the run on them that nothing disturbs."""

from pathlib import Path

import pytest
from harness import Run, make_clips


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return make_clips(tmp_path_factory.mktemp("faults") / "data")


@pytest.fixture(scope="session")
def straight(data: Path) -> Run:
  run = Run(folder=data.with_name("straight"), data=data)
  run.complete()
  return run
