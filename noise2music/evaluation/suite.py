"""All scores of one set of clips, from files: what `n2m evaluate` does for each set."""

import dataclasses
import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio.wav_io import AUDIO_SUFFIXES
from noise2music.errors import UserError
from noise2music.evaluation import evaluator
from noise2music.evaluation.embedders.stored import Stored
from noise2music.evaluation.embeddings import Embedded, Embeddings, Encoder, File, Say, embed_files
from noise2music.evaluation.evaluator import Setting
from noise2music.evaluation.protocols import Protocol
from noise2music.evaluation.scores import Score
from noise2music.evaluation.similarity import cosines, rank_agreement

MOST_NOISE = 200  # clips behind a floor
NOISE_RMS = 0.1
_SUFFIXES = (*AUDIO_SUFFIXES, ".aiff", ".aif")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clips:
  """name: of the set, in results. files: with ids; texts: id -> prompt, for those that have one."""

  name: str
  files: Sequence[File]
  texts: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
  """How sets are scored.

  folder: where embeddings are kept. truth: whether clips of the reference are the real ones of the
  evaluated clips of the same id. labelled_by: fingerprints of encoders that labelled the music that
  the model was trained on.
  """

  encoders: Sequence[Encoder]
  protocol: Protocol
  folder: Path
  seed: int = 0
  rounds: int = 200
  truth: bool = False
  labelled_by: Collection[str] = ()
  say: Say = lambda clips: None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
  """scores: of all encoders. clips: {metric: {id: value}}, what single clips have, to find outliers
  by. failed: id -> why it could not be scored."""

  scores: tuple[Score, ...]
  clips: Mapping[str, Mapping[str, float]]
  failed: Mapping[str, str]

  def to_json(self) -> dict[str, Any]:
    return {
      "scores": [score.to_json() for score in self.scores],
      "clips": self.clips,
      "failed": self.failed,
    }


def score_clips(evaluated: Clips, reference: Clips, suite: Suite) -> Result:
  """Scores one set against another.

  Raises UserError where a set has fewer than two clips that can be read, or no metric applies.
  """
  for clips in (evaluated, reference):
    if len(clips.files) < 2:
      raise UserError(f"{clips.name} holds {len(clips.files)} clips: give at least 2 to score")
  scores, of_clips, failed = [], {}, {}
  for encoder in suite.encoders:
    sides = [
      _embedded(encoder, clips, suite, where=where)
      for clips, where in ((evaluated, "evaluated"), (reference, "reference"))
    ]
    for clips, side in zip((evaluated, reference), sides, strict=True):
      failed |= {f"{clips.name}/{name}": why for name, why in side.failed.items()}
    noise = _noise(encoder, evaluated, sides[0].embeddings, suite)
    mine, values = _of_encoder(encoder, evaluated, reference, sides, noise, suite)
    scores += [_with_rates(score, sides) for score in mine]
    of_clips |= values
  scores = [_with_circularity(score, of_clips, suite) for score in scores]
  return Result(scores=tuple(scores), clips=of_clips, failed=failed)


def _of_encoder(
  encoder: Encoder,
  evaluated: Clips,
  reference: Clips,
  sides: Sequence[Embedded],
  noise: Embeddings | None,
  suite: Suite,
) -> tuple[list[Score], dict[str, dict[str, float]]]:
  setting = Setting(
    encoder=encoder, protocol=str(suite.protocol), seed=suite.seed, rounds=suite.rounds
  )
  ours, theirs = (side.embeddings for side in sides)
  name = f"{reference.name} {_fingerprint(theirs)}"
  scores, of_clips = [], {}
  why = None
  try:
    scores.append(evaluator.frechet(ours, theirs, setting, name=name, noise=noise))
    of_clips[f"fad_{encoder.name}"] = evaluator.frechet_of_clips(ours, theirs)
  except UserError as error:
    why = f"no FAD: {error}"
  score = evaluator.kernel(ours, theirs, setting, name=name, noise=noise)
  scores.append(score if why is None else dataclasses.replace(score, warnings=(why,)))
  if hasattr(encoder, "embed_texts"):
    texts = _texts(encoder, evaluated, ours)
    if len(texts) > 1:
      truth = theirs if suite.truth else None
      scores.append(evaluator.similarity_to_text(ours, texts, setting, truth=truth))
      of_clips["similarity_text"] = _cosines(ours, texts)
    if suite.truth:
      scores.append(evaluator.similarity_to_audio(ours, theirs, setting, name=name))
      real = dict(zip(theirs.ids, theirs.vectors, strict=True))
      of_clips["similarity_audio"] = _cosines(ours, real)
  return scores, {f"{key} {encoder.name}": value for key, value in of_clips.items() if value}


