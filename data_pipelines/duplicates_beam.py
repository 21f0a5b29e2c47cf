"""Finds recordings that are there twice with Beam; the bytes are those of `n2m label duplicates`.

  n2m label duplicates-beam music/manifest.jsonl --out=twice --encoder=... --runner=...

Options that are not listed by --help go to Beam. Clips are dealt into blocks by their ids, and each
pair of blocks is one piece of work, so b blocks make b (b + 1) / 2 pieces and carry each vector b
times. Clips that cannot be embedded leave as dead letters.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions

from data_pipelines.beam_jobs import (
  DEAD,
  GOOD,
  beam_parser,
  read_results,
  results_folder,
  write_results,
)
from data_pipelines.duplicates import COSINE, DUPLICATES, Duplicate, File, Overlay, find_duplicates
from data_pipelines.manifest import manifest_path, read_manifest, write_json_lines
from data_pipelines.pseudo_label.beam import EmbedClips, EncoderHandler
from data_pipelines.pseudo_label.embed import clip_items
from data_pipelines.pseudo_label.job import DEAD_LETTERS, LoadEncoder, dead_letter
from noise2music.errors import UserError
from noise2music.joint_embedding.load import load_encoder

Embedded = tuple[File, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
  cosine: float
  overlay: Overlay


class FindDuplicates(beam.PTransform):
  """PCollection of ((id, path), vector) -> PCollection of Duplicate. blocks: 1 or more."""

  def __init__(self, *, blocks: int = 8, cosine: float = COSINE, overlay: Overlay | None = None):
    super().__init__()
    if blocks < 1:
      raise UserError(f"clips cannot be dealt into {blocks} blocks: give 1 or more")
    self._blocks = blocks
    self._settings = _Settings(cosine=cosine, overlay=overlay or Overlay())

  def expand(self, embedded):
    return (
      embedded
      | "deal" >> beam.FlatMap(_deal, blocks=self._blocks)
      | "meet" >> beam.GroupByKey()
      | "compare" >> beam.FlatMap(_compare, settings=self._settings)
    )


def duplicates_with_beam(
  source: str | os.PathLike,
  *,
  out_dir: str | os.PathLike,
  encoder: str,
  load: LoadEncoder = load_encoder,
  find: FindDuplicates | None = None,
  beam_args: Sequence[str] = (),
) -> tuple[int, int]:
  """(pairs found, clips left out); writes duplicates.jsonl and dead_letters.jsonl into out_dir."""
  manifest, out = manifest_path(source), Path(out_dir)
  items = clip_items(read_manifest(manifest), folder=manifest.parent)
  paths = {item.id: item.what for item in items}
  results = results_folder(out)
  with beam.Pipeline(options=PipelineOptions(list(beam_args))) as pipeline:
    handler = EncoderHandler(encoder, load=load)
    embedded = pipeline | "clips" >> beam.Create(items) | "vectors" >> EmbedClips(handler)
    found = (
      embedded[GOOD]
      | "files" >> beam.Map(lambda clip: ((clip[0], paths[clip[0]]), clip[1]))
      | "twice" >> (find or FindDuplicates())
      | "as json" >> beam.Map(lambda one: json.dumps(one.to_json()))
    )
    write_results(found, results / "found")
    write_results(embedded[DEAD] | beam.Map(json.dumps), results / "dead")
  found = (Duplicate(**line) for line in read_results(results, "found"))
  pairs = sorted(found, key=lambda pair: pair.order)
  failed = dict(read_results(results, "dead"))
  dead = [dead_letter(name, paths[name], failed[name]) for name in paths if name in failed]
  write_json_lines(out / DUPLICATES, (one.to_json() for one in pairs))
  write_json_lines(out / DEAD_LETTERS, dead)
  return len(pairs), len(dead)


def _deal(clip: Embedded, *, blocks: int) -> Iterator[tuple[tuple[int, int], tuple[int, Embedded]]]:
  mine = int.from_bytes(hashlib.blake2b(clip[0][0].encode(), digest_size=8).digest(), "big")
  mine %= blocks
  for other in range(blocks):
    yield (min(mine, other), max(mine, other)), (mine, clip)


def _compare(
  group: tuple[tuple[int, int], Iterable[tuple[int, Embedded]]], *, settings: _Settings
) -> Iterator[Duplicate]:
  (first, second), members = group
  members = list(members)
  one, two = ([clip for block, clip in members if block == side] for side in (first, second))
  against = None if first == second else _files(two)
  if not one or not two:
    return
  for found in find_duplicates(
    *_files(one), against=against, cosine=settings.cosine, overlay=settings.overlay
  ):
    yield found if found.first <= found.second else _turned(found)


def _files(clips: Sequence[Embedded]) -> tuple[list[File], np.ndarray]:
  return [file for file, _ in clips], np.stack([vector for _, vector in clips])


def _turned(found: Duplicate) -> Duplicate:
  """The same pair with the smaller id first, as it comes out without blocks."""
  return dataclasses.replace(
    found,
    first=found.second,
    second=found.first,
    first_path=found.second_path,
    second_path=found.first_path,
    offset_seconds=-found.offset_seconds or 0.0,
  )


def main(argv: Sequence[str] | None = None, *, load: LoadEncoder = load_encoder) -> int:
  """Exit status 2 and one sentence for what a user can mend."""
  parser = beam_parser("n2m label duplicates-beam", __doc__)
  parser.add_argument("source", help="manifest.jsonl or its folder")
  parser.add_argument("--out", required=True, help=f"folder for {DUPLICATES}")
  parser.add_argument("--encoder", required=True, help="as of n2m label run")
  parser.add_argument("--blocks", type=int, default=8, help="%(default)s")
  parser.add_argument("--cosine", type=float, default=COSINE, help="of vectors; %(default)s")
  default, help = Overlay.threshold, "of the audio; %(default)s"
  parser.add_argument("--correlation", type=float, default=default, help=help)
  args, beam_args = parser.parse_known_args(argv)
  try:
    overlay = Overlay(threshold=args.correlation)
    pairs, dead = duplicates_with_beam(
      args.source,
      out_dir=args.out,
      encoder=args.encoder,
      load=load,
      find=FindDuplicates(blocks=args.blocks, cosine=args.cosine, overlay=overlay),
      beam_args=beam_args,
    )
    print(f"{pairs} pairs are one recording: {Path(args.out) / DUPLICATES}\nleft out: {dead}")
  except (UserError, OSError) as error:
    print(f"error: {error}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  # Under the module's own name, so that workers in other processes find its functions.
  from data_pipelines.duplicates_beam import main as run

  sys.exit(run())
