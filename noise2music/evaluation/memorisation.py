"""Does the model repeat its training set? The check that the paper ran before a release.

Two steps. The vectors of an encoder give each generated clip its nearest training clips. Then the
sound decides: where a generated clip and a training clip agree over seconds (`alignment`).

Both numbers mean nothing by themselves, as real music resembles music too: held-out real clips,
which the model cannot have copied from, say how near comes by chance. A threshold is what few of
them exceed, and says with an interval how few. Held-out clips whose recordings are in the training
set as well would raise it: take such duplicates out first.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluation.alignment import Aligner, Span
from noise2music.evaluation.proportions import Threshold, calibrate, wilson

# From a clip's id to its audio, float [samples] at the aligner's rate.
LoadClip = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSet:
  """ids: of the clips, each once. vectors: float [clips, width] of any length; may be a memmap.

  load: gives the audio of an id; called again whenever a clip is needed.
  """

  ids: Sequence[str]
  vectors: np.ndarray
  load: LoadClip

  def __post_init__(self):
    if self.vectors.ndim != 2 or len(self.vectors) != len(self.ids):
      raise UserError(
        f"{len(self.ids)} clips have vectors of shape {list(self.vectors.shape)}: give one each"
      )
    if len(set(self.ids)) != len(self.ids):
      raise UserError("a clip is there twice: give each id once")
    if not len(self.ids):
      raise UserError("memorisation is judged by clips: give at least one of each kind")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Neighbours:
  """The nearest training clips of each query, the nearest first.

  rows: int64 [queries, count] of the training set. similarity: float32 alike, the cosines.
  """

  rows: np.ndarray
  similarity: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
  """One clip and the training clip that it agrees with best.

  similarity: of its vector to the nearest training clip's, `nearest`. near: above the threshold of
  similarity. training: which of the candidates `span` was found in. matched: span.score is above
  the threshold of alignment: a reason to listen and no proof, as false alarms are among them.
  """

  clip: str
  nearest: str
  similarity: float
  near: bool
  training: str
  span: Span
  matched: bool

  def to_json(self) -> dict[str, Any]:
    return {**dataclasses.asdict(self), "span": self.span.to_json()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memorisation:
  """findings: of the generated clips, the best aligned first.

  held_out: similarity and score of each held-out clip, from which the thresholds were made.
  """

  findings: tuple[Finding, ...]
  similarity_threshold: Threshold
  alignment_threshold: Threshold
  held_out_similarity: tuple[float, ...]
  held_out_score: tuple[float, ...]
  n_training: int
  candidates: int
  window_seconds: float

  @property
  def near(self) -> int:
    return sum(finding.near for finding in self.findings)

  @property
  def matched(self) -> int:
    return sum(finding.matched for finding in self.findings)

  def to_json(self) -> dict[str, Any]:
    return {
      "metric": "memorisation",
      "protocol": f"nearest {self.candidates} training clips by cosine, then log-mel correlation"
      f" over windows of {self.window_seconds:g} s at every offset; thresholds of held-out clips",
      "near": self._share(self.near),
      "matched": self._share(self.matched),
      "similarity_threshold": self.similarity_threshold.to_json(),
      "alignment_threshold": self.alignment_threshold.to_json(),
      "n": len(self.findings),
      "n_held_out": len(self.held_out_score),
      "n_reference": self.n_training,
      "held_out_similarity": list(self.held_out_similarity),
      "held_out_score": list(self.held_out_score),
      "findings": [finding.to_json() for finding in self.findings],
    }

  def _share(self, hits: int) -> dict[str, Any]:
    n = len(self.findings)
    return {"value": hits / n, "interval_95": list(wilson(hits, n)), "hits": hits, "n": n}


def check_memorisation(
  *,
  generated: ClipSet,
  held_out: ClipSet,
  training: ClipSet,
  aligner: Aligner | None = None,
  candidates: int = 5,
  false_alarm_rate: float = 0.01,
) -> Memorisation:
  """Compares generated clips with the training set, and held-out clips to know what is usual.

  Each clip is aligned with all of its candidates, near or not: a copy whose vector lies apart is
  still found, and held-out clips go through the very same.

  Args:
    candidates: nearest training clips that each clip is aligned with.
    false_alarm_rate: share of held-out clips that either threshold lets be exceeded.

  Raises:
    UserError: for vectors of different widths, held-out clips that are in the training set, or
      clips shorter than the aligner's window.
  """
  aligner = aligner or Aligner()
  shared = set(held_out.ids) & set(training.ids)
  if shared:
    raise UserError(
      f"{len(shared)} held-out clips are training clips, {min(shared)!r} among them: leave them out"
    )
  candidates = min(candidates, len(training.ids))
  usual = list(_best(held_out, training, aligner=aligner, candidates=candidates))
  similarity = calibrate([one.similarity for one in usual], false_alarm_rate=false_alarm_rate)
  alignment = calibrate([one.span.score for one in usual], false_alarm_rate=false_alarm_rate)
  findings = [
    dataclasses.replace(
      one, near=one.similarity > similarity.value, matched=one.span.score > alignment.value
    )
    for one in _best(generated, training, aligner=aligner, candidates=candidates)
  ]
  return Memorisation(
    findings=tuple(sorted(findings, key=lambda one: (-one.span.score, one.clip))),
    similarity_threshold=similarity,
    alignment_threshold=alignment,
    held_out_similarity=tuple(one.similarity for one in usual),
    held_out_score=tuple(one.span.score for one in usual),
    n_training=len(training.ids),
    candidates=candidates,
    window_seconds=aligner.window_seconds,
  )


def nearest_clips(
  queries: np.ndarray, training: np.ndarray, *, count: int = 5, chunk: int = 4_096
) -> Neighbours:
  """The `count` nearest rows of `training` by cosine, exactly: each is compared with each.

  queries: float [queries, width]; training: float [clips, width], of any length, read in chunks.
  chunk: rows of either in one product, which takes some 16 chunk^2 bytes.

  Raises UserError for widths that differ, more neighbours than clips, or a vector without a
  direction.
  """
  if queries.shape[1] != training.shape[1]:
    raise UserError(
      f"vectors of width {queries.shape[1]} and {training.shape[1]} have no cosine: use one encoder"
    )
  if not 1 <= count <= len(training):
    raise UserError(f"{len(training)} training clips have no {count} nearest: ask for fewer")
  parts = [
    _nearest_of_chunk(_unit(queries[start : start + chunk]), training, count=count, chunk=chunk)
    for start in range(0, len(queries), chunk)
  ]
  return Neighbours(
    rows=np.concatenate([part.rows for part in parts]),
    similarity=np.concatenate([part.similarity for part in parts]),
  )


def _nearest_of_chunk(
  queries: np.ndarray, training: np.ndarray, *, count: int, chunk: int
) -> Neighbours:
  rows = np.empty((len(queries), 0), np.int64)
  similarity = np.empty((len(queries), 0), np.float32)
  for start in range(0, len(training), chunk):
    cosines = queries @ _unit(training[start : start + chunk]).T
    kept = min(count, cosines.shape[1])
    here = np.argpartition(-cosines, kept - 1, axis=1)[:, :kept]
    rows = np.concatenate([rows, here + start], axis=1)
    similarity = np.concatenate([similarity, np.take_along_axis(cosines, here, axis=1)], axis=1)
    order = np.lexsort((rows, -similarity))[:, :count]  # the earlier row where they are equal
    rows = np.take_along_axis(rows, order, axis=1)
    similarity = np.take_along_axis(similarity, order, axis=1)
  return Neighbours(rows=rows, similarity=similarity)


def _unit(vectors: np.ndarray) -> np.ndarray:
  vectors = np.asarray(vectors, np.float32)
  lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
  if not (np.isfinite(lengths) & (lengths > 0)).all():
    raise UserError("a clip's vector is zero or not finite: embed the clips again")
  return (vectors / lengths).astype(np.float32)


def _best(
  clips: ClipSet, training: ClipSet, *, aligner: Aligner, candidates: int
) -> Iterator[Finding]:
  """Of each clip, not yet judged. One clip's audio and one candidate's are held at a time."""
  rate = aligner.log_mel.sample_rate_hz
  near = nearest_clips(clips.vectors, training.vectors, count=candidates)
  for clip, rows, cosines in zip(clips.ids, near.rows, near.similarity, strict=True):
    own = aligner.features(clips.load(clip), sample_rate_hz=rate)
    spans = []
    for row in rows:
      other = aligner.features(training.load(training.ids[row]), sample_rate_hz=rate)
      spans.append(aligner.align(own, other))
    best = max(range(len(spans)), key=lambda k: spans[k].score)
    yield Finding(
      clip=clip,
      nearest=training.ids[rows[0]],
      similarity=float(cosines[0]),
      near=False,
      training=training.ids[rows[best]],
      span=spans[best],
      matched=False,
    )
