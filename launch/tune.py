"""Finds how a trained cascade is sampled best in the time that one has: `n2m tune`.

  n2m tune runs/demo --prompts runs/demo/corpus --minutes 30

Stage by stage it tries solvers with their grids, then numbers of calls, then guidance, each on the
same prompts and seeds, the rest of the cascade as it was found so far; the stage that takes most of
the time comes first. Every way is scored by its Frechet distance to the real clips and timed. Then
whole cascades are put together and measured as such: what is written was heard, not presumed.
Stopped and started again it makes only what is missing.

Written: OUT/scores.json and OUT/report.html, all ways with plot and players; OUT/tuning.json, the
Pareto front; and presets.json in the cascade's folder, for `n2m generate --preset draft`.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.manifest import atomic_text
from launch import gin_main
from launch.evaluation import (
  Evaluation,
  evaluate,
  load_encoder,
  scalars,
  write_results,
)
from noise2music.diffusion import samplers, time_steps
from noise2music.errors import Parser, UserError
from noise2music.evaluation.sweeps import Variant
from noise2music.pipeline import Pipeline
from noise2music.stages.presets import Preset, write_presets
from noise2music.stages.spec import Sampling, Stage

CALLS = (32, 20, 12, 8, 4)
TRIED_WITH = 12  # calls with which solvers are compared
GUIDANCE = (0.5, 1.5)  # times the stage's own
# A preset is the fastest way whose score is at most so many times the best one.
PRESETS = {"draft": 1.25, "balanced": 1.05, "best": 1.0}
TUNING = "tuning.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ways:
  """A sweep over samplings that were put together elsewhere."""

  ways: tuple[Variant, ...]

  def variants(self) -> tuple[Variant, ...]:
    return self.ways


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tried:
  """One way, measured. seconds: that a clip takes once programs are compiled. score: of `metric`,
  a distance. calls: of the network, of all stages together, guidance's two counted as two."""

  name: str
  preset: Preset
  seconds: float
  calls: int
  score: float

  def to_json(self) -> dict[str, Any]:
    told = {name: getattr(self, name) for name in ("name", "seconds", "calls", "score")}
    return told | {"sampling": {stage: repr(how) for stage, how in self.preset.items()}}


def solvers(stage: Stage) -> dict[str, Sampling]:
  """Ways to walk from noise to signal, each on the grid that suits it, in TRIED_WITH calls."""
  own = stage.sampling
  even = own.time_steps
  if not isinstance(even, time_steps.UniformLogSnrSteps):
    even = time_steps.UniformLogSnrSteps(count=TRIED_WITH, inner=(-8.0, 10.0))
  ways = {
    "dpm": (samplers.DPMSolverPP2M(), even),
    "dpm_edm": (samplers.DPMSolverPP2M(), time_steps.EDMSteps(count=TRIED_WITH)),
    "dpm_sde": (samplers.DPMSolverPP2M(eta=1.0), even),
    "ddim": (samplers.DDIM(), even),
    "ancestral_0": (samplers.Ancestral(gamma=0.0), even),
    "ancestral_1": (samplers.Ancestral(gamma=1.0, last_noise=False), even),
    "heun": (samplers.Heun(), time_steps.EDMSteps(count=TRIED_WITH)),
  }
  return {
    name: with_calls(dataclasses.replace(own, sampler=solver, time_steps=grid), TRIED_WITH)
    for name, (solver, grid) in ways.items()
  }


def with_calls(sampling: Sampling, calls: int) -> Sampling:
  """The same in at most so many calls of the network."""
  solver = sampling.sampler
  steps = max(n for n in range(1, calls + 1) if n == 1 or solver.calls(n) <= calls)
  return dataclasses.replace(sampling, time_steps=sampling.time_steps.of(steps))


def calls_of(preset: Preset) -> int:
  return sum(how.calls * (1 if how.guidance_scale == 1 else 2) for how in preset.values())


def front(tried: Sequence[Tried]) -> list[Tried]:
  """Those that no other beats in both time and score, fastest first."""
  best: list[Tried] = []
  for way in sorted(tried, key=lambda way: (way.seconds, way.score)):
    if not best or way.score < best[-1].score:
      best.append(way)
  return best


