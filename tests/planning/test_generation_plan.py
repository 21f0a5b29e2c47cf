"""What a request costs, and the time to go while it runs."""

import dataclasses
import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
import tiny
from test_cascade import WAVEFORM, cascade

from noise2music.errors import UserError
from noise2music.pipeline import Pipeline
from noise2music.planning.generation import GenerationPlan, Pace, StagePlan
from noise2music.stages.spec import InWindows

pytestmark = pytest.mark.usefixtures("light_compilation")


def _pipeline() -> Pipeline:
  stages, params = cascade(WAVEFORM)
  return Pipeline(cascade=stages, params=tuple(params))


def test_a_plan_counts_what_a_request_takes() -> None:
  pipeline = _pipeline()
  plan = pipeline.plan(["a", "b", "c"], duration=0.5, batch_size=2)
  generator, cascader, last = plan.stages
  assert [stage.stage for stage in plan.stages] == list(WAVEFORM)
  assert (generator.batches, generator.clips, generator.steps, generator.windows) == (2, 2, 3, 1)
  assert generator.calls == 2 * 3 * 2, "batches, steps, guidance"
  assert cascader.calls == last.calls == 2 * 3
  for stage, tree in zip(plan.stages, pipeline.params, strict=True):
    assert stage.weight_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
    network = sum(leaf.nbytes for leaf in jax.tree.leaves(tree["network"]))
    assert network < stage.peak_bytes < network + 50e6
  assert plan.flops == sum(stage.flops for stage in plan.stages) > 0
  assert "waveform_generator: 2 x 2 clips of 0.5 s, 3 steps, 12 calls" in str(plan)


def test_windows_and_a_longer_clip_show_in_a_plan() -> None:
  pipeline = _pipeline()
  whole = pipeline.plan("a", duration=4.0)
  parts = pipeline.plan("a", duration=4.0, windows=InWindows(overlap=0.0, at_once=2))
  for before, after in zip(whole.stages, parts.stages, strict=True):
    assert after.windows >= 8
    assert after.calls == before.calls * -(-after.windows // 2)
    assert f", {after.windows} windows a clip" in str(after)
    assert after.peak_bytes < before.peak_bytes or after.stage == "waveform_generator"


def test_what_generate_is_asked_is_planned_before_it_runs() -> None:
  order: list = []
  _pipeline().generate(
    "a tune", duration=0.3, seed=1, on_plan=order.append,
    on_stage=lambda name, first, clips: order.append(name),
  )  # fmt: skip
  assert isinstance(order[0], GenerationPlan)
  assert order[1:] == list(WAVEFORM)
  assert order[0].stages == _pipeline().plan("a tune", duration=0.3).stages


def test_a_plan_refuses_what_generate_refuses() -> None:
  pipeline = _pipeline()
  with pytest.raises(UserError, match="longer than 0"):
    pipeline.plan("a", duration=-1.0)
  with pytest.raises(UserError, match="make it in windows"):
    pipeline.plan("a", duration=700.0)
  with pytest.raises(UserError, match="no stage is called"):
    pipeline.plan("a", sampling={"nobody": tiny.SAMPLING})


def test_time_to_go_follows_from_the_operations_done() -> None:
  stage = StagePlan(
    stage="a", batches=2, clips=4, seconds=1.0, steps=1, windows=1, calls=1, weight_bytes=0,
    peak_bytes=None, flops=40.0,
  )  # fmt: skip
  last = dataclasses.replace(stage, stage="b", batches=1, flops=160.0)
  now = [100.0]
  pace = Pace(GenerationPlan(stages=(stage, last)), clock=lambda: now[0])
  assert pace.seconds_left("a", 0) is None, "nothing is known yet"
  now[0] = 110.0
  assert pace.seconds_left("a", 4) == pytest.approx(10 * 180 / 20)
  now[0] = 130.0
  assert pace.seconds_left("b", 0) == pytest.approx(30 * 160 / 40)
