"""Generates for a set of prompts, scores what came out, and writes figures, a table and a page.

Everything is kept on the way: clips by checkpoint and way of sampling, embeddings by encoder and
file. The same command again goes on where it stood, and makes only what is missing.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from data_pipelines.manifest import atomic_text, json_lines
from launch import label
from launch.evaluation_clips import (
  HELD_OUT,
  Generation,
  Progress,
  Prompted,
  label_encoders,
  read_prompts,
  reference_clips,
  trained_files,
)
from launch.evaluation_report import memorisation_of, memorisation_section, write_page
from noise2music import __version__
from noise2music.checkpoints import leaves
from noise2music.errors import UserError
from noise2music.evaluation.embedders.load import load_audio_encoder
from noise2music.evaluation.embeddings import Encoder, File
from noise2music.evaluation.evaluation_page import MemorisationSection
from noise2music.evaluation.frechet import ByClips, Infinity
from noise2music.evaluation.protocols import protocol_of
from noise2music.evaluation.scores import Score
from noise2music.evaluation.suite import Clips, Result, Suite, score_clips
from noise2music.evaluation.sweeps import AsTrained, Sweep
from noise2music.pipeline import Pipeline, make_output_folder

SCORES, TABLE, PAGE, HISTORY = "scores.json", "table.txt", "report.html", "history.jsonl"
GENERATED, EMBEDDINGS = "generated", "embeddings"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """What is asked for and how it is scored.

  prompts: a manifest of real clips with captions, which are the ground truth as well, or a text
  file with a prompt a line. out: folder. encoders: as `load_audio_encoder` takes them. reference: a
  manifest, or a folder of audio, to measure distances from; the ground truth where None. protocol:
  its name. split: of the manifests' clips, as `read_prompts` takes it. clips: so many of the
  prompts, always the same; all where None. duration: in place of the protocol's, in seconds. kl:
  names of encoders whose vectors are logits. trained_on: manifests of the training data, to tell
  whose labels it has. memorisation: whether to look for what repeats it. host_index, host_count:
  each of several hosts, which share a disk, generates its part; host 0 scores when all is there, or
  gives up where nothing comes for patience_minutes.
  """

  prompts: str
  out: str
  encoders: tuple[str, ...] = ("log_mel",)
  reference: str | None = None
  protocol: str = "folder"
  split: str = HELD_OUT
  sweep: Sweep = AsTrained()
  clips: int | None = None
  duration: float | None = None
  batch_size: int = 4
  seed: int = 0
  rounds: int = 200
  infinity: Infinity = ByClips()
  kl: tuple[str, ...] = ()
  trained_on: tuple[str, ...] = ()
  memorisation: bool = False
  host_index: int = 0
  host_count: int = 1
  patience_minutes: float = 60.0

  def __post_init__(self):
    protocol_of(self.protocol)
    for name in ("encoders", "kl", "trained_on"):
      if isinstance(getattr(self, name), str):
        raise UserError(f"{name} is one text, not a list of them: write it as ('...',)")
    for name in ("clips", "batch_size", "rounds", "seed"):
      if not isinstance(getattr(self, name), int | None):
        raise UserError(f"{name} is {getattr(self, name)!r}: give a whole number")
    if not self.encoders:
      raise UserError("no encoder is named: give at least one, such as log_mel")
    if not 0 <= self.host_index < self.host_count:
      raise UserError(f"host {self.host_index} of {self.host_count} is none: count from 0")
    if self.clips is not None and self.clips < 2:
      raise UserError(f"{self.clips} clips are too few to score: give at least 2")
    if self.batch_size < 1 or self.rounds < 2:
      raise UserError("an evaluation needs a batch size of at least 1 and at least 2 rounds")
    if self.duration is not None and not 0 < self.duration < math.inf:
      raise UserError(f"clips of {self.duration:g} s cannot be made: give seconds above 0")
    if self.memorisation and not self.trained_on:
      raise UserError("whether clips repeat the training data needs TRAINED_ON, its manifest")

  @property
  def asked_seconds(self) -> float | None:
    """Of a clip; as trained where None."""
    return self.duration or protocol_of(self.protocol).generated_seconds

  def read_prompts(self) -> list[Prompted]:
    return read_prompts(
      self.prompts,
      protocol=protocol_of(self.protocol),
      split=self.split,
      clips=self.clips,
      seed=self.seed,
    )

  def check_length(self) -> None:
    """Raises UserError where clips of the length asked for cannot be scored."""
    try:
      protocol_of(self.protocol).scored.span(self.asked_seconds)
    except UserError as error:
      raise UserError(f"a clip that was asked for {error}") from error


def evaluate(
  evaluation: Evaluation,
  pipeline: Pipeline,
  *,
  encoders: Sequence[Encoder],
  say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
  """Does all that the module says; returns what scores.json holds, None on hosts other than 0."""
  out, prompts, began = Path(evaluation.out), evaluation.read_prompts(), time.monotonic()
  make_output_folder(out / SCORES)
  if evaluation.asked_seconds is not None:
    evaluation.check_length()
  reference, truth = _compared_with(evaluation, prompts)
  suite = Suite(
    encoders=encoders,
    protocol=protocol_of(evaluation.protocol),
    folder=out / EMBEDDINGS,
    generated_seconds=evaluation.asked_seconds,
    seed=evaluation.seed,
    rounds=evaluation.rounds,
    infinity=evaluation.infinity,
    kl=evaluation.kl,
    labelled_by=label_encoders(evaluation.trained_on),
  )
  asked = {"duration": evaluation.asked_seconds, "seed": evaluation.seed}
  asked["batch_size"] = evaluation.batch_size
  generations = [
    Generation.of(variant, pipeline, out=out / GENERATED, **asked)
    for variant in evaluation.sweep.variants()
  ]
  host = (evaluation.host_index, evaluation.host_count)
  for generation in generations:
    generation.make(pipeline, prompts, host=host, say=say, **asked)
  if evaluation.host_index:
    say(f"host {evaluation.host_index} has made its part; host 0 scores")
    return None
  variants, sets = [], []
  for generation in generations:
    if evaluation.host_count > 1:
      generation.wait(prompts, minutes=evaluation.patience_minutes, say=say)
    sets.append(generation.clips(prompts))
    result = _scored(sets[-1], reference, truth, suite, say)
    variants.append(result_of(sets[-1], result) | _of_variant(generation))
  record = {
    "provenance": provenance(evaluation, pipeline, minutes=(time.monotonic() - began) / 60),
    "prompts": {p.id: p.text for p in prompts},
    "truth": {p.id: str(p.truth) for p in prompts if p.truth is not None},
    "variants": variants,
  }
  write_results(out, record)
  if evaluation.memorisation:
    section = _memorisation(evaluation, prompts, sets[0], encoders[0], say)
    if section is not None:
      record["memorisation"] = section.result.to_json()
      write_results(out, record, memorisation=section)
  return record


def _scored(
  clips: Clips, reference: Clips, truth: Clips | None, suite: Suite, say: Callable[[str], None]
) -> Result:
  """Says how far it is."""
  say(f"scoring {clips.name}: {len(clips.files)} clips, {len(suite.encoders)} encoder(s)")
  sides = {id(side): len(side.files) for side in (clips, reference, truth) if side is not None}
  total = len(suite.encoders) * sum(sides.values())
  progress = Progress(f"embedding for {clips.name}", total=total, say=say)
  return score_clips(clips, reference, dataclasses.replace(suite, say=progress), truth=truth)


def _compared_with(
  evaluation: Evaluation, prompts: Sequence[Prompted]
) -> tuple[Clips, Clips | None]:
  """(the clips to measure distances from, the real clips of the prompts)"""
  files = [File(id=p.id, path=str(p.truth)) for p in prompts if p.truth is not None]
  truth = Clips(name="ground_truth", files=files) if len(files) > 1 else None
  if evaluation.kl and truth is None:
    raise UserError(
      f"KL compares pairs, and {evaluation.prompts} names no real clips: leave KL out"
    )
  if evaluation.reference is not None:
    return reference_clips(evaluation.reference, split=evaluation.split), truth
  if truth is None:
    raise UserError(
      f"{evaluation.prompts} names no real clips: give a reference, a folder of audio or a manifest"
    )
  return truth, truth


def _memorisation(
  evaluation: Evaluation,
  prompts: Sequence[Prompted],
  generated: Clips,
  encoder: Encoder,
  say: Callable[[str], None],
) -> MemorisationSection | None:
  """None, with a sentence, where it cannot be told: the scores are there all the same."""
  training = [file for path in evaluation.trained_on for file in trained_files(path)]
  held_out = [File(id=p.id, path=str(p.truth)) for p in prompts if p.truth is not None]
  say(f"looking for what repeats any of {len(training)} training clips")
  try:
    result, left_out = memorisation_of(
      generated.files,
      held_out=held_out,
      training=training,
      encoder=encoder,
      folder=Path(evaluation.out) / EMBEDDINGS,
      say=Progress("embedding", say=say),
    )
  except UserError as error:
    say(f"warning: no memorisation: {error}")
    return None
  if left_out:
    say(f"warning: {len(left_out)} clips are left out of it, as {next(iter(left_out.items()))}")
  return memorisation_section(result, generated=generated.files, training=training)


def provenance(evaluation: Evaluation, pipeline: Pipeline, *, minutes: float) -> dict[str, Any]:
  stages = zip(pipeline.cascade.stages, pipeline.params, strict=True)
  left_out = ("sweep", "infinity", "host_index", "host_count", "patience_minutes")
  settings = {
    field.name: getattr(evaluation, field.name) for field in dataclasses.fields(evaluation)
  }
  return {
    "evaluation": {name: value for name, value in settings.items() if name not in left_out},
    "checkpoint": {stage.name: f"{leaves.fingerprint(params):08x}" for stage, params in stages},
    "versions": {"noise2music": __version__, "jax": jax.__version__},
    "device": jax.devices()[0].device_kind,
    "command": sys.argv,
    "minutes": round(minutes, 2),
  }


def write_results(
  out: Path, record: Mapping[str, Any], *, memorisation: MemorisationSection | None = None
) -> None:
  """scores.json, table.txt and report.html. Raises as `atomic_text`."""
  with atomic_text(out / SCORES) as file:
    json.dump(record, file, indent=1, ensure_ascii=False)
  with atomic_text(out / TABLE) as file:
    file.write(table(record) + "\n")
  write_page(out / PAGE, record, memorisation=memorisation)


def write_history(out: Path, steps: Mapping[str, int], values: Mapping[str, float]) -> None:
  """Adds a checkpoint's values to history.jsonl, in place of older ones of the same steps.

  steps: of each stage.
  """
  path = out / HISTORY
  rows = [row for _, row in json_lines(path)] if path.is_file() else []
  rows = [row for row in rows if isinstance(row, dict) and row.get("steps") != steps]
  with atomic_text(path) as file:
    file.writelines(json.dumps(row) + "\n" for row in [*rows, {"steps": dict(steps), **values}])


def table(record: Mapping[str, Any]) -> str:
  """A row for each way of sampling, a column for each metric, as in the paper's Tables 5 and 6."""
  variants = [_columns(variant["scores"]) for variant in record["variants"]]
  names = list(dict.fromkeys(name for columns in variants for name in columns))
  rows = [["", *names]]
  for variant, columns in zip(record["variants"], variants, strict=True):
    rows.append([variant["name"], *(_cell(columns.get(name)) for name in names)])
  first = variants[0]
  for anchor in ("ceiling", "floor"):
    rows.append([anchor, *(_cell(first[n][anchor] if n in first else None) for n in names)])
  widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
  lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
  for name, score in first.items():
    if "expected_bias" in score["details"]:
      far = score["details"].get("fad_infinity")
      told = f", extrapolated {far['value']:.3g} (r2 {far['r_squared']:.2f})" if far else ""
      bias = score["details"]["expected_bias"]
      lines.append(f"{name}: {bias:.3g} or more of it from the number of embeddings{told}")
  warned: dict[str, dict[str, None]] = {}
  for name, score in (pair for columns in variants for pair in columns.items()):
    for line in score["warnings"]:
      warned.setdefault(line, {})[name] = None
  return "\n".join(
    [*lines, *(f"warning: {', '.join(names)}: {line}" for line, names in warned.items())]
  )