def fastest_within(tried: Sequence[Tried], factor: float) -> Tried:
  """The fastest of those that score at most `factor` times the best."""
  best = min(way.score for way in tried)
  return min((way for way in tried if way.score <= factor * best), key=lambda way: way.seconds)


@dataclasses.dataclass(kw_only=True)
class Search:
  """measure: (name, preset) -> Tried. out_of_time: whether another way may be begun."""

  stages: Sequence[Stage]
  measure: Callable[[str, Preset], Tried]
  out_of_time: Callable[[], bool]

  def run(self) -> tuple[list[Tried], list[Tried]]:
    """(all ways that were tried, those of them that are whole cascades put together)"""
    own = {stage.name: stage.sampling for stage in self.stages}
    tried = [self.measure("as_trained", own)]
    current, of_stage = dict(own), {}
    for stage in self.stages:
      ways = [tried[0]] if current == own else [self.measure(f"before_{stage.name}", current)]
      for way in self._of_stage(stage, current, ways):
        tried.append(way)
      of_stage[stage.name] = ways
      current[stage.name] = fastest_within(ways, PRESETS["balanced"]).preset[stage.name]
    whole = [tried[0]]
    for name, factor in PRESETS.items():
      preset = {
        stage: fastest_within(ways, factor).preset[stage] for stage, ways in of_stage.items()
      }
      whole.append(self.measure(f"together_{name}", preset))
    return [*tried, *whole[1:]], whole

  def _of_stage(self, stage: Stage, current: Preset, ways: list[Tried]) -> Iterator[Tried]:
    """Measures ways to sample one stage, and puts them to `ways`, until the time is over."""

    def of(name: str, how: Sampling) -> Iterator[Tried]:
      if not self.out_of_time():
        ways.append(self.measure(f"{stage.name}_{name}", {**current, stage.name: how}))
        yield ways[-1]

    for name, how in solvers(stage).items():
      yield from of(name, how)
    tried = {way.name: way for way in ways[1:]}
    if not tried:
      return
    best = min(tried.values(), key=lambda way: way.score).preset[stage.name]
    for calls in CALLS:
      if calls != TRIED_WITH:
        yield from of(f"calls_{calls}", with_calls(best, calls))
    best = fastest_within(ways, PRESETS["balanced"]).preset[stage.name]
    if stage.text is not None and best.guidance_scale != 1:
      for factor in GUIDANCE:
        scale = 1 + (best.guidance_scale - 1) * factor
        yield from of(f"guidance_{scale:g}", best.guided(scale))


@dataclasses.dataclass(kw_only=True)
class Measure:
  """Makes and scores the clips of a way, and times one batch more once it is compiled."""

  evaluation: Evaluation
  pipeline: Pipeline
  encoders: Sequence[Any]
  metric: str
  variants: list[Variant] = dataclasses.field(default_factory=list)
  say: Callable[[str], None] = print

  def __call__(self, name: str, preset: Preset) -> Tried:
    variant = Variant(
      name=name, series="tried", axis="network calls", x=calls_of(preset), sampling=preset
    )
    self.variants.append(variant)
    made = dataclasses.replace(self.evaluation, sweep=Ways(ways=(variant,)))
    said: list[str] = []
    record = evaluate(made, self.pipeline, encoders=self.encoders, say=said.append)
    values = scalars(record)
    if self.metric not in values:
      why = next((line for line in said if self.metric in line), "")
      raise UserError(
        f"there is no score {self.metric}, only {', '.join(values)} {f'({why})' if why else ''}:"
        " give more --clips, or another --metric"
      )
    way = Tried(
      name=name,
      preset=preset,
      seconds=self._seconds(preset),
      calls=calls_of(preset),
      score=values[self.metric],
    )
    self.say(
      f"{name}: {self.metric} {way.score:.3g}, {way.seconds:.2f} s a clip, {way.calls} calls"
    )
    return way

  def _seconds(self, preset: Preset) -> float:
    prompts = [p.text for p in self.evaluation.read_prompts()][: self.evaluation.batch_size]
    began = time.monotonic()
    self.pipeline.generate(
      prompts,
      duration=self.evaluation.asked_seconds,
      batch_size=self.evaluation.batch_size,
      seed=0,
      sampling=preset,
    )
    return (time.monotonic() - began) / len(prompts)


