"""The whole road in front of your eyes: render music, train a cascade on it, listen to it.

  python -m launch.demo --minutes=15 --out=runs/demo

Renders the score corpus, hides the captions of half of it, trains a joint embedding on the other
half and labels the first with it. Trains the stages on both with the same `python -m launch.train`
that trains anything else, generates clips from prompts that were not in training, and writes
report.html and metrics.json. Stopped at any moment and started again, it goes on from where it was.
From 40 minutes on the music is in several voices.
"""

import argparse
import dataclasses
import functools
import json
import math
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.datasets.score_corpus.corpus import Prompt, ScoreCorpus
from data_pipelines.manifest import Clip, read_manifest
from launch import gin_main
from launch.demo_labels import MIXED, Labelling, hide_captions, label
from launch.demo_report import write_demo_report
from noise2music.audio.sound_check import sound_check
from noise2music.audio.wav_io import read_audio
from noise2music.batch import BatchSpec
from noise2music.config import gin_utils
from noise2music.errors import Parser, UserError
from noise2music.evaluation.learning import LabelledAudio, learned_and_listens
from noise2music.pipeline import Generation, Pipeline
from noise2music.sharding.rules import unbox
from noise2music.training import loop

Built = TypeVar("Built")
VOCABULARY = "vocabulary.model"
LEAST_MINUTES = 5
LONG_MINUTES = 40  # from here on there is time to learn several voices at once
LEAST_OF_SHARE = 0.7  # of its share of the whole, which a stage gets however late it begins
PROBE_STEPS = 8  # steps that are timed before a stage's length is fixed


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedStage:
  """One stage of the demo.

  config: its run file. share: of the training time. reads_text: whether it takes the vocabulary.
  """

  name: str
  config: str
  share: float
  reads_text: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
  """What the demo makes. Bound by configs/runs/demo/demo.gin.

  labelling: of the half of the music whose captions are hidden from training.
  shown: clips in the report. judged: clips behind the figures. judging_share: of the whole time
  that is kept for generating and judging. clip_seconds: length of generated clips. reference:
  real training clips that figures are measured from.
  """

  corpus: ScoreCorpus
  labelling: Labelling
  stages: tuple[TrainedStage, ...]
  shown: int
  judged: int
  reference: int
  clip_seconds: float
  judging_share: float
  seed: int


def main(argv: Sequence[str]) -> int:
  parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument(
    "--minutes", type=float, default=15.0, help="for everything; 15 where left out"
  )
  parser.add_argument(
    "--out", type=Path, help="folder of all results; runs/demo, or runs/demo-long where it is long"
  )
  args = parser.parse_args(argv)
  gin_main.set_up()
  long = args.minutes >= LONG_MINUTES
  make_demo(
    "configs/runs/demo/long.gin" if long else "configs/runs/demo/demo.gin",
    minutes=args.minutes,
    out=args.out or Path("runs/demo-long" if long else "runs/demo"),
  )
  return 0


def make_demo(config: str, *, minutes: float, out: Path) -> None:
  """Does all that the module says. Raises UserError where the time is too short for anything."""
  if not LEAST_MINUTES <= minutes < math.inf:
    raise UserError(
      f"{minutes:g} minutes are too short to train anything: say MINUTES={LEAST_MINUTES} or more"
    )
  started = time.monotonic()
  demo = build([config], [], Demo)
  out.mkdir(parents=True, exist_ok=True)
  plan = _Plan(out / "plan.json", minutes=minutes)
  started -= 60 * plan.spent_minutes
  _say(started, f"rendering {demo.corpus.hours:g} hours of music from scores")
  manifest = demo.corpus.render(out / "corpus", progress=_RenderProgress())
  clips = list(read_manifest(manifest))
  hide_captions(manifest, seed=demo.labelling.seed)
  plan.spent(started)
  _say(started, "half of the music has lost its captions: training what will label it")
  train = functools.partial(_train, plan=plan, started=started)
  labels = label(demo.labelling, manifest, out=out, train=train)
  train_vocabulary(manifest.with_name(MIXED), out / VOCABULARY)
  plan.spent(started)
  ends = started + 60 * minutes * (1 - demo.judging_share)
  _train_stages(demo, plan, data=manifest.with_name(MIXED), out=out, ends=ends, started=started)
  _say(started, "generating and judging")
  pipeline = Pipeline.from_pretrained(out)
  judged = judge(demo, pipeline, clips, manifest.parent)
  metrics = {
    **judged.metrics,
    "labels": labels,
    "stages": plan.stages,
    "minutes": (time.monotonic() - started) / 60,
    "jax": jax.__version__,
  }
  write_demo_report(out, demo=demo, judged=judged, metrics=metrics)
  (out / "metrics.json").write_text(json.dumps(metrics, indent=1))
  _say(started, f"done: open {out / 'report.html'}; figures in {out / 'metrics.json'}")


