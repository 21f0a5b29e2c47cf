"""Generates for a set of prompts, scores what came out, and writes figures, a table and a page.

Everything is kept on the way: clips by checkpoint and way of sampling, embeddings by encoder and
file. The same command again goes on where it stood, and makes only what is missing.
"""

import dataclasses
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from data_pipelines.manifest import atomic_text, manifest_path, read_manifest
from launch.evaluation_report import memorisation_of, memorisation_section, write_page
from noise2music import __version__
from noise2music.audio.wav_io import probe, write_audio
from noise2music.checkpoints import leaves
from noise2music.errors import UserError
from noise2music.evaluation.embeddings import Encoder, File
from noise2music.evaluation.evaluation_page import MemorisationSection
from noise2music.evaluation.protocols import Protocol, protocol_of
from noise2music.evaluation.suite import Clips, Result, Suite, audio_files, score_clips
from noise2music.evaluation.sweeps import AsTrained, Sweep, Variant
from noise2music.pipeline import Pipeline, override
from noise2music.stages.spec import Sampling

SCORES, TABLE, PAGE, HISTORY = "scores.json", "table.txt", "report.html", "history.jsonl"
GENERATED, EMBEDDINGS = "generated", "embeddings"
Load = Callable[[str], Encoder]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
  """What is asked for and how it is scored.

  prompts: a manifest of real clips with captions, which are the ground truth as well, or a text
  file with a prompt a line. out: folder. encoders: as `load_audio_encoder` takes them. reference: a
  manifest, or a folder of audio, to measure distances from; the ground truth where None. protocol:
  its name. clips: so many of the prompts, always the same; all where None. duration: in place of
  the protocol's, in seconds. trained_on: manifests of the training data, to tell whose labels it
  has. host_index, host_count: each of several hosts, which share a disk, generates its part; host 0
  scores when all is there.
  """

  prompts: str
  out: str
  encoders: tuple[str, ...] = ("log_mel",)
  reference: str | None = None
  protocol: str = "folder"
  sweep: Sweep = AsTrained()
  clips: int | None = None
  duration: float | None = None
  batch_size: int = 4
  seed: int = 0
  rounds: int = 200
  trained_on: tuple[str, ...] = ()
  host_index: int = 0
  host_count: int = 1

  def __post_init__(self):
    protocol_of(self.protocol)
    if not self.encoders:
      raise UserError("no encoder is named: give at least one, such as log_mel")
    if not 0 <= self.host_index < self.host_count:
      raise UserError(f"host {self.host_index} of {self.host_count} is none: count from 0")
    if self.clips is not None and self.clips < 2:
      raise UserError(f"{self.clips} clips are too few to score: give at least 2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompted:
  """What to generate. truth: the real clip, where there is one."""

  id: str
  text: str
  truth: Path | None = None


def evaluate(
  evaluation: Evaluation, pipeline: Pipeline, *, load: Load, say: Callable[[str], None] = print
) -> dict[str, Any] | None:
  """Does all that the module says; returns what scores.json holds, None on hosts other than 0."""
  out, protocol = Path(evaluation.out), protocol_of(evaluation.protocol)
  prompts = read_prompts(evaluation)
  encoders = [load(name) for name in evaluation.encoders]  # what cannot run is refused before work
  reference, truth = _reference(evaluation, prompts)
  variants = evaluation.sweep.variants()
  began, folders = time.monotonic(), {}
  for variant in variants:
    folders[variant.name] = generate(evaluation, pipeline, prompts, variant, say=say)
  if evaluation.host_index:
    say(f"host {evaluation.host_index} has made its part; host 0 scores")
    return None
  paths = {name: _wait_for(folder, prompts, say=say) for name, folder in folders.items()}
  results = []
  for variant in variants:
    files = [
      File(id=p.id, path=str(path)) for p, path in zip(prompts, paths[variant.name], strict=True)
    ]
    clips = Clips(name=variant.name, files=files, texts={p.id: p.text for p in prompts})
    suite = Suite(
      encoders=encoders,
      protocol=protocol,
      folder=out / EMBEDDINGS,
      seed=evaluation.seed,
      rounds=evaluation.rounds,
      truth=truth,
      labelled_by=label_encoders(evaluation.trained_on),
      say=Progress(f"embedding {variant.name}", say=say),
    )
    say(f"scoring {variant.name}: {len(files)} clips, {len(encoders)} encoders")
    results.append((clips, score_clips(clips, reference, suite)))
  record = {
    "provenance": provenance(evaluation, pipeline, minutes=(time.monotonic() - began) / 60),
    "prompts": {p.id: p.text for p in prompts},
    "truth": {p.id: str(p.truth) for p in prompts if p.truth is not None},
    "variants": [
      {**result_of(clips, result), **_of_variant(variant)}
      for variant, (clips, result) in zip(variants, results, strict=True)
    ],
  }
  write_results(out, record, memorisation=_memorisation(evaluation, results[0][0], encoders, say))
  return record


def _memorisation(
  evaluation: Evaluation,
  generated: Clips,
  encoders: Sequence[Encoder],
  say: Callable[[str], None],
) -> MemorisationSection | None:
  """None where the training data or clips that were held out of it are not known."""
  held_out = [
    File(id=p.id, path=str(p.truth)) for p in read_prompts(evaluation) if p.truth is not None
  ]
  if not evaluation.trained_on or not held_out:
    return None
  training = [file for path in evaluation.trained_on for file in trained_files(path)]
  say(f"looking for what repeats any of {len(training)} training clips")
  result = memorisation_of(
    generated.files,
    held_out=held_out,
    training=training,
    encoder=encoders[0],
    folder=Path(evaluation.out) / EMBEDDINGS / "memorisation",
    say=Progress("embedding", say=say),
  )
  return memorisation_section(result, generated=generated.files, training=training)


def trained_files(manifest: str) -> list[File]:
  """The clips of the split that trains."""
  path = manifest_path(manifest)
  clips = (clip for clip in read_manifest(path) if clip.split in (None, "", "train"))
  return [File(id=clip.id, path=str(clip.audio_path(path.parent))) for clip in clips]


def read_prompts(evaluation: Evaluation) -> list[Prompted]:
  """Sorted by id. Raises UserError where there is no prompt."""
  path = Path(evaluation.prompts)
  if path.suffix == ".txt":
    found = list(_of_lines(path))
  else:
    manifest = manifest_path(path)
    found = list(_of_manifest(manifest, protocol_of(evaluation.protocol)))
  if len(found) < 2:
    raise UserError(
      f"{path} holds {len(found)} prompts for the protocol {evaluation.protocol}: give at least 2"
    )
  if evaluation.clips is not None:
    found = sorted(found, key=lambda p: _hash(evaluation.seed, p.id))[: evaluation.clips]
  return sorted(found, key=lambda p: p.id)


def _of_lines(path: Path) -> Iterable[Prompted]:
  try:
    lines = path.read_text(encoding="utf-8").splitlines()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(f"cannot read the prompts in {path} ({error}): check the path") from error
  for number, line in enumerate(lines):
    if line.strip():
      yield Prompted(id=f"{number:05d}", text=line.strip())


def _of_manifest(manifest: Path, protocol: Protocol) -> Iterable[Prompted]:
  for clip in read_manifest(manifest):
    text = protocol.prompt((c.kind, c.source, c.text) for c in clip.captions)
    if text is not None:
      yield Prompted(id=clip.id, text=text, truth=clip.audio_path(manifest.parent))


def _reference(evaluation: Evaluation, prompts: Sequence[Prompted]) -> tuple[Clips, bool]:
  """(the clips to measure from, whether they are the ground truth of the prompts)"""
  if evaluation.reference is None:
    files = [File(id=p.id, path=str(p.truth)) for p in prompts if p.truth is not None]
    if len(files) < 2:
      raise UserError(
        f"{evaluation.prompts} names no real clips: give a reference, a folder of audio or a"
        " manifest"
      )
    return Clips(name="ground_truth", files=files), True
  return reference_clips(evaluation.reference), False


def reference_clips(path: str) -> Clips:
  """Of a manifest, or of a folder of audio files."""
  where = Path(path)
  if where.suffix == ".jsonl" or (where / "manifest.jsonl").is_file():
    manifest = manifest_path(where)
    files = [
      File(id=clip.id, path=str(clip.audio_path(manifest.parent)))
      for clip in read_manifest(manifest)
    ]
    return Clips(name=manifest.parent.name or "reference", files=files)
  return Clips(name=where.resolve().name, files=audio_files(where))


def generate(
  evaluation: Evaluation,
  pipeline: Pipeline,
  prompts: Sequence[Prompted],
  variant: Variant,
  *,
  say: Callable[[str], None],
) -> Path:
  """Makes this host's part of the clips that are not there; returns their folder.

  A clip's seed hangs on its id, and batches are filled up, so that it is the same whoever makes it.
  """
  sampling = samplings(pipeline, variant)
  duration = evaluation.duration or protocol_of(evaluation.protocol).generated_seconds
  made_with = (_weights(pipeline), sorted(sampling.items()), duration, evaluation.seed)
  name = f"{variant.name}-{hashlib.sha256(repr(made_with).encode()).hexdigest()[:10]}"
  folder = Path(evaluation.out) / GENERATED / name
  folder.mkdir(parents=True, exist_ok=True)
  size = evaluation.batch_size
  batches = [prompts[k : k + size] for k in range(0, len(prompts), size)]
  mine = batches[evaluation.host_index :: evaluation.host_count]
  waiting = [batch for batch in mine if any(not _there(folder, p) for p in batch)]
  progress = Progress(f"generating {variant.name}", total=sum(map(len, waiting)), say=say)
  for batch in waiting:
    filled = [*batch, *[batch[-1]] * (size - len(batch))]
    music = pipeline.generate(
      [p.text for p in filled],
      duration=duration,
      seed=[_hash(evaluation.seed, p.id) for p in filled],
      batch_size=size,
      sampling=sampling,
    )
    for prompted, audio in zip(batch, music.audio[: len(batch)], strict=True):
      write_audio(_path(folder, prompted), audio, sample_rate_hz=music.sample_rate_hz)
    progress(len(batch))
  return folder


def samplings(pipeline: Pipeline, variant: Variant) -> dict[str, Sampling]:
  """Of each stage, in this variant. Raises UserError where it names a stage that is not there."""
  stages = {stage.name: stage for stage in pipeline.cascade.stages}
  if variant.stage is not None and variant.stage not in stages:
    raise UserError(f"the sweep names the stage {variant.stage}: use one of {', '.join(stages)}")
  out = {}
  for name, stage in stages.items():
    out[name] = stage.sampling
    if variant.stage in (None, name):
      out[name] = override(stage, steps=variant.steps, cfg_scale=variant.cfg_scale)
      if variant.time_steps is not None:
        out[name] = dataclasses.replace(out[name], time_steps=variant.time_steps)
      stage.check_sampling(out[name])
  return out


def label_encoders(manifests: Iterable[str]) -> frozenset[str]:
  """Fingerprints of the encoders that gave clips their labels."""
  return frozenset(
    caption.extra["encoder"]
    for path in manifests
    for clip in read_manifest(manifest_path(path))
    for caption in clip.captions
    if "encoder" in caption.extra
  )


def provenance(evaluation: Evaluation, pipeline: Pipeline, *, minutes: float) -> dict[str, Any]:
  stages = zip(pipeline.cascade.stages, pipeline.params, strict=True)
  return {
    "evaluation": {
      name: value
      for name, value in dataclasses.asdict(evaluation).items()
      if name not in ("sweep", "host_index", "host_count")
    },
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
  told = {} if memorisation is None else {"memorisation": memorisation.result.to_json()}
  with atomic_text(out / SCORES) as file:
    json.dump({**record, **told}, file, indent=1, ensure_ascii=False)
  with atomic_text(out / TABLE) as file:
    file.write(table(record) + "\n")
  write_page(out / PAGE, record, memorisation=memorisation)


def write_history(out: Path, step: int, values: Mapping[str, float]) -> None:
  """Adds a checkpoint's values to history.jsonl, in place of older ones of the same step."""
  path = out / HISTORY
  lines = path.read_text().splitlines() if path.is_file() else []
  rows = {row["step"]: row for row in map(json.loads, lines)}
  rows[step] = {"step": step, **values}
  with atomic_text(path) as file:
    file.writelines(json.dumps(rows[step]) + "\n" for step in sorted(rows))


def table(record: Mapping[str, Any]) -> str:
  """A row for each way of sampling, a column for each metric, as in the paper's Tables 5 and 6."""
  metrics = list(
    dict.fromkeys(s["metric"] for variant in record["variants"] for s in variant["scores"])
  )
  rows = [["", *metrics]]
  for variant in record["variants"]:
    values = {score["metric"]: score for score in variant["scores"]}
    rows.append([variant["name"], *(_cell(values.get(metric)) for metric in metrics)])
  for anchor in ("ceiling", "floor"):
    values = {s["metric"]: s[anchor] for s in record["variants"][0]["scores"]}
    rows.append([anchor, *(_cell(values.get(metric)) for metric in metrics)])
  widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
  lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
  warned: dict[str, dict[str, None]] = {}
  for score in (score for variant in record["variants"] for score in variant["scores"]):
    for line in score["warnings"]:
      warned.setdefault(line, {})[score["metric"]] = None
  lines += [f"warning: {', '.join(metrics)}: {line}" for line, metrics in warned.items()]
  return "\n".join(lines)


def _cell(score: Mapping[str, Any] | None) -> str:
  if score is None:
    return "-"
  interval = score["interval_95"]
  told = "" if interval is None else f" ({interval[0]:.3g} to {interval[1]:.3g})"
  return f"{score['value']:.3g}{told}, n {score['n']}"


def _of_variant(variant: Variant) -> dict[str, Any]:
  names = ("name", "series", "axis", "x", "stage", "steps", "cfg_scale")
  return {name: getattr(variant, name) for name in names}


def _weights(pipeline: Pipeline) -> list[str]:
  return [f"{leaves.fingerprint(params):08x}" for params in pipeline.params]


def _wait_for(
  folder: Path, prompts: Sequence[Prompted], *, say: Callable[[str], None]
) -> list[Path]:
  """The paths of all clips, when other hosts have made theirs."""
  told = None
  while missing := [p for p in prompts if not _path(folder, p).is_file()]:
    if told != len(missing):
      say(f"waiting for {len(missing)} clips of other hosts in {folder}")
      told = len(missing)
    time.sleep(2)
  return [_path(folder, p) for p in prompts]


def _there(folder: Path, prompted: Prompted) -> bool:
  """Whether the clip was finished; what was killed while it was written is not there at all."""
  path = _path(folder, prompted)
  try:
    return path.is_file() and probe(path).frames > 0
  except UserError:
    return False


def _path(folder: Path, prompted: Prompted) -> Path:
  name = re.sub(r"[^\w.@-]", "_", prompted.id)
  if name != prompted.id:
    name += "-" + hashlib.sha256(prompted.id.encode()).hexdigest()[:8]
  return folder / f"{name}.flac"


def _hash(seed: int, name: str) -> int:
  digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
  return int.from_bytes(digest[:4], "big") >> 1


class Progress:
  """A line every ten seconds, with an honest time to go where the total is known."""

  def __init__(self, what: str, *, total: int = 0, say: Callable[[str], None]):
    self._what, self._total, self._say = what, total, say
    self._done, self._began = 0, time.monotonic()
    self._last = self._began

  def __call__(self, clips: int) -> None:
    self._done += clips
    now = time.monotonic()
    if now - self._last < 10 and self._done != self._total:
      return
    self._last = now
    of = f" of {self._total}" if self._total else ""
    left = (self._total - self._done) * (now - self._began) / self._done
    to_go = f", {left / 60:.1f} min to go" if self._total else ""
    self._say(f"{self._what}: {self._done}{of} clips{to_go}")


def read_results(path: str | Path) -> dict[str, Any]:
  """Of `write_results`. Raises UserError for a file that is none."""
  path = Path(path)
  path = path / SCORES if path.is_dir() else path
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
    _ = [variant["scores"] for variant in record["variants"]]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} holds no scores ({error}): give a {SCORES} or its folder") from error
  return record


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
