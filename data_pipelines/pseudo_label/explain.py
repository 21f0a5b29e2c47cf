"""Why a clip has the labels it has: each near caption with its score and its fate.

A clip of the run is looked up by its path or its id; any other file is labelled as if it had been
part of it, with its path for an id, which its draw then hangs on.
"""

import collections
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.manifest import json_lines, read_manifest
from data_pipelines.pseudo_label.decisions import Decisions, read_decisions
from data_pipelines.pseudo_label.draw import Found, draw_labels
from data_pipelines.pseudo_label.embed import embed_clips
from data_pipelines.pseudo_label.job import (
  FREQUENCIES,
  LabelJob,
  LoadEncoder,
  Shelf,
  find,
  open_shelves,
  read_run,
  refusal,
)
from data_pipelines.pseudo_label.search import Search
from data_pipelines.pseudo_label.store import Item
from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fate:
  """A caption near the clip. margin: as in `draw.Label`. fate: what became of it, and why."""

  vocabulary: str
  text: str
  score: float
  margin: float | None
  frequency: int
  fate: str

  def __str__(self) -> str:
    margin = "      -" if self.margin is None else f"{self.margin:+.4f}"
    return f"  {self.score:.4f}  {margin}  {self.frequency:>9}  {self.fate:24}  {self.text}"


HEADING = "  score   margin   frequency  fate                      caption"


def explain(path: str | os.PathLike, *, run: str | os.PathLike, load: LoadEncoder) -> list[Fate]:
  """The fates of what lies near a clip, vocabulary by vocabulary, the nearest first.

  Raises UserError where the file cannot be read, the run is none, or its encoder has changed.
  """
  job, record = read_run(run)
  encoder = load(job.encoder)
  if encoder.fingerprint != record["encoder"]:
    raise UserError(
      f"the encoder has changed since {run} was made ({record['encoder']} -> "
      f"{encoder.fingerprint}): run `n2m label run` again"
    )
  clip, path = _of_run(path, job)
  vector = embed_clips(encoder, [Item(id=clip, what=os.path.abspath(path))])[0]
  if isinstance(vector, str):
    raise UserError(f"{path}: {vector}")
  shelves, decisions = open_shelves(job), read_decisions(job.decisions)
  frequency = _frequencies(job)
  search = Search(clips=1)
  found = {
    shelf.name: find([clip], vector[None], shelf, job=job, decisions=decisions, search=search)[0]
    for shelf in shelves
  }
  labels = draw_labels(
    clip,
    found,
    frequency,
    wanted=[shelf.wanted for shelf in shelves],
    seed=job.seed,
    encoder=encoder.fingerprint,
  )
  given = {(label.vocabulary, label.text): label.given_by for label in labels}
  refuse = refusal(job)
  fates = []
  for shelf in shelves:
    mine = found[shelf.name]
    _, rejected = decisions.of_clip(clip, vocabulary=shelf.name)
    for text, score in _near(vector, shelf, mine, job=job, decisions=decisions, search=search):
      fate = refuse(text) or ("rejected for this clip" if text in rejected else None)
      fate = fate or _fate(given.get((shelf.name, text)), shelf, text, mine)
      fates.append(
        Fate(
          vocabulary=shelf.name,
          text=text,
          score=score,
          margin=None if mine.beyond is None else round(score - mine.beyond, 6),
          frequency=frequency[shelf.name].get(text, 0),
          fate=fate,
        )
      )
  return fates


def _fate(given_by: str | None, shelf: Shelf, text: str, found: Found) -> str:
  if given_by is None:
    near = any(text == candidate for candidate, _ in found.candidates)
    return "candidate, not drawn" if near else "too far"
  why = "label, accepted" if given_by == "decision" else "label, drawn"
  return why if shelf.merged else f"{why} (excluded)"


def _near(
  vector: np.ndarray,
  shelf: Shelf,
  found: Found,
  *,
  job: LabelJob,
  decisions: Decisions,
  search: Search,
) -> list[tuple[str, float]]:
  """What was given or could have been, and what would have been but for a ban or a decision."""
  open_to_all = dataclasses.replace(shelf, allowed=np.ones_like(shelf.allowed))
  nobody = dataclasses.replace(decisions, labels={})
  settings = {"job": job, "decisions": nobody, "search": search}
  unguarded = find(["?"], vector[None], open_to_all, **settings)[0]
  near = {**dict(unguarded.candidates), **dict(found.candidates), **dict(found.accepted)}
  return sorted(near.items(), key=lambda pair: (-pair[1], pair[0]))


def _of_run(name: str | os.PathLike, job: LabelJob) -> tuple[str, Path]:
  """(id, file) of what the user names: a file, or the id of a clip of the run."""
  wanted = os.path.realpath(name)
  for clip in read_manifest(job.out / "manifest.jsonl"):
    path = clip.audio_path(job.out)
    if clip.id == str(name) or os.path.realpath(path) == wanted:
      return clip.id, Path(path)
  return str(Path(name)), Path(name)


def _frequencies(job: LabelJob) -> Mapping[str, Mapping[str, int]]:
  out: dict[str, dict[str, int]] = collections.defaultdict(dict)
  for _, line in json_lines(job.out / FREQUENCIES):
    out[line["vocabulary"]][line["text"]] = line["candidate_of"]
  return out