def tune(evaluation: Evaluation, pipeline: Pipeline, *, folder: Path, metric: str, minutes: float,
         say: Callable[[str], None] = print) -> dict[str, Tried]:  # fmt: skip
  """Does all that the module says; returns the presets."""
  began = time.monotonic()
  encoders = [load_encoder(name) for name in evaluation.encoders]
  measure = Measure(
    evaluation=evaluation, pipeline=pipeline, encoders=encoders, metric=metric, say=say
  )
  slowest_first = sorted(pipeline.cascade.stages, key=_work, reverse=True)
  search = Search(
    stages=slowest_first,
    measure=measure,
    # A quarter is kept for the cascades that are put together at the end.
    out_of_time=lambda: time.monotonic() - began > 60 * minutes * 0.75,
  )
  tried, whole = search.run()
  presets = {name: fastest_within(whole, factor) for name, factor in PRESETS.items()}
  say("all of them side by side")
  every = dataclasses.replace(evaluation, sweep=Ways(ways=tuple(measure.variants)))
  record = evaluate(every, pipeline, encoders=encoders, say=lambda text: None)
  write_results(Path(evaluation.out), record)
  with atomic_text(Path(evaluation.out) / TUNING) as file:
    json.dump(
      {
        "metric": metric,
        "front": [way.to_json() for way in front(tried)],
        "presets": {name: way.to_json() for name, way in presets.items()},
        "tried": [way.to_json() for way in tried],
      },
      file,
      indent=1,
    )
  write_presets(folder, {name: way.preset for name, way in presets.items()})
  return presets


def _work(stage: Stage) -> float:
  """Grows with what a second of the stage costs; only the order matters."""
  calls = stage.sampling.calls * (1 if stage.sampling.guidance_scale == 1 else 2)
  return calls * stage.target.rate_hz * stage.network.base_width**2


def main(argv: Sequence[str]) -> int:
  args = _parser().parse_args(argv)
  if not 0 < args.minutes < float("inf"):
    raise UserError(f"{args.minutes:g} minutes are none to tune in: give a number above 0")
  gin_main.set_up()
  out = args.out or args.model / "tuning"
  evaluation = Evaluation(
    prompts=str(args.prompts),
    out=str(out),
    encoders=(args.encoder,),
    clips=args.clips,
    duration=args.duration,
    batch_size=args.batch_size,
    split=args.split,
  )
  pipeline = Pipeline.from_pretrained(args.model, stages=args.stages)
  presets = tune(
    evaluation, pipeline, folder=args.model, metric=args.metric, minutes=args.minutes,
    say=lambda text: print(text, flush=True),
  )  # fmt: skip
  for name, way in presets.items():
    print(f"{name:9} {way.score:8.3g}  {way.seconds:7.2f} s a clip  {way.calls:4} calls")
  print(f"presets written into {args.model}: n2m generate --model {args.model} --preset draft ...")
  print(f"open {out / 'report.html'}")
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = Parser(
    prog="n2m tune",
    description="Find fast ways to sample a cascade, and write them as presets.",
    epilog="example: n2m tune runs/demo --prompts runs/demo/corpus --minutes 30",
  )
  parser.add_argument("model", type=Path, help="folder of a trained cascade")
  parser.add_argument(
    "--prompts", type=Path, required=True, help="manifest of real clips with captions"
  )
  parser.add_argument(
    "--minutes", type=float, default=30.0, help="after which nothing new is tried (30)"
  )
  parser.add_argument("--clips", type=int, default=64, help="to make for each way (64)")
  parser.add_argument("--duration", type=float, help="seconds of a clip; as trained")
  parser.add_argument("--batch-size", type=int, default=8, help="clips at once (8)")
  parser.add_argument(
    "--encoder", default="log_mel", help="that the score comes from (log_mel), or joint:FOLDER"
  )
  parser.add_argument("--metric", default="fad_log_mel", help="the distance (fad_log_mel)")
  parser.add_argument("--split", default="validation", help="of the prompts (validation)")
  parser.add_argument("--stages", nargs="+", help="names of the runs, where there are more")
  parser.add_argument("--out", type=Path, help="folder of the clips and scores (MODEL/tuning)")
  return parser
