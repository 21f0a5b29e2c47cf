"""What is to be labelled, with what: the settings of a run and what is read for them.

out_dir/manifest.jsonl       the clips that could be embedded, with their labels among the captions
out_dir/labels.jsonl         a label a line, in the order of the manifest (`draw.Label`)
out_dir/candidates.jsonl     what they were drawn from: a clip and vocabulary a line (`draw.Found`)
out_dir/frequencies.jsonl    of each caption: clips whose candidate, and whose label, it is
out_dir/dead_letters.jsonl   clips that were left out, with the reason
out_dir/run.json             the settings, the encoder's fingerprint, counts
out_dir/embeddings/          vectors: of the clips, and of each vocabulary (`store`)
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.manifest import Clip, ManifestError, manifest_path, scan_manifest
from data_pipelines.parallel import Progress, no_progress
from data_pipelines.pseudo_label.decisions import Decisions, read_decisions
from data_pipelines.pseudo_label.draw import Found, Wanted
from data_pipelines.pseudo_label.embed import Encoder, store_captions
from data_pipelines.pseudo_label.search import Search, cosines
from data_pipelines.pseudo_label.store import Store, open_store
from data_pipelines.pseudo_label.vocabularies import (
  Vocabulary,
  evaluation_sentences,
  leaks,
  read_vocabulary,
)
from noise2music.errors import UserError

LABELS, CANDIDATES, FREQUENCIES = "labels.jsonl", "candidates.jsonl", "frequencies.jsonl"
DEAD_LETTERS, RUN, EMBEDDINGS, CLIPS = "dead_letters.jsonl", "run.json", "embeddings", "clips"
LoadEncoder = Callable[[str], Encoder]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelJob:
  """Settings; paths as strings, so that run.json holds them all.

  encoder: as `load_encoder` takes it. vocabularies: file -> labels a clip gets from it.
  exclude: names of vocabularies whose labels are drawn and written, but not merged into the
  manifest (the paper's long rater captions, which MusicCaps is made of). evaluation: manifests or
  texts; captions that share a sentence with them are never candidates. candidates: K.
  """

  source: str
  out_dir: str
  encoder: str
  vocabularies: Mapping[str, int]
  candidates: int = 10
  seed: int = 0
  exclude: tuple[str, ...] = ()
  evaluation: tuple[str, ...] = ()
  decisions: str | None = None
  require_license: bool = False

  def __post_init__(self):
    names = [Path(path).stem for path in self.vocabularies]
    if not names:
      raise UserError("labels need a vocabulary: name one with --vocabulary FILE.txt")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or CLIPS in names:
      raise UserError(f"two vocabularies cannot be named {twice or CLIPS!r}: rename a file")
    unknown = next((name for name in self.exclude if name not in names), None)
    if unknown is not None:
      raise UserError(f"no vocabulary is named {unknown!r}: exclude one of {', '.join(names)}")
    greedy = next((path for path, n in self.vocabularies.items() if n > self.candidates), None)
    if greedy is not None:
      raise UserError(
        f"{self.vocabularies[greedy]} labels of {greedy} cannot be drawn from {self.candidates} "
        "candidates: ask for fewer labels or more candidates"
      )

  @property
  def out(self) -> Path:
    return Path(self.out_dir)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """clips: that may be labelled. folder: of the manifest. dead: records of those left out."""

  clips: tuple[Clip, ...]
  folder: Path
  dead: tuple[Mapping[str, Any], ...] = ()

  @property
  def count_in(self) -> int:
    return len(self.clips) + len(self.dead)


def plan_labels(job: LabelJob) -> Plan:
  """Reads the manifest. Raises UserError without a clip, or where outputs would overwrite it."""
  manifest = manifest_path(job.source)
  if manifest.parent.resolve() == job.out.resolve():
    raise UserError(f"the labels would overwrite the manifest in {job.out}: choose another folder")
  clips, dead = {}, []
  for number, clip in scan_manifest(manifest):
    place = f"{manifest}:{number}"
    if isinstance(clip, ManifestError):
      dead.append(dead_letter(None, place, str(clip).removeprefix(f"{place}: ")))
    elif clip.id in clips:
      dead.append(dead_letter(clip.id, place, f"the id {clip.id} appears twice: rename one"))
    elif job.require_license and not clip.license:
      reason = (
        "no licence is known: import with --license, or add it to the manifest, or leave out"
        " --require-license"
      )
      dead.append(dead_letter(clip.id, clip.path, reason))
    else:
      clips[clip.id] = clip
  if not clips:
    why = f" ({dead[0]['path']}: {dead[0]['reason']})" if dead else ""
    raise UserError(f"{manifest} holds no clip that can be labelled{why}")
  return Plan(clips=tuple(clips.values()), folder=manifest.parent, dead=tuple(dead))


def dead_letter(clip: str | None, path: str, reason: str) -> dict[str, Any]:
  """A line of dead_letters.jsonl."""
  return {"id": clip, "path": path, "reason": reason}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shelf:
  """A vocabulary, ready to be searched. allowed: bool [captions]. merged: into the manifest."""

  vocabulary: Vocabulary
  store: Store
  allowed: np.ndarray
  merged: bool

  @property
  def name(self) -> str:
    return self.vocabulary.name

  @property
  def wanted(self) -> Wanted:
    vocabulary = self.vocabulary
    return Wanted(name=vocabulary.name, kind=vocabulary.kind, labels=vocabulary.labels)


def read_vocabularies(job: LabelJob) -> list[Vocabulary]:
  return [read_vocabulary(path, labels=n) for path, n in job.vocabularies.items()]


def prepare_shelves(
  job: LabelJob, encoder: Encoder, *, progress: Progress = no_progress
) -> list[Shelf]:
  """Embeds the vocabularies, as far as they are not, and finds what must not be a candidate."""
  refuse = refusal(job)
  shelves = []
  for vocabulary in read_vocabularies(job):
    folder = job.out / EMBEDDINGS / vocabulary.name
    store = store_captions(folder, vocabulary, encoder=encoder, progress=progress)
    allowed = np.array([refuse(text) is None for text in vocabulary.captions])
    if not allowed.any():
      raise UserError(
        f"every caption of {vocabulary.name} is banned or in an evaluation set: leave it out"
      )
    np.save(folder / "allowed.npy", allowed)
    shelves.append(_shelf(job, vocabulary, store, allowed))
  return shelves


def open_shelves(job: LabelJob) -> list[Shelf]:
  """What `prepare_shelves` left on the disk. Raises UserError where it did not run."""
  shelves = []
  for vocabulary in read_vocabularies(job):
    folder = job.out / EMBEDDINGS / vocabulary.name
    store = open_store(folder)
    if store.ids != vocabulary.ids:
      raise UserError(f"the vocabulary {vocabulary.name} has changed: run `n2m label run` again")
    shelves.append(
      _shelf(job, vocabulary, store, np.load(folder / "allowed.npy", allow_pickle=False))
    )
  return shelves


def refusal(job: LabelJob) -> Callable[[str], str | None]:
  """caption -> why nobody may have it, or None."""
  decisions, evaluation = read_decisions(job.decisions), evaluation_sentences(job.evaluation)

  def reason(text: str) -> str | None:
    if banned := decisions.banned_phrases(text):
      return f"holds the banned phrase {banned[0]!r}"
    return "shares a sentence with an evaluation set" if leaks(text, evaluation) else None

  return reason


def find(
  clips: Sequence[str],
  vectors: np.ndarray,
  shelf: Shelf,
  *,
  job: LabelJob,
  decisions: Decisions,
  search: Search,
) -> list[Found]:
  """The candidates of some clips in one vocabulary. vectors: float32 [clips, width]."""
  depth = job.candidates + 1 + decisions.most_rejections()
  rows, scores = search(vectors, shelf.store, depth=depth, allowed=shelf.allowed)
  captions = shelf.vocabulary.captions
  out = []
  for clip, vector, some, cosine in zip(clips, vectors, rows, scores, strict=True):
    accepted, rejected = decisions.of_clip(clip, vocabulary=shelf.name)
    ranked = [(captions[r], float(s)) for r, s in zip(some, cosine, strict=True) if r >= 0]
    ranked = [pair for pair in ranked if pair[0] not in rejected]
    # What nobody may have, an evaluation sentence above all, no decision gives.
    known = [shelf.vocabulary.rows.get(text) for text in accepted]
    known = [row for row in known if row is not None and shelf.allowed[row]]
    near = cosines(vector, shelf.store.rows(known)) if known else []
    beyond = ranked[job.candidates :]
    out.append(
      Found(
        candidates=tuple(ranked[: job.candidates]),
        beyond=beyond[0][1] if beyond else None,
        accepted=tuple((captions[r], float(s)) for r, s in zip(known, near, strict=True)),
      )
    )
  return out


def read_run(folder: str | os.PathLike) -> tuple[LabelJob, dict[str, Any]]:
  """The settings of a finished run, and all of run.json. Raises UserError where there is none."""
  path = Path(folder) / RUN
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
    settings = {
      name: tuple(value) if isinstance(value, list) else value
      for name, value in record["settings"].items()
    }
    return LabelJob(**{**settings, "out_dir": os.fspath(folder)}), record
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"{folder} holds no finished run: make one with `n2m label run`") from error


def _shelf(job: LabelJob, vocabulary: Vocabulary, store: Store, allowed: np.ndarray) -> Shelf:
  merged = vocabulary.name not in job.exclude
  return Shelf(vocabulary=vocabulary, store=store, allowed=allowed, merged=merged)
