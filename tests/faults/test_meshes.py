"""A run that goes on with other devices or another number of processes."""

import dataclasses
import json
import re
import shutil

import pytest
from harness import Run

SETTINGS = (
  "--gin.BATCH_SIZE=8",
  "--gin.SAVE_EVERY=5",
  "--gin.Optimizer.warmup_steps=2",
  "--gin.Optimizer.decay_steps=20",
)
STEPS = "--gin.TRAIN_STEPS=20"


def going_on(data, folder, parts):
  """A run that ends at each part's step and goes on with the next part's devices and processes.

  Returns its trace over all parts: {step: (state, rows)}.
  """
  shape = dict.fromkeys(("processes", "devices"))
  trace, said = {}, []
  for step, *counts in parts:
    shape = dict(zip(shape, counts, strict=True))
    run = Run(folder=folder, data=data, flags=(*SETTINGS, f"--gin.TRAIN_STEPS={step}"), **shape)
    (first, *_) = run.complete()
    said.append(first.said)
    trace |= run.trace()
    for path in folder.parent.glob(f"{folder.name}-trace-*.jsonl"):
      path.unlink()  # of so many processes
  return trace, said


def losses(folder):
  rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
  return {row["step"]: row["loss"] for row in rows}


def check_same_training(data, tmp_path, parts):
  straight, _ = going_on(data, tmp_path / "straight", [(20, *parts[0][1:])])
  trace, said = going_on(data, tmp_path / "parts", parts)
  assert sorted(trace) == list(range(1, 21))
  for step in straight:
    assert trace[step][1] == straight[step][1], f"other rows at step {step}"
  # To the bit while the mesh is the same; restoring checks the fingerprint on each further mesh.
  first = parts[0][0]
  assert [trace[s] for s in range(1, first + 1)] == [straight[s] for s in range(1, first + 1)]
  assert all("damaged" not in text for text in said)
  assert [re.search(r"going on from step (\d+)", text)[1] for text in said[1:]] == [
    str(step) for step, *_ in parts[:-1]
  ]
  expected = losses(tmp_path / "straight")
  for step, loss in losses(tmp_path / "parts").items():
    assert loss == pytest.approx(expected[step], rel=1e-5)


def test_eight_devices_then_four_then_eight(data, tmp_path):
  check_same_training(data, tmp_path, [(5, 1, 8), (10, 1, 4), (20, 1, 8)])


@pytest.mark.slow
def test_two_processes_then_one_then_four(data, tmp_path):
  check_same_training(data, tmp_path, [(5, 2, 1), (10, 1, 1), (20, 4, 1)])


@pytest.mark.slow
@pytest.mark.parametrize("whole_list", [True, False])
def test_two_processes_agree_on_what_is_damaged(data, tmp_path, whole_list):
  """They fall back together, and both save the step that was set aside again."""
  run = Run(folder=tmp_path / "run", data=data, flags=(*SETTINGS, STEPS), processes=2)
  run.complete()
  expected = run.trace()
  again = dataclasses.replace(run, folder=tmp_path / "again")
  shutil.copytree(run.folder, again.folder)
  shutil.rmtree(again.checkpoints / "20" / "optimizer" / "d")
  if not whole_list:
    (again.checkpoints / "20" / "files.json").unlink()
  for process in again.complete():
    assert "falling back to checkpoint 15" in process.said
  assert again.trace() == {step: expected[step] for step in range(16, 21)}
  assert again.steps() == [10, 15, 20]
