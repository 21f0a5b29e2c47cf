"""Labels a manifest with Beam, on one machine or many; the bytes are those of `n2m label run`.

  n2m label beam music/manifest.jsonl --out=labelled --encoder=... \\
    --vocabulary=captions/long.txt:3 --runner=...

Options that are not listed by --help go to Beam. Workers must see all files under the same paths (a
shared disk). Vocabularies are embedded first, shard by shard; then each worker maps their vectors.
The frequencies of candidates are a side input, as large as the vocabularies at most.

Whatever a bundle gives is a function of its elements, so one that is retried, done twice or done in
another order changes nothing. Clips that cannot be embedded leave as dead letters. The end of the
run counts: a clip that is neither labelled nor among them is an error.
"""

import collections
import functools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import ModelHandler, PredictionResult, RunInference
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import shared

from data_pipelines.beam_jobs import (
  DEAD,
  GOOD,
  beam_parser,
  read_results,
  results_folder,
  write_results,
)
from data_pipelines.manifest import write_json_lines
from data_pipelines.pseudo_label.command import add_run_options, job_from
from data_pipelines.pseudo_label.decisions import read_decisions
from data_pipelines.pseudo_label.draw import Found, Label, Wanted, draw_labels
from data_pipelines.pseudo_label.embed import Encoder, clip_items, embed_clips, store_caption_shard
from data_pipelines.pseudo_label.job import (
  CANDIDATES,
  EMBEDDINGS,
  LabelJob,
  LoadEncoder,
  Plan,
  Shelf,
  find,
  open_shelves,
  plan_labels,
  prepare_shelves,
  read_vocabularies,
)
from data_pipelines.pseudo_label.run import LabelSummary, candidate_record, finish
from data_pipelines.pseudo_label.search import Search
from data_pipelines.pseudo_label.store import Item, shard_count
from data_pipelines.pseudo_label.vocabularies import read_vocabulary
from noise2music.errors import UserError
from noise2music.joint_embedding.load import load_encoder

_BATCH = 64


class EncoderHandler(ModelHandler[Item, PredictionResult, Encoder]):
  """An encoder for RunInference: clip files in; out their vectors, or the reason for none.

  name, load: the encoder is load(name), once in each worker process.
  """

  def __init__(self, name: str, *, load: LoadEncoder = load_encoder):
    super().__init__()
    self._name, self._load = name, load

  def load_model(self) -> Encoder:
    return self._load(self._name)

  def run_inference(
    self, batch: Sequence[Item], model: Encoder, inference_args: Mapping[str, Any] | None = None
  ) -> list[PredictionResult]:
    vectors = embed_clips(model, batch)
    return [PredictionResult(*pair) for pair in zip(batch, vectors, strict=True)]

  def batch_elements_kwargs(self) -> dict[str, int]:
    return {"min_batch_size": 1, "max_batch_size": _BATCH}


class EmbedClips(beam.PTransform):
  """PCollection of Item -> {"good": (id, float32 [width]), "dead": (id, reason)}."""

  def __init__(self, handler: EncoderHandler):
    super().__init__()
    self._handler = handler

  def expand(self, items):
    return (
      items
      | "spread" >> beam.Reshuffle()
      | "embed" >> RunInference(self._handler)
      | "sort out" >> beam.FlatMap(_sort_out).with_outputs(GOOD, DEAD)
    )


class EmbedCaptions(beam.PTransform):
  """PCollection of (file of a vocabulary, shard) -> how many captions each shard still needed.

  The vectors go to the folders where `prepare_shelves` looks for them.
  """

  def __init__(self, job: LabelJob, *, load: LoadEncoder = load_encoder):
    super().__init__()
    self._do = _EmbedCaptions(job, load)

  def expand(self, shards):
    return shards | "spread" >> beam.Reshuffle() | "embed" >> beam.ParDo(self._do)


class FindCandidates(beam.PTransform):
  """PCollection of (id, vector) -> PCollection of (id, {vocabulary: Found})."""

  def __init__(self, job: LabelJob, *, search: Search | None = None):
    super().__init__()
    self._job, self._search = job, search or Search()

  def expand(self, vectors):
    return (
      vectors
      | "batch" >> beam.BatchElements(min_batch_size=1, max_batch_size=self._search.clips)
      | "search" >> beam.ParDo(_Find(self._job, self._search))
    )


class DrawLabels(beam.PTransform):
  """PCollection of (id, {vocabulary: Found}) -> {"labels": (id, found, labels), "counts": ...}.

  counts: ((vocabulary, caption), clips whose candidate it is).
  """

  def __init__(self, wanted: Sequence[Wanted], *, seed: int, encoder: str):
    super().__init__()
    self._settings = {"wanted": tuple(wanted), "seed": seed, "encoder": encoder}

  def expand(self, found):
    counts = found | "candidates" >> beam.FlatMap(_names) | beam.combiners.Count.PerElement()
    labels = found | "draw" >> beam.Map(_draw, counts=beam.pvalue.AsDict(counts), **self._settings)
    return {"labels": labels, "counts": counts}


class _EmbedCaptions(beam.DoFn):
  def __init__(self, job: LabelJob, load: LoadEncoder):
    self._job, self._load = job, load

  def setup(self):
    self._encoder, self._read = self._load(self._job.encoder), functools.cache(read_vocabulary)

  def process(self, shard):
    path, number = shard
    vocabulary = self._read(path)
    folder = self._job.out / EMBEDDINGS / vocabulary.name
    yield store_caption_shard(folder, vocabulary, number, encoder=self._encoder)


