import dataclasses

import pytest

from launch.tune import PRESETS, Search, Tried, calls_of, fastest_within, front, solvers, with_calls
from noise2music.diffusion.samplers import DDIM, DPMSolverPP2M, Heun
from noise2music.diffusion.time_steps import UniformLogSnrSteps
from noise2music.stages.spec import Sampling

OWN = Sampling(time_steps=UniformLogSnrSteps(count=30), sampler=DPMSolverPP2M(), guidance_scale=3.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
  """What the search reads of a stage."""

  name: str
  sampling: Sampling = OWN
  text: object = True


def tried(name, seconds, score, preset=None):
  return Tried(name=name, preset=preset or {}, seconds=seconds, calls=1, score=score)


def measure(name, preset):
  """A world in which DDIM is good, 8 calls are enough and each call takes a second."""
  score = 1.0
  for how in preset.values():
    score += 0.0 if isinstance(how.sampler, DDIM) else 0.3
    score += max(0, 8 - how.calls) * 0.1 + abs(how.guidance_scale - 2.0) * 0.2
  return Tried(
    name=name, preset=preset, seconds=calls_of(preset), calls=calls_of(preset), score=score
  )


def test_ways_take_as_many_calls_as_they_say():
  for how in solvers(Guided(name="a")).values():
    assert how.calls in (11, 12)  # Heun's come in pairs
  for calls in (1, 2, 4, 5, 20):
    assert with_calls(OWN, calls).calls == calls
    if calls > 3:
      heun = with_calls(solvers(Guided(name="a"))["heun"], calls)
      assert isinstance(heun.sampler, Heun)
      assert calls - 1 <= heun.calls <= calls
  assert calls_of({"a": OWN, "b": OWN.guided(1.0)}) == 60 + 30


def test_the_front_holds_what_no_other_beats():
  ways = [
    tried("a", 1, 5),
    tried("b", 2, 3),
    tried("c", 2, 4),
    tried("d", 4, 3.5),
    tried("e", 9, 1),
  ]
  assert [way.name for way in front(ways)] == ["a", "b", "e"]
  assert fastest_within(ways, 1.0).name == "e"
  assert fastest_within(ways, 3.0).name == "b"
  assert fastest_within(ways, 9.0).name == "a"


def test_a_search_finds_solver_calls_and_guidance_and_measures_what_it_puts_together():
  search = Search(
    stages=[Guided(name="a"), Guided(name="b")], measure=measure, out_of_time=lambda: False
  )
  every, whole = search.run()
  assert [way.name for way in whole] == ["as_trained", *(f"together_{name}" for name in PRESETS)]
  assert len({way.name for way in every}) == len(every)
  best = fastest_within(whole, 1.0)
  for how in best.preset.values():
    assert isinstance(how.sampler, DDIM)
    assert how.calls == 8
    assert how.guidance_scale == 2.0
  assert best.calls == 2 * 2 * 8
  assert best.score < every[0].score


def test_a_search_that_has_no_time_keeps_what_there_was():
  search = Search(stages=[Guided(name="a")], measure=measure, out_of_time=lambda: True)
  every, whole = search.run()
  assert {way.preset["a"] for way in whole} == {OWN}
  assert len(every) == 1 + len(PRESETS)


def test_a_stage_that_hears_no_text_is_not_guided():
  deaf = Guided(name="a", sampling=OWN.guided(1.0), text=None)
  every, _ = Search(stages=[deaf], measure=measure, out_of_time=lambda: False).run()
  assert not [way for way in every if "guidance" in way.name]


@pytest.mark.parametrize("minutes", ["0", "-1", "inf"])
def test_no_time_is_refused(minutes, tmp_path, capsys):
  from noise2music import cli

  assert cli.main(["tune", str(tmp_path), "--prompts", "x", "--minutes", minutes]) == 2
  assert "none to tune in" in capsys.readouterr().err