def build(files: list[str], bindings: list[str], constructor: type[Built]) -> Built:
  gin_utils.parse(files, bindings)
  built = gin_utils.build(constructor)
  gin_utils.check_all_used()
  return built


def _say(started: float, text: str) -> None:
  print(f"[{(time.monotonic() - started) / 60:5.1f} min] {text}", flush=True)


class _RenderProgress:
  """One line every few seconds."""

  def __init__(self):
    self._last = time.monotonic()

  def __call__(self, done: int, total: int, what: str) -> None:
    if time.monotonic() - self._last > 5:
      self._last = time.monotonic()
      print(f"  {what}: {done} of {total}", flush=True)


def _train_stages(
  demo: Demo, plan: "_Plan", *, data: Path, out: Path, ends: float, started: float
) -> None:
  """Trains one stage after the other, each for its share of the time that is left."""
  for index, stage in enumerate(demo.stages):
    values = [f'MODEL_DIR="{out / stage.name}"', f'DATA="{data}"']
    if stage.reads_text:
      values.append(f'VOCABULARY="{out / VOCABULARY}"')
    if stage.name not in plan.stages:
      left = ends - time.monotonic()
      seconds = stage_seconds(demo.stages[index:], left=left, whole=ends - started)
      plan.add(stage.name, _steps_for(stage, values, seconds=seconds))
    steps = plan.stages[stage.name]["steps"]
    _say(started, f"training {stage.name}: {steps} steps")
    _train(stage.config, [*values, f"TRAIN_STEPS={steps}"], plan=plan, started=started)


def _train(config: str, values: list[str], *, plan: "_Plan", started: float) -> None:
  command = [sys.executable, "-m", "launch.train", f"--gin_file={config}"]
  command += [f"--gin.{value}" for value in values]
  print(f"  $ {shlex.join(command[1:])}", flush=True)
  code = run_to_the_end(command)
  plan.spent(started)  # also where it was stopped: what it did is saved
  if code:
    raise KeyboardInterrupt if code == 130 else SystemExit(code)


def stage_seconds(waiting: Sequence[TrainedStage], *, left: float, whole: float) -> float:
  """For the first of the stages that wait: its share of what is `left` of the `whole` time.

  One before it that other work slowed down may make it late, but does not starve it.
  """
  share = waiting[0].share
  return max(left * share / sum(stage.share for stage in waiting), LEAST_OF_SHARE * share * whole)


def run_to_the_end(command: Sequence[str]) -> int:
  """The exit status of `command`, which is given the time to save what it has after Ctrl-C."""
  with subprocess.Popen(command) as child:
    stop = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
      while True:
        try:
          return child.wait()
        except KeyboardInterrupt:
          continue  # the terminal told the child as well; it saves, then ends
    finally:
      signal.signal(signal.SIGTERM, stop)


class _Plan:
  """How long each stage trains: fixed once, so that a demo that was stopped goes on as planned.

  Another number of minutes makes another plan, and trains what is there for longer.
  spent_minutes: on what is done, in earlier starts too; what was cut off is not counted.
  """

  def __init__(self, path: Path, *, minutes: float):
    self._path, self._minutes = path, minutes
    self.stages: dict[str, dict[str, Any]] = {}
    self.spent_minutes = 0.0
    try:
      found = json.loads(path.read_text())
    except (OSError, ValueError):
      return  # there is none, or it was cut off while it was written
    if found["minutes"] == minutes:
      self.stages, self.spent_minutes = found["stages"], found.get("spent_minutes", 0.0)

  def add(self, name: str, steps: dict[str, Any]) -> None:
    self.stages[name] = steps
    self._write()

  def spent(self, started: float) -> None:
    """Notes that all so far is done. started: when it began, by time.monotonic()."""
    self.spent_minutes = (time.monotonic() - started) / 60
    self._write()

  def _write(self) -> None:
    names = ("stages", "spent_minutes")
    plan = {"minutes": self._minutes, **{name: getattr(self, name) for name in names}}
    self._path.write_text(json.dumps(plan, indent=1))


