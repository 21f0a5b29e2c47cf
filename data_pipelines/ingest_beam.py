"""Cuts a collection with Beam, on one machine or many; the result is that of `n2m data cut`.

  python -m data_pipelines.ingest_beam --source=music/manifest.jsonl --out=clips --runner=...

Options that are not listed by --help go to Beam. Workers must see source and output under the same
paths (a shared disk). Each file's clips have names that depend on its id alone and appear whole, so
bundles that are retried or done twice change nothing.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipelines.beam_jobs import read_results, results_folder, write_results
from data_pipelines.command import add_cut_options, spec_from
from data_pipelines.ingest import CutResult, CutSpec, cut_file
from data_pipelines.ingest_local import CutSummary, finish, plan_cut
from data_pipelines.manifest import Clip
from noise2music.errors import UserError

_RESULTS = "results"


class CutFiles(beam.PTransform):
  """PCollection of (id, path of the audio) -> PCollection of (id, CutResult)."""

  def __init__(self, *, out_dir: str | os.PathLike, spec: CutSpec):
    super().__init__()
    self._out_dir, self._spec = os.fspath(out_dir), spec

  def expand(self, files):
    return (
      files
      | "spread" >> beam.Reshuffle()
      | "cut" >> beam.Map(_cut, out_dir=self._out_dir, spec=self._spec)
    )


def cut_dataset_with_beam(
  source: str | os.PathLike,
  *,
  out_dir: str | os.PathLike,
  spec: CutSpec | None = None,
  beam_args: Sequence[str] = (),
) -> CutSummary:
  """`ingest_local.cut_dataset`, run by Beam. Raises UserError as that does."""
  spec, out_dir = spec or CutSpec(), Path(out_dir)
  plan = plan_cut(source, out_dir=out_dir)
  results = results_folder(out_dir)
  with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
    done = (
      pipeline
      | "files" >> beam.Create([_name_and_path(clip, plan.folder) for clip in plan.clips])
      | "clips" >> CutFiles(out_dir=out_dir, spec=spec)
      | "as json" >> beam.Map(lambda pair: json.dumps([pair[0], pair[1].to_json()]))
    )
    write_results(done, results / _RESULTS)
  cut = {name: CutResult.from_json(result) for name, result in read_results(results, _RESULTS)}
  return finish(plan, cut, out_dir=out_dir, spec=spec)


def _name_and_path(clip: Clip, folder: Path) -> tuple[str, str]:
  return clip.id, os.path.abspath(clip.audio_path(folder))


def _cut(file: tuple[str, str], *, out_dir: str, spec: CutSpec) -> tuple[str, CutResult]:
  clip_id, audio = file
  return clip_id, cut_file(audio, clip_id=clip_id, out_dir=out_dir, spec=spec)


def main(argv: Sequence[str] | None = None) -> int:
  """Exit status 2 and one sentence for what a user can mend."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  add_cut_options(parser)
  args, beam_args = parser.parse_known_args(argv)
  try:
    spec = spec_from(args)
    print(cut_dataset_with_beam(args.source, out_dir=args.out, spec=spec, beam_args=beam_args))
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  # Under the module's own name, so that workers in other processes find its functions.
  from data_pipelines.ingest_beam import main as run

  sys.exit(run())
