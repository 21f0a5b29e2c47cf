"""Without a fault: any number of processes trains on the same batches, and a run is repeatable."""

import pytest
from harness import Run, make_clips


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  folder = tmp_path_factory.mktemp("faults")
  run = Run(folder=folder / "straight", data=make_clips(folder / "data"))
  run.complete()
  return run


def test_a_run_is_repeatable_to_the_bit(straight, tmp_path):
  again = Run(folder=straight.folder.with_name("again"), data=straight.data)
  again.complete()
  assert len(straight.trace()) == 60
  assert again.trace() == straight.trace()