def _embedded(encoder: Encoder, clips: Clips, suite: Suite, *, where: str) -> Embedded:
  found = embed_files(
    encoder,
    clips.files,
    folder=suite.folder / encoder.name / where / clips.name,
    scored=suite.protocol.scored,
    say=suite.say,
  )
  if len(found.embeddings) < 2:
    why = next(iter(found.failed.items()), ("", "there are none"))
    raise UserError(
      f"{len(found.embeddings)} of {len(clips.files)} clips of {clips.name} can be scored, for"
      f" example {why[0]}: {why[1]}"
    )
  return found


def _noise(encoder: Encoder, evaluated: Clips, ours: Embeddings, suite: Suite) -> Embeddings | None:
  """White noise in place of the clips, as many and as long; None where vectors were made before."""
  if isinstance(encoder, Stored):
    return None
  rows = []
  for name, seconds in list(zip(ours.ids, ours.seconds, strict=True))[:MOST_NOISE]:
    seed = [suite.seed, *name.encode()]
    samples = max(round(seconds * encoder.sample_rate_hz), 1)
    audio = NOISE_RMS * np.random.default_rng(seed).standard_normal(samples)
    rows.append((name, encoder.embed([audio.astype(np.float32)])[0], float(seconds)))
  return Embeddings.of(rows, width=encoder.width)


def _texts(encoder: Any, clips: Clips, ours: Embeddings) -> dict[str, np.ndarray]:
  """The vectors of the prompts of clips that were embedded; equal prompts are embedded once."""
  wanted = {name: clips.texts[name] for name in ours.ids if name in clips.texts}
  distinct = sorted(set(wanted.values()))
  vectors = dict(zip(distinct, encoder.embed_texts(distinct), strict=True)) if distinct else {}
  return {name: vectors[text] for name, text in wanted.items()}


def _cosines(ours: Embeddings, others: Mapping[str, np.ndarray]) -> dict[str, float]:
  rows = [(n, v, others[n]) for n, v in zip(ours.ids, ours.vectors, strict=True) if n in others]
  if not rows:
    return {}
  names, a, b = zip(*rows, strict=True)
  return dict(zip(names, cosines(np.stack(a), np.stack(b)).tolist(), strict=True))


def _fingerprint(some: Embeddings) -> str:
  return hashlib.sha256(some.vectors.tobytes() + repr(some.ids).encode()).hexdigest()[:12]


def _with_rates(score: Score, sides: Sequence[Embedded]) -> Score:
  rates = sorted({rate for side in sides for rate in side.rates})
  said, own = [], score.encoder["sample_rate_hz"]
  if own and len(rates) > 1 and rates[0] < own:
    listed = ", ".join(f"{rate:,}" for rate in rates)
    said.append(
      f"files of {listed} Hz were compared: what lies above the lowest rate's band tells the sides"
      " apart, music or not"
    )
  lost = sum(len(side.failed) for side in sides)
  if lost:
    said.append(f"{lost} clips could not be scored and are left out")
  return dataclasses.replace(score, warnings=(*score.warnings, *said))


def _with_circularity(
  score: Score, of_clips: Mapping[str, Mapping[str, float]], suite: Suite
) -> Score:
  """Says so where the encoder of a score also labelled what the model was trained on."""
  if score.encoder["fingerprint"] not in suite.labelled_by:
    return score
  own, others = score.encoder["name"], {}
  for name, values in of_clips.items():
    metric, encoder = name.rsplit(" ", 1)
    # A clip's similarity rises and its distance falls with quality.
    sign = -1 if metric.startswith("fad") else 1
    others.setdefault(encoder, {clip: sign * value for clip, value in values.items()})
  agreement = _agreement(others, own=own)
  line = (
    "the encoder that labelled the training data scores here as well, and hears its own taste: "
  )
  line += agreement or "score with a second encoder besides"
  return dataclasses.replace(score, warnings=(*score.warnings, line))


def _agreement(of_encoders: Mapping[str, Mapping[str, float]], *, own: str) -> str | None:
  mine = of_encoders.get(own)
  for other, theirs in of_encoders.items():
    shared = [] if other == own or mine is None else [clip for clip in mine if clip in theirs]
    if len(shared) > 2:
      rho = rank_agreement(*(np.array([side[c] for c in shared]) for side in (mine, theirs)))
      return f"its ranks of {len(shared)} clips agree with those of {other} by rho {rho:.2f}"
  return None


def audio_files(folder: str | os.PathLike) -> list[File]:
  """The audio files of a folder and those below it, named by their path without suffix.

  Raises UserError where there is no such folder, it holds fewer than 2, or two of one name.
  """
  root = Path(folder)
  if not root.is_dir():
    raise UserError(f"there is no folder {folder}: give one that holds audio files")
  found: dict[str, Path] = {}
  for path in sorted(root.rglob("*")):
    if path.suffix.lower() not in _SUFFIXES or path.name.startswith("."):
      continue
    name = path.relative_to(root).with_suffix("").as_posix()
    if name in found:
      raise UserError(f"{found[name]} and {path} share a name: rename one")
    found[name] = path
  if len(found) < 2:
    raise UserError(f"{folder} holds {len(found)} audio files: give at least 2 to score")
  return [File(id=name, path=str(path)) for name, path in found.items()]
