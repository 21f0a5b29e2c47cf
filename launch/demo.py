"""The whole road in front of your eyes: render music, train a cascade on it, listen to it.

  python -m launch.demo --minutes=15 --out=runs/demo

Renders the score corpus, trains the stages with the same `python -m launch.train` that trains
anything else, generates clips from prompts that were not in training, and writes report.html and
metrics.json. Stopped at any moment and started again, it goes on from where it was.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from data_pipelines.datasets.score_corpus.corpus import Prompt, ScoreCorpus
from data_pipelines.manifest import Clip, read_manifest
from launch import gin_main
from launch.demo_report import write_demo_report
from noise2music.audio.wav_io import read_audio
from noise2music.batch import BatchSpec
from noise2music.config import gin_utils
from noise2music.errors import UserError
from noise2music.evaluation.protocols import LabelledAudio, learned_and_listens
from noise2music.evaluation.sound_check import sound_check
from noise2music.pipeline import Generation, Pipeline
from noise2music.sharding.rules import unbox
from noise2music.training import loop

Built = TypeVar("Built")
PROBE_STEPS = 8  # steps that are timed before a stage's length is fixed


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedStage:
  """One stage of the demo. share: of the training time. config: its run file."""

  name: str
  config: str
  share: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
  """What the demo makes. Bound by configs/runs/demo/demo.gin.

  shown: clips in the report. judged: clips behind the figures. judging_share: of the whole time
  that is kept for generating and judging. clip_seconds: length of generated clips. reference:
  real training clips that figures are measured from.
  """

  corpus: ScoreCorpus
  stages: tuple[TrainedStage, ...]
  shown: int = 8
  judged: int = 48
  reference: int = 400
  clip_seconds: float = 4.0
  judging_share: float = 0.15
  seed: int = 0


def main(argv: Sequence[str]) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawTextHelpFormatter
  )
  parser.add_argument(
    "--minutes", type=float, default=15.0, help="for everything; 15 where left out"
  )
  parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of all results")
  args = parser.parse_args(argv)
  gin_main.use_compilation_cache()
  make_demo(minutes=args.minutes, out=args.out)
  return 0


def make_demo(*, minutes: float, out: Path) -> None:
  """Does all that the module says. Raises UserError where the time is too short for anything."""
  if minutes < 2:
    raise UserError(f"{minutes:g} minutes are too short to train anything: say MINUTES=2 or more")
  started = time.monotonic()
  demo = _build(["configs/runs/demo/demo.gin"], [], Demo)
  out.mkdir(parents=True, exist_ok=True)
  _say(started, f"rendering {demo.corpus.hours:g} hours of music from scores")
  manifest = demo.corpus.render(out / "corpus", progress=_RenderProgress())
  clips = list(read_manifest(manifest))
  ends = started + 60 * minutes * (1 - demo.judging_share)
  lengths = _train_stages(demo, out=out, ends=ends, started=started)
  _say(started, "generating and judging")
  pipeline = Pipeline.from_pretrained(out)
  judged = judge(demo, pipeline, clips, manifest.parent)
  metrics = {
    **judged.metrics,
    "stages": lengths,
    "minutes": (time.monotonic() - started) / 60,
    "jax": jax.__version__,
  }
  write_demo_report(out, demo=demo, judged=judged, metrics=metrics)
  (out / "metrics.json").write_text(json.dumps(metrics, indent=1))
  _say(started, f"done: open {out / 'report.html'}; figures in {out / 'metrics.json'}")


def _build(files: list[str], bindings: list[str], constructor: type[Built]) -> Built:
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


def _train_stages(demo: Demo, *, out: Path, ends: float, started: float) -> dict[str, Any]:
  """Trains one stage after the other, each for its share of the time that is left."""
  lengths = {}
  for index, stage in enumerate(demo.stages):
    left = ends - time.monotonic()
    seconds = left * stage.share / sum(later.share for later in demo.stages[index:])
    folder = out / stage.name
    bindings = [f'MODEL_DIR = "{folder}"', f'DATA = "{out / "corpus"}"']
    steps = _steps_for(stage, bindings, seconds=seconds, plan=folder / "demo_plan.json")
    command = [sys.executable, "-m", "launch.train", f"--gin_file={stage.config}"]
    values = [*bindings, f"TRAIN_STEPS = {steps['steps']}"]
    command += [f"--gin.{value.replace(' = ', '=')}" for value in values]
    _say(started, f"training {stage.name}: {steps['steps']} steps\n  $ {' '.join(command[1:])}")
    code = subprocess.call(command)
    if code:
      raise KeyboardInterrupt if code == 130 else SystemExit(code)
    lengths[stage.name] = steps
  return lengths


def _steps_for(
  stage: TrainedStage, bindings: list[str], *, seconds: float, plan: Path
) -> dict[str, Any]:
  """How many steps fit into `seconds`, by timing a few; the answer is kept for a later resume."""
  if plan.exists():
    return json.loads(plan.read_text())
  began = time.monotonic()
  training = _build([stage.config], [*bindings, "TRAIN_STEPS = 1000"], loop.Training)
  setup = loop.inspect(training)
  step = setup.compile()
  state = setup.fresh()
  compile_seconds = time.monotonic() - began
  batches = training.batches.batches()
  for index in range(PROBE_STEPS + 2):
    if index == 2:
      jax.block_until_ready(state)
      began = time.monotonic()
    with setup.activate():
      state, _ = step(state, setup.put(next(batches)))
  jax.block_until_ready(state)
  step_seconds = (time.monotonic() - began) / PROBE_STEPS
  steps = int((seconds - 2 * compile_seconds) / step_seconds)
  found = {
    "steps": max(steps, 20),
    "probed_steps_per_second": round(1 / step_seconds, 3),
    "parameters": sum(leaf.size for leaf in jax.tree.leaves(setup.shapes.params)),
  }
  plan.parent.mkdir(parents=True, exist_ok=True)
  plan.write_text(json.dumps(found))
  return found


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
  metrics = learned_and_listens(
    real_train=_real(train, folder, rate, demo.clip_seconds),
    real_held_out=_real(held_out, folder, rate, demo.clip_seconds),
    generated=LabelledAudio(audio=generated.audio, sample_rate_hz=rate, labels=labels),
    untrained=LabelledAudio(audio=untrained.audio, sample_rate_hz=rate, labels=labels),
    seed=demo.seed,
  )
  real = {clip.extra["instrument"]: clip for clip in clips if clip.split == "test"}
  shown = [real.get(prompt.instrument, held_out[0]) for prompt in prompts[: demo.shown]]
  real_audio = _real(shown, folder, rate, demo.clip_seconds).audio
  metrics["sound"] = {
    "generated": _sound(generated.audio),
    "untrained": _sound(untrained.audio),
    "real_held_out": _sound(_real(held_out, folder, rate, demo.clip_seconds).audio),
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


def _real(clips: Sequence[Clip], folder: Path, rate: int, seconds: float) -> LabelledAudio:
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
  sys.exit(gin_main.run(main))