def _steps_for(stage: TrainedStage, values: list[str], *, seconds: float) -> dict[str, Any]:
  """How many steps fit into `seconds`, by timing a few."""
  began = time.monotonic()
  bindings = [value.replace("=", " = ", 1) for value in [*values, "TRAIN_STEPS=1000"]]
  training = build([stage.config], bindings, loop.Training)
  setup = loop.inspect(training)
  step, state, batches = setup.compile(), setup.fresh(), training.batches.batches()
  warm = 2
  for index in range(PROBE_STEPS + warm):
    if index == warm:
      jax.block_until_ready(state)
      timed_from = time.monotonic()
    with setup.activate():
      state, _ = step(state, setup.put(next(batches)), index)
  jax.block_until_ready(state)
  step_seconds = (time.monotonic() - timed_from) / PROBE_STEPS
  batches.close()
  # What it took to come here is gone, and the run itself takes as long to come to its first step.
  steps = int((seconds - 2 * (timed_from - began)) / step_seconds)
  return {
    "steps": max(steps, 2 * training.optimizer.warmup_steps),
    "probed_steps_per_second": round(1 / step_seconds, 3),
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(setup.shapes.params)),
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """What was generated, what it is compared with, and the figures."""

  metrics: dict[str, Any]
  prompts: Sequence[Prompt]
  generated: Generation
  untrained: Generation
  real: Sequence[np.ndarray]  # one held-out clip of the prompt's instrument for each shown prompt


def judge(demo: Demo, pipeline: Pipeline, clips: Sequence[Clip], folder: Path) -> Judged:
  """Generates from held-out prompts, with the trained and an untrained cascade, and compares."""
  prompts = demo.corpus.held_out_prompts(demo.judged, seed=demo.seed)
  texts = [prompt.text for prompt in prompts]
  request = {"duration": demo.clip_seconds, "seed": demo.seed, "batch_size": 16}
  generated = pipeline.generate(texts, **request)
  untrained = dataclasses.replace(pipeline, params=_fresh_params(pipeline, demo.seed)).generate(
    texts, **request
  )
  train = [clip for clip in clips if clip.split == "train"][: demo.reference]
  held_out = [clip for clip in clips if clip.split == "test"][: demo.judged]
  labels = [prompt.instrument for prompt in prompts]
  rate = generated.sample_rate_hz
  real_held_out = real_audio_of(held_out, folder, rate, demo.clip_seconds)
  metrics = learned_and_listens(
    real_train=real_audio_of(train, folder, rate, demo.clip_seconds),
    real_held_out=real_held_out,
    generated=LabelledAudio(audio=generated.audio, sample_rate_hz=rate, labels=labels),
    untrained=LabelledAudio(audio=untrained.audio, sample_rate_hz=rate, labels=labels),
    seed=demo.seed,
  )
  real = {clip.extra["instrument"]: clip for clip in clips if clip.split == "test"}
  shown = [real[prompt.instrument] for prompt in prompts[: demo.shown]]
  real_audio = real_audio_of(shown, folder, rate, demo.clip_seconds).audio
  metrics["sound"] = {
    "generated": _sound(generated.audio),
    "untrained": _sound(untrained.audio),
    "real_held_out": _sound(real_held_out.audio),
  }
  return Judged(
    metrics=metrics, prompts=prompts, generated=generated, untrained=untrained, real=real_audio
  )


def _fresh_params(pipeline: Pipeline, seed: int) -> tuple[Any, ...]:
  """The same cascade before its first step."""
  out = []
  for objective in pipeline.cascade.objectives:
    text = objective.stage.text
    spec = BatchSpec(
      batch_size=1,
      seconds=objective.stage.train_seconds,
      sample_rate_hz=objective.sample_rate_hz,
      token_length=text.token_length if text is not None else 1,
    )
    out.append(unbox(jax.jit(objective.init)(jax.random.key(seed), spec.zeros())))
  return tuple(out)


def real_audio_of(clips: Sequence[Clip], folder: Path, rate: int, seconds: float) -> LabelledAudio:
  audio = [
    read_audio(folder / clip.path, sample_rate_hz=rate, seconds=seconds)[0][: round(seconds * rate)]
    for clip in clips
  ]
  return LabelledAudio(
    audio=np.stack(audio),
    sample_rate_hz=rate,
    labels=[clip.extra["instrument"] for clip in clips],
  )


def _sound(audio: np.ndarray) -> dict[str, Any]:
  checks = [sound_check(clip) for clip in audio]
  names = ("silent", "clipped", "noise")
  return {
    "rms_db": float(np.median([check.rms_db for check in checks])),
    "flatness": float(np.median([check.flatness for check in checks])),
    **{f"{name}_clips": sum(name in check.problems for check in checks) for name in names},
    "n_clips": len(checks),
  }


if __name__ == "__main__":
  from launch import demo  # under the name by which gin files know it

  sys.exit(gin_main.run(demo.main))