class _Find(beam.DoFn):
  def __init__(self, job: LabelJob, search: Search):
    self._job, self._search, self._shared = job, search, shared.Shared()

  def setup(self):
    # Once for all threads of a process: the captions themselves lie in its memory.
    self._opened = self._shared.acquire(lambda: _Opened(self._job), tag=self._job.out_dir)

  def process(self, batch):
    ids, vectors = [name for name, _ in batch], np.stack([vector for _, vector in batch])
    settings = {"job": self._job, "decisions": self._opened.decisions, "search": self._search}
    found = {s.name: find(ids, vectors, s, **settings) for s in self._opened.shelves}
    for row, name in enumerate(ids):
      yield name, {vocabulary: mine[row] for vocabulary, mine in found.items()}


class _Opened:
  """What `_Find` needs from the disk; an object, since Beam shares by weak references."""

  def __init__(self, job: LabelJob):
    self.shelves, self.decisions = open_shelves(job), read_decisions(job.decisions)


def label_with_beam(
  job: LabelJob,
  *,
  load: LoadEncoder = load_encoder,
  search: Search | None = None,
  beam_args: Sequence[str] = (),
) -> LabelSummary:
  """`run.label_dataset`, run by Beam. Raises UserError as that does."""
  plan, options = plan_labels(job), list(beam_args)
  encoder = load(job.encoder)  # here first: what is wrong with it is told in one sentence
  shards = [
    (path, shard)
    for path, vocabulary in zip(job.vocabularies, read_vocabularies(job), strict=True)
    for shard in range(shard_count(len(vocabulary)))
  ]
  with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
    _ = pipeline | "shards" >> beam.Create(shards) | "captions" >> EmbedCaptions(job, load=load)
  shelves, fingerprint = prepare_shelves(job, encoder), encoder.fingerprint
  results = results_folder(job.out)
  with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
    items = pipeline | "clips" >> beam.Create(clip_items(plan.clips, folder=plan.folder))
    embedded = items | "vectors" >> EmbedClips(EncoderHandler(job.encoder, load=load))
    drawn = (
      embedded[GOOD]
      | "nearest" >> FindCandidates(job, search=search)
      | "labels" >> DrawLabels([s.wanted for s in shelves], seed=job.seed, encoder=fingerprint)
    )
    write_results(drawn["labels"] | "labels to json" >> beam.Map(_labels_json), results / "labels")
    write_results(drawn["counts"] | "counts to json" >> beam.Map(_counts_json), results / "counts")
    write_results(embedded[DEAD] | "dead to json" >> beam.Map(json.dumps), results / "dead")
  return collect(plan, job, shelves, fingerprint, results=results)


def collect(
  plan: Plan, job: LabelJob, shelves: list[Shelf], encoder: str, *, results: Path
) -> LabelSummary:
  """From the results of all workers to the files of a run, in the order of the manifest."""
  failed = dict(read_results(results, "dead"))
  labelled = {name: (found, labels) for name, found, labels in read_results(results, "labels")}
  lost = [c.id for c in plan.clips if (c.id in failed) == (c.id in labelled)]
  if lost:
    raise UserError(
      f"{len(lost)} clips, for example {lost[0]}, are not exactly once among the results in "
      f"{results}: run the same command again"
    )
  frequency = {shelf.name: collections.Counter() for shelf in shelves}
  for vocabulary, text, count in read_results(results, "counts"):
    frequency[vocabulary][text] = count
  good = [clip.id for clip in plan.clips if clip.id in labelled]
  if good:
    write_json_lines(
      job.out / CANDIDATES,
      (
        candidate_record(name, shelf.name, Found.from_json(labelled[name][0][shelf.name]))
        for name in good
        for shelf in shelves
      ),
    )
  return finish(
    plan,
    job,
    labels=lambda: ((name, [Label(**label) for label in labelled[name][1]]) for name in good),
    failed=failed,
    frequency=frequency,
    shelves=shelves,
    encoder=encoder,
  )


def _sort_out(result: PredictionResult):
  dead = isinstance(result.inference, str)
  yield beam.pvalue.TaggedOutput(DEAD if dead else GOOD, (result.example.id, result.inference))


def _names(clip: tuple[str, Mapping[str, Found]]) -> Iterator[tuple[str, str]]:
  for vocabulary, found in clip[1].items():
    for text, _ in found.candidates:
      yield vocabulary, text


def _draw(clip, *, counts: Mapping[tuple[str, str], int], wanted, seed: int, encoder: str):
  name, found = clip
  often = {
    vocabulary: {
      text: counts.get((vocabulary, text), 0) for text, _ in (*mine.candidates, *mine.accepted)
    }
    for vocabulary, mine in found.items()
  }
  return name, found, draw_labels(name, found, often, wanted=wanted, seed=seed, encoder=encoder)


def _labels_json(clip: tuple[str, Mapping[str, Found], list[Label]]) -> str:
  name, found, labels = clip
  found = {vocabulary: mine.to_json() for vocabulary, mine in found.items()}
  return json.dumps([name, found, [label.to_json() for label in labels]])


def _counts_json(count: tuple[tuple[str, str], int]) -> str:
  return json.dumps([*count[0], count[1]])


def main(argv: Sequence[str] | None = None, *, load: LoadEncoder = load_encoder) -> int:
  """Exit status 2 and one sentence for what a user can mend."""
  parser = beam_parser("n2m label beam", __doc__)
  add_run_options(parser)
  args, beam_args = parser.parse_known_args(argv)
  try:
    print(label_with_beam(job_from(args), load=load, beam_args=beam_args))
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  # Under the module's own name, so that workers in other processes find its functions.
  from data_pipelines.pseudo_label.beam import main as run

  sys.exit(run())
