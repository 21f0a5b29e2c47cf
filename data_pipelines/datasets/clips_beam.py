"""The examples of a data set of clips, read by the workers of Beam: for `clips.build_shards`.

Workers must see the clips and the output folder under the same paths (a shared disk).

TFDS's writer for Beam sorts records by the same hashes, so their order from the first shard to the
last is that of a build without Beam. Where one shard ends and the next begins is not: without Beam
the records are counted and then dealt evenly; with Beam, where no worker sees them all, a shard is
an equal part of the range of hashes, and parts where no record fell are left out. A single shard is
the same to the byte; two builds with Beam are, whatever their runners.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipelines.beam_jobs import DEAD, GOOD, read_results, write_results
from data_pipelines.datasets.clips import example_of
from data_pipelines.manifest import Clip
from data_pipelines.sources import RecordError

_REFUSED = "refused"


class MakeExamples(beam.PTransform):
  """Pipeline -> PCollection of (id, example), of the clips that can be read.

  The others go to files, by `write_results`. folder: of the manifest.
  """

  def __init__(self, clips: Sequence[Clip], *, folder: Path, refused: Path):
    super().__init__()
    self._clips, self._folder, self._refused = clips, folder, refused

  def expand(self, pipeline):
    made = (
      pipeline
      | "clips" >> beam.Create(self._clips)
      | "spread" >> beam.Reshuffle()
      | "read" >> beam.FlatMap(_make, folder=self._folder).with_outputs(GOOD, DEAD)
    )
    write_results(made[DEAD] | "refused to json" >> beam.Map(json.dumps), self._refused)
    return made[GOOD]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnBeam:
  """Where `clips.Here` reads in this process. folder: of the manifest. results: for `_REFUSED`."""

  folder: Path
  results: Path
  beam_args: Sequence[str] = ()

  @property
  def options(self) -> PipelineOptions:
    return PipelineOptions(list(self.beam_args))

  def examples(self, split: str, clips: Sequence[Clip]) -> MakeExamples:
    return MakeExamples(clips, folder=self.folder, refused=self.results / f"{_REFUSED}-{split}")

  def refused(self) -> list[dict[str, str]]:
    return list(read_results(self.results, _REFUSED))


def _make(clip: Clip, *, folder: Path):
  try:
    yield beam.pvalue.TaggedOutput(GOOD, example_of(clip, folder))
  except RecordError as error:
    yield beam.pvalue.TaggedOutput(DEAD, error.to_json())
