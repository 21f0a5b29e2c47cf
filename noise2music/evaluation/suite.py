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
from noise2music.evaluation.divergence import Divergence
from noise2music.evaluation.embedders.stored import Stored
from noise2music.evaluation.embeddings import Embedded, Embeddings, Encoder, File, Say, embed_files
from noise2music.evaluation.evaluator import Setting
from noise2music.evaluation.frechet import ByClips, Infinity
from noise2music.evaluation.protocols import Protocol
from noise2music.evaluation.scores import Score
from noise2music.evaluation.similarity import cosines, rank_agreement

MOST_NOISE = 200  # clips behind a floor
NOISE_RMS = 0.1
_AT_ONCE = 32
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

  encoders: each of a name of its own. folder: where embeddings are kept. generated_seconds: that
  were asked for, where clips were generated. kl: names of encoders whose vectors are logits, and
  divergence: how pairs of those are compared. labelled_by: fingerprints of encoders that labelled
  the music that the model was trained on. The rest is as in `Setting`.
  """

  encoders: Sequence[Encoder]
  protocol: Protocol
  folder: Path
  generated_seconds: float | None = None
  seed: int = 0
  rounds: int = 200
  infinity: Infinity = ByClips()
  kl: Collection[str] = ()
  divergence: Divergence = Divergence()
  labelled_by: Collection[str] = ()
  say: Say = lambda clips: None

  def __post_init__(self):
    names = [encoder.name for encoder in self.encoders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
      raise UserError(
        f"two encoders are called {twice}: give one another name, as other={twice}:..."
      )
    if unknown := set(self.kl) - set(names):
      raise UserError(
        f"no encoder is called {min(unknown)}, which KL is asked of: use one of {names}"
      )

  def setting(self, encoder: Encoder, *, prompted: bool) -> Setting:
    told = self.protocol.told(generated_seconds=self.generated_seconds, prompted=prompted)
    return Setting(
      encoder=encoder,
      protocol=told,
      seed=self.seed,
      rounds=self.rounds,
      infinity=self.infinity,
    )


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


def score_clips(
  evaluated: Clips, reference: Clips, suite: Suite, *, truth: Clips | None = None
) -> Result:
  """Scores one set against another.

  truth: the real clips of the evaluated ones, by their ids; may be the reference itself.

  Raises UserError where a set has fewer than two clips that can be read, EncoderError where an
  encoder is to blame.
  """
  sets = {"evaluated": evaluated, "reference": reference}
  if truth is not None and truth is not reference:
    sets["truth"] = truth
  for clips in sets.values():
    if len(clips.files) < 2:
      raise UserError(f"{clips.name} holds {len(clips.files)} clips: give at least 2 to score")
  scores, of_clips, failed = [], {}, {}
  for encoder in suite.encoders:
    of_sets = _within(encoder, sets)
    sides = {name: _embedded(of_sets[name], clips, suite) for name, clips in sets.items()}
    for name, side in sides.items():
      failed |= {f"{sets[name].name}/{clip}": why for clip, why in side.failed.items()}
    if truth is reference:
      sides["truth"] = sides["reference"]
    mine, values = _of_encoder(encoder, sets, sides, suite)
    scores += [_with_rates(score, list(sides.values())) for score in mine]
    of_clips |= {f"{metric} {encoder.name}": rows for metric, rows in values.items() if rows}
  scores = [_with_circularity(score, of_clips, suite) for score in scores]
  return Result(scores=tuple(scores), clips=of_clips, failed=failed)


def _within(encoder: Encoder, sets: Mapping[str, Clips]) -> dict[str, Encoder]:
  """For each set what embeds it: stored vectors are looked up by the set's name.

  Raises UserError where clips of two sets would be given the very same vectors.
  """
  if not isinstance(encoder, Stored):
    return dict.fromkeys(sets, encoder)
  found = {n: dataclasses.replace(encoder, within=clips.name) for n, clips in sets.items()}
  places: dict[str, str] = {}
  for name, clips in sets.items():
    for file in clips.files:
      place = found[name].place(file.id)
      if places.setdefault(place, file.path) != file.path:
        raise UserError(
          f"{file.path} and {places[place]} share the vectors of {place!r} in {encoder.path}: name"
          " clips there with their sets before them, as in"
          f" '{clips.name}/{file.id}'"
        )
  return found


def _of_encoder(
  encoder: Encoder,
  sets: Mapping[str, Clips],
  sides: Mapping[str, Embedded],
  suite: Suite,
) -> tuple[list[Score], dict[str, dict[str, float]]]:
  """(scores, {metric: {clip: value}})"""
  evaluated = sets["evaluated"]
  setting = suite.setting(encoder, prompted=bool(evaluated.texts))
  ours, theirs = sides["evaluated"].embeddings, sides["reference"].embeddings
  truth = sides["truth"].embeddings if "truth" in sides else None
  noise = _noise(encoder, ours, seed=suite.seed)
  name = f"{sets['reference'].name} {_fingerprint(theirs)}"
  scores, of_clips = [], {"fad": evaluator.frechet_of_clips(ours, theirs)}
  why = ()
  try:
    scores.append(evaluator.frechet(ours, theirs, setting, name=name, noise=noise))
  except UserError as error:
    why = (f"no FAD: {error}",)
  score = evaluator.kernel(ours, theirs, setting, name=name, noise=noise)
  scores.append(dataclasses.replace(score, warnings=(*score.warnings, *why)))
  if encoder.name in suite.kl:
    if truth is None:
      raise UserError("KL compares pairs: give clips whose real counterparts have the same names")
    measured = evaluator.divergence(
      ours, truth, setting, name=_named(truth), measure=suite.divergence
    )
    scores.append(measured)
  if hasattr(encoder, "embed_texts"):
    texts = _texts(encoder, evaluated, ours)
    if len(texts) > 1:
      scores.append(evaluator.similarity_to_text(ours, texts, setting, truth=truth))
      of_clips["similarity_text"] = _cosines(ours, texts)
    if truth is not None:
      scores.append(evaluator.similarity_to_audio(ours, truth, setting, name=_named(truth)))
      real = dict(zip(truth.ids, truth.vectors, strict=True))
      of_clips["similarity_audio"] = _cosines(ours, real)
  return scores, of_clips


def _named(truth: Embeddings) -> str:
  return f"ground truth {_fingerprint(truth)}"


def _embedded(encoder: Encoder, clips: Clips, suite: Suite) -> Embedded:
  found = embed_files(
    encoder,
    clips.files,
    folder=suite.folder / encoder.name,
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


def _noise(encoder: Encoder, ours: Embeddings, *, seed: int) -> Embeddings | None:
  """White noise in place of the clips, as long, at most 200; None for vectors made elsewhere."""
  if isinstance(encoder, Stored):
    return None
  some = list(zip(ours.ids, ours.seconds, strict=True))[:MOST_NOISE]

  def audio(name: str, seconds: float) -> np.ndarray:
    rng = np.random.default_rng([seed, *name.encode()])
    samples = max(round(seconds * encoder.sample_rate_hz), 1)
    return (NOISE_RMS * rng.standard_normal(samples)).astype(np.float32)

  rows = []
  for first in range(0, len(some), _AT_ONCE):
    part = some[first : first + _AT_ONCE]
    vectors = encoder.embed([audio(*one) for one in part])
    rows += [(name, v, float(s)) for (name, s), v in zip(part, vectors, strict=True)]
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
  line = "the encoder that labelled the training data scores here as well, and hears its own taste"
  told = _agreement(of_clips, own=score.encoder["name"])
  return dataclasses.replace(score, warnings=(*score.warnings, f"{line}: {told}"))


def _agreement(of_clips: Mapping[str, Mapping[str, float]], *, own: str) -> str:
  """By the same metric where both encoders have one, else by what they have."""
  by_encoder: dict[str, dict[str, Mapping[str, float]]] = {}
  for name, values in of_clips.items():
    metric, encoder = name.split(" ", 1)
    by_encoder.setdefault(encoder, {})[metric] = values
  mine = by_encoder.pop(own, {})
  if not mine:
    return "no metric of it is there clip by clip, so nothing can be held against it"
  if not by_encoder:
    return "no other encoder scores clip by clip, so nothing can be held against it"
  other, theirs = next(iter(by_encoder.items()))
  first = next((m for m in mine if m in theirs), next(iter(mine)))
  second = first if first in theirs else next(iter(theirs))
  shared = [clip for clip in mine[first] if clip in theirs[second]]
  if len(shared) < 3:
    return f"{other} shares {len(shared)} clips with it, too few to say more"
  # A clip's similarity rises and its distance falls with quality.
  signs = [-1 if metric.startswith("fad") else 1 for metric in (first, second)]
  columns = [(mine[first], signs[0]), (theirs[second], signs[1])]
  rho = rank_agreement(*(np.array([sign * side[c] for c in shared]) for side, sign in columns))
  return (
    f"its {first} and the {second} of {other} rank {len(shared)} clips alike by Spearman's rho"
    f" {rho:.2f}"
  )


def audio_files(folder: str | os.PathLike) -> list[File]:
  """The audio files of a folder and those below it, named by their path without suffix.

  Raises UserError where there is no such folder, it holds fewer than 2, or two of one name.
  """
  root = Path(folder)
  if not root.is_dir():
    raise UserError(f"there is no folder {folder}: give one that holds audio files")
  found: dict[str, Path] = {}
  for path in sorted(root.rglob("*")):
    place = path.relative_to(root)
    hidden = any(part.startswith(".") for part in place.parts)
    if hidden or path.suffix.lower() not in _SUFFIXES or not path.is_file():
      continue
    name = place.with_suffix("").as_posix()
    try:
      name.encode()
    except UnicodeEncodeError as error:
      raise UserError(f"{os.fsencode(path)!r} is no UTF-8 name: rename the file") from error
    if name in found:
      raise UserError(f"{found[name]} and {path} share a name: rename one")
    found[name] = path
  if len(found) < 2:
    raise UserError(f"{folder} holds {len(found)} audio files: give at least 2 to score")
  return [File(id=name, path=str(path)) for name, path in found.items()]
