"""Labels a manifest on this machine: the work of `n2m label run`. `beam` gives the same bytes.

Two passes, since a caption's weight is its frequency over all clips: candidates to the disk and
their counts, then the draws. What is slow, the vectors, is kept in shards; a run that was killed
goes on there. All files appear whole or not at all.
"""

import collections
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.manifest import (
  MANIFEST_NAME,
  Caption,
  Clip,
  atomic_text,
  json_lines,
  portable_path,
  write_json_lines,
  write_manifest,
)
from data_pipelines.parallel import Progress, no_progress
from data_pipelines.pseudo_label.decisions import ACCEPT, BAN, Decisions, read_decisions
from data_pipelines.pseudo_label.draw import Found, Label, draw_labels
from data_pipelines.pseudo_label.embed import clip_items, store_clips
from data_pipelines.pseudo_label.job import (
  CANDIDATES,
  CLIPS,
  DEAD_LETTERS,
  EMBEDDINGS,
  FREQUENCIES,
  LABELS,
  RUN,
  LabelJob,
  LoadEncoder,
  Plan,
  Shelf,
  dead_letter,
  find,
  plan_labels,
  prepare_shelves,
)
from data_pipelines.pseudo_label.search import Search
from data_pipelines.pseudo_label.store import Store
from noise2music.errors import UserError
from noise2music.joint_embedding.load import load_encoder

SOURCE_PREFIX = "label:"
Frequencies = Mapping[str, Mapping[str, int]]  # vocabulary -> caption -> clips


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelSummary:
  """What labelling gave; `str()` is what to print. clips_in = clips + dead.

  unused_decisions: about clips, texts or phrases that are not there. dropped_lines: of the
  vocabularies. never_given: captions that a decision bans or that an evaluation set holds.
  """

  manifest: Path
  clips_in: int
  clips: int
  dead: int
  labels: Mapping[str, int]
  unused_decisions: int
  dropped_lines: int
  never_given: int

  def __str__(self) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in self.labels.items())
    folder = self.manifest.parent
    lines = [
      f"{self.clips} of {self.clips_in} clips labelled: {counts}",
      f"left out: {self.dead} ({folder / DEAD_LETTERS})",
      f"manifest: {self.manifest}",
    ]
    if self.dropped_lines:
      lines.insert(1, f"lines of vocabularies, too long or no UTF-8: {self.dropped_lines} dropped")
    if self.never_given:
      lines.insert(1, f"captions banned or in an evaluation set: {self.never_given}, never given")
    if self.unused_decisions:
      lines.insert(1, f"decisions that met nothing: {self.unused_decisions} ({folder / RUN})")
    return "\n".join(lines)


def label_dataset(
  job: LabelJob,
  *,
  load: LoadEncoder = load_encoder,
  search: Search | None = None,
  workers: int | None = None,
  progress: Progress = no_progress,
) -> LabelSummary:
  """Labels every clip of the job's manifest. Raises UserError, CannotWrite as its parts do."""
  plan, decisions, search = plan_labels(job), read_decisions(job.decisions), search or Search()
  encoder = load(job.encoder)
  shelves = prepare_shelves(job, encoder, progress=progress)
  items = clip_items(plan.clips, folder=plan.folder)
  clips = store_clips(
    job.out / EMBEDDINGS / CLIPS, items, encoder=encoder, workers=workers, progress=progress
  )
  counts: dict[str, collections.Counter] = {s.name: collections.Counter() for s in shelves}

  def candidates() -> Iterator[dict[str, Any]]:
    with progress("search", len(clips), 0) as advance:
      for first in range(0, len(clips), search.clips):
        some = range(first, min(first + search.clips, len(clips)))
        for record in _search(clips, some, shelves, job, decisions, search):
          counts[record["vocabulary"]].update(text for text, _ in record["candidates"])
          yield record
        advance(len(some))

  if len(clips):
    write_json_lines(job.out / CANDIDATES, candidates())

  wanted = [shelf.wanted for shelf in shelves]

  def labels() -> Iterator[tuple[str, list[Label]]]:
    for clip, found in read_candidates(job.out / CANDIDATES):
      yield (
        clip,
        draw_labels(clip, found, counts, wanted=wanted, seed=job.seed, encoder=encoder.fingerprint),
      )

  return finish(
    plan,
    job,
    labels=labels,
    failed=clips.failed,
    frequency=counts,
    shelves=shelves,
    encoder=encoder.fingerprint,
  )


def candidate_record(clip: str, vocabulary: str, found: Found) -> dict[str, Any]:
  """A line of candidates.jsonl."""
  return {"clip": clip, "vocabulary": vocabulary, **found.to_json()}


def read_candidates(path: Path) -> Iterator[tuple[str, dict[str, Found]]]:
  """(clip, {vocabulary: Found}) in the order of the file, a clip at a time."""
  lines = (line for _, line in json_lines(path))
  for clip, some in itertools.groupby(lines, key=lambda line: line["clip"]):
    yield clip, {line["vocabulary"]: Found.from_json(line) for line in some}