def _columns(scores: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
  """By metric, and by encoder where several give one."""
  metrics = [score["metric"] for score in scores]
  names = [
    metric if metrics.count(metric) == 1 else f"{metric} {score['encoder']['name']}"
    for metric, score in zip(metrics, scores, strict=True)
  ]
  return dict(zip(names, scores, strict=True))


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
  """Values by metric, of the first variant, for a log."""
  return {n: s["value"] for n, s in _columns(record["variants"][0]["scores"]).items()}


def load_encoder(name: str) -> Encoder:
  """As `load_audio_encoder`, our own towers by `joint:FOLDER`."""
  return load_audio_encoder(name, load_joint=label.load_encoder)


def _cell(score: Mapping[str, Any] | None) -> str:
  if score is None:
    return "-"
  interval = score["interval_95"]
  told = "" if interval is None else f" ({interval[0]:.3g} to {interval[1]:.3g})"
  return f"{score['value']:.3g}{told}, n {score['n']}"


def _of_variant(generation: Generation) -> dict[str, Any]:
  names = ("name", "series", "axis", "x", "stage", "steps", "cfg_scale")
  record = {name: getattr(generation.variant, name) for name in names}
  return record | {"sampling": {name: repr(how) for name, how in generation.sampling.items()}}


def read_results(path: str | Path) -> dict[str, Any]:
  """Of `write_results`. Raises UserError for a file that is none."""
  path = Path(path)
  path = path / SCORES if path.is_dir() else path
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
    for variant in record["variants"]:
      _ = variant["name"], [(s["metric"], s["encoder"]["name"]) for s in variant["scores"]]
    _ = record["variants"][0]
  except (OSError, ValueError, LookupError, TypeError) as error:
    raise UserError(f"{path} holds no scores ({error}): give a {SCORES} or its folder") from error
  return record


def scores_of(
  record: Mapping[str, Any], variant: str | None = None
) -> dict[str, tuple[Score, Mapping[str, float]]]:
  """(score, {clip: value} where single clips have one) by metric, of a variant; the first where
  None. Raises UserError where there is no such variant."""
  names = [found["name"] for found in record["variants"]]
  if variant is not None and variant not in names:
    raise UserError(f"there is no variant {variant!r}: use one of {', '.join(names)}")
  found = record["variants"][names.index(variant) if variant is not None else 0]
  clips = found.get("clips", {})
  return {
    name: (
      Score.from_json(score),
      clips.get(f"{score['metric']} {score['encoder']['name']}", {}),
    )
    for name, score in _columns(found["scores"]).items()
  }


def result_of(clips: Clips, result: Result) -> dict[str, Any]:
  """The record of a set: its place in a sweep, where it has one, comes besides."""
  files = {file.id: file.path for file in clips.files}
  return {
    "name": clips.name,
    "series": "",
    "axis": "",
    "x": None,
    "files": files,
  } | result.to_json()
