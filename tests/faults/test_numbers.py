"""Bad numbers (20 to 22): what is no number is tried again, left out, and never saved."""

import json

import numpy as np
import pytest

from noise2music.checkpoints.restore import restore_params


def test_20_a_failure_that_passes_changes_nothing(straight):
  run = straight.beside("passing")
  (process,) = run.complete("--gin.Objective.poison=23", "--gin.Objective.times=1")
  assert "step 23 had no finite loss and gradient, and has when run again" in process.said
  assert run.trace() == straight.trace()
  assert not (run.folder / "quarantine.jsonl").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_21_a_failure_that_stays_is_left_out_by_all_alike(straight, processes):
  run = straight.beside(f"staying-{processes}", processes=processes)
  first, *_ = run.complete("--gin.Objective.poison=23")
  assert "step 23 had no finite loss or gradient, twice: left out, its clips in" in first.said
  (row,) = map(json.loads, (run.folder / "quarantine.jsonl").read_text().splitlines())
  assert row["step"] == 23
  assert len(row["clips"]) == 4
  assert all(name.endswith(".wav") for name in row["clips"])
  trace = run.trace()  # the same in all processes
  assert trace[24][0] == trace[23][0], "an update was made of it"
  assert [rows for _, rows in trace.values()] == [rows for _, rows in straight.trace().values()]
  if processes == 1:
    assert {k: trace[k] for k in range(1, 24)} == {k: straight.trace()[k] for k in range(1, 24)}
  for step in run.steps():
    params, _, _ = restore_params(run.checkpoints / str(step))
    assert all(np.isfinite(leaf).all() for leaf in params["network"].values())


def test_21_too_many_end_the_run(straight):
  run = straight.beside("many")
  (process,) = run.start("--gin.Objective.poison=23", "--gin.Training.most_quarantined=0")
  assert process.end() == 2
  assert "1 batch up to step 23 had no finite loss or gradient" in process.said
  assert "Traceback" not in process.said
  assert run.steps()[-1] == 20


@pytest.mark.parametrize("processes", [1, 2])
def test_23_memory_that_went_wrong_is_named(straight, processes):
  run = straight.beside(f"flipped-{processes}", processes=processes, devices=4 // processes)
  flip = [
    "--gin.Training.hooks=(@faulty.FlipBit(), @faulty.Trace())",
    "--gin.FlipBit.step=12",
    f"--gin.FlipBit.process={processes - 1}",
    f"--gin.FlipBit.device={4 // processes - 1}",
  ]
  started = run.start(*flip, "--gin.Training.compare_every=5")
  assert {process.end() for process in started} == {2}
  for process in started:
    named = f"device {4 // processes - 1} of process {processes - 1}"
    assert f"the state on {named} is not that of the other copies" in process.said
  assert run.steps()[-1] == 10
  trace = run.trace()
  assert max(trace) == 14, "the run went on after the comparison"
  for path in run.folder.parent.glob(f"{run.folder.name}-trace-*"):  # of weights that went wrong
    path.unlink()
  run.complete("--gin.Training.compare_every=5")
  again = straight.beside(f"unflipped-{processes}", processes=processes, devices=4 // processes)
  again.complete()
  assert run.trace()[60] == again.trace()[60]