def finish(
  plan: Plan,
  job: LabelJob,
  *,
  labels: Callable[[], Iterable[tuple[str, list[Label]]]],
  failed: Mapping[str, str],
  frequency: Frequencies,
  shelves: Iterable[Shelf],
  encoder: str,
) -> LabelSummary:
  """Writes all but the candidates. labels: called once; (clip, labels) in the plan's order.

  Raises UserError where no clip is left, or some are neither labelled nor among the failed.
  """
  dead = [*plan.dead]
  for clip in plan.clips:
    if clip.id in failed:
      dead.append(dead_letter(clip.id, str(clip.audio_path(plan.folder)), failed[clip.id]))
  write_json_lines(job.out / DEAD_LETTERS, dead)
  good = [clip for clip in plan.clips if clip.id not in failed]
  if not good:
    raise UserError(
      f"none of {plan.count_in} clips could be labelled, for example {dead[-1]['path']} "
      f"({dead[-1]['reason']}); see {job.out / DEAD_LETTERS}"
    )
  shelves, after = list(shelves), collections.defaultdict(collections.Counter)
  merged = {shelf.name for shelf in shelves if shelf.merged}
  with atomic_text(job.out / LABELS) as out:

    def labelled() -> Iterator[Clip]:
      for clip, (name, mine) in zip(good, labels(), strict=True):
        if clip.id != name:
          raise UserError(f"the labels of {clip.id} are missing: run the same command again")
        for label in mine:
          after[label.vocabulary][label.text] += 1
          out.write(json.dumps(label.to_json(), ensure_ascii=False) + "\n")
        yield _with_labels(clip, [label for label in mine if label.vocabulary in merged], plan, job)

    write_manifest(job.out / MANIFEST_NAME, labelled())
  write_json_lines(job.out / FREQUENCIES, _frequency_lines(shelves, frequency, after))
  summary = LabelSummary(
    manifest=job.out / MANIFEST_NAME,
    clips_in=plan.count_in,
    clips=len(good),
    dead=len(dead),
    labels={shelf.name: after[shelf.name].total() for shelf in shelves},
    dropped_lines=sum(shelf.vocabulary.dropped for shelf in shelves),
    never_given=sum(int((~shelf.allowed).sum()) for shelf in shelves),
    unused_decisions=len(unused := _unused(read_decisions(job.decisions), good, shelves)),
  )
  _write_run(job, summary, shelves, encoder, unused)
  return summary


def _search(
  clips: Store,
  some: range,
  shelves: list[Shelf],
  job: LabelJob,
  decisions: Decisions,
  search: Search,
) -> Iterator[dict[str, Any]]:
  ids, vectors = clips.ids[some.start : some.stop], clips.rows(some)
  found = [find(ids, vectors, s, job=job, decisions=decisions, search=search) for s in shelves]
  for row, clip in enumerate(ids):
    for shelf, mine in zip(shelves, found, strict=True):
      yield candidate_record(clip, shelf.name, mine[row])


def _with_labels(clip: Clip, labels: Iterable[Label], plan: Plan, job: LabelJob) -> Clip:
  """The clip as seen from out_dir; labels of an earlier run give way."""
  kept = [c for c in clip.captions if not c.source.startswith(SOURCE_PREFIX)]
  said = {caption.text for caption in kept}
  new = [
    Caption(
      text=label.text,
      kind=label.kind,
      source=SOURCE_PREFIX + label.vocabulary,
      score=label.score,
      extra={name: getattr(label, name) for name in ("rank", "margin", "frequency", "encoder")},
    )
    for label in labels
    if label.text not in said
  ]
  path = portable_path(clip.audio_path(plan.folder), folder=job.out)
  return dataclasses.replace(clip, path=path, captions=(*kept, *new))


def _frequency_lines(
  shelves: Iterable[Shelf], before: Frequencies, after: Frequencies
) -> Iterator[dict[str, Any]]:
  for shelf in shelves:
    mine, given = before[shelf.name], after[shelf.name]
    for text in sorted({*mine, *given}, key=lambda text: (-mine.get(text, 0), text)):
      counts = {"candidate_of": mine.get(text, 0), "label_of": given.get(text, 0)}
      yield {"vocabulary": shelf.name, "text": text, **counts}


def _unused(decisions: Decisions, clips: Iterable[Clip], shelves: list[Shelf]) -> list[dict]:
  """Decisions about clips or phrases that are not there, or texts that cannot be given."""
  ids, out = {clip.id for clip in clips}, []
  for (clip, text), (what, where) in decisions.labels.items():
    rows = [s.vocabulary.rows.get(text) for s in shelves if where in ("", s.name)]
    allowed = [
      row is not None and (what != ACCEPT or bool(shelf.allowed[row]))
      for shelf, row in zip([s for s in shelves if where in ("", s.name)], rows, strict=True)
    ]
    if clip not in ids or not any(allowed):
      out.append({"decision": what, "clip": clip, "text": text})
  refused = (s.vocabulary.captions[row] for s in shelves for row in np.flatnonzero(~s.allowed))
  met = {phrase for text in refused for phrase in decisions.banned_phrases(text)}
  return out + [{"decision": BAN, "phrase": each} for each in decisions.phrases if each not in met]


def _write_run(
  job: LabelJob, summary: LabelSummary, shelves: list[Shelf], encoder: str, unused: list[dict]
) -> None:
  settings = {name: value for name, value in dataclasses.asdict(job).items() if name != "out_dir"}
  vocabularies = [
    {
      "name": shelf.name,
      "kind": shelf.vocabulary.kind,
      "captions": len(shelf.vocabulary),
      "dropped_lines": shelf.vocabulary.dropped,
      "never_given": int((~shelf.allowed).sum()),
      "merged": shelf.merged,
      "labels": summary.labels[shelf.name],
    }
    for shelf in shelves
  ]
  counts = {"in": summary.clips_in, "good": summary.clips, "bad": summary.dead}
  record = {
    "settings": settings,
    "encoder": encoder,
    "vocabularies": vocabularies,
    "clips": counts,
    "unused_decisions": unused,
  }
  with atomic_text(job.out / RUN) as out:
    json.dump(record, out, indent=1, ensure_ascii=False)
