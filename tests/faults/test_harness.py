"""Without a fault a run is repeatable; a stage of the cascade is as safe as the tiny network."""

import signal

import pytest
from harness import HERE


def test_a_run_is_repeatable_to_the_bit(straight):
  again = straight.beside("repeated")
  again.complete()
  assert len(straight.trace()) == 60
  assert again.trace() == straight.trace()


@pytest.mark.slow
def test_1_a_stage_of_the_cascade_that_was_killed_is_the_one_that_was_not(straight):
  flags = [f"--gin_file={HERE / 'stage.gin'}"]
  whole, killed = (straight.beside(name, flags=flags) for name in ("stage", "stage-killed"))
  whole.complete()
  for seen in ("step 15/", "step 40/"):
    (process,) = killed.start("--gin.faulty.Batches.delay_seconds=0.05")
    process.wait_for(seen)
    process.send(signal.SIGKILL)
    process.end()
  killed.complete()
  assert len(whole.trace()) == 60
  assert killed.trace() == whole.trace()
