"""A TFDS data set of clips: from a manifest to ArrayRecord shards.

  build_shards("clips/manifest.jsonl", "shards", shards=64)    # beam_args=...: on many machines

writes `shards/clips/1.0.0/clips-train.array_record-00000-of-00064` and so on, one group of shards
for each split that the manifest names, and the JSON files of TFDS beside them. A record is a
`tf.train.Example`:

  id, path, license, split, sha256   one text each, "" where unknown
  audio                              int16 samples as little-endian bytes, mono
  captions/text, captions/kind       one text per caption
  captions/json, json                what else the manifest says of a caption, of the clip

The order of the records follows a hash of their ids, so the same manifest gives the same bytes.
Neither writing nor reading needs TensorFlow, only the extra `shards`.
"""

import collections
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.core.utils import shard_utils

from data_pipelines.beam_jobs import results_folder
from data_pipelines.manifest import Clip, write_json_lines
from data_pipelines.sources import (
  DEFAULT_SPLIT,
  SHARD_FORMAT,
  ManifestSource,
  RecordError,
  open_clip,
)
from data_pipelines.tf_example import in_order
from noise2music.errors import UserError

REFUSED_NAME = "refused.jsonl"


class Reader(Protocol):
  """Who reads the clips: `Here`, or the workers of Beam (`clips_beam.OnBeam`)."""

  @property
  def options(self) -> Any:
    """For Beam; None without."""

  def examples(self, split: str, clips: Sequence[Clip]) -> Any:
    """What TFDS takes as the examples of a split: an iterator, or a transform of Beam."""

  def refused(self) -> list[dict[str, str]]:
    """Afterwards: id and reason of each clip that could not be read, in any order."""


class Here:
  """Reads clip after clip in this process. folder: of the manifest."""

  options = None

  def __init__(self, folder: Path):
    self._folder, self._refused = folder, []

  def examples(self, split: str, clips: Sequence[Clip]) -> Iterator[tuple[str, dict]]:
    for clip in clips:
      try:
        yield example_of(clip, self._folder)
      except RecordError as error:
        self._refused.append(error.to_json())

  def refused(self) -> list[dict[str, str]]:
    return self._refused


class Clips(tfds.core.GeneratorBasedBuilder):
  """Use `build_shards`; this is what it hands to TFDS."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, source: ManifestSource, reader: Reader, **kwargs):
    self._source, self._reader = source, reader
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    text = tfds.features.Text()
    names = ("id", "path", "license", "split", "sha256", "json")
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          **dict.fromkeys(names, text),
          "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding="bytes"),
          "captions": tfds.features.Sequence({"text": text, "kind": text, "json": text}),
        }
      ),
      metadata=tfds.core.MetadataDict(
        shard_format=SHARD_FORMAT, sample_rate_hz=self._source.sample_rate_hz
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      split: self._generate_examples(split, clips)
      for split, clips in sorted(_by_split(self._source).items())
    }

  def _generate_examples(self, split: str, clips: Sequence[Clip]):
    return self._reader.examples(split, clips)

  def _example_writer(self) -> writer.ExampleWriter:
    return _InOrder(self.info.file_format)


def example_of(clip: Clip, folder: Path) -> tuple[str, dict[str, Any]]:
  """Key and features of one record. folder: of the manifest. Raises RecordError."""
  audio = open_clip(clip, folder).audio()
  record = clip.to_json()
  captions = [
    {"text": c.pop("text"), "kind": c.pop("kind"), "json": json.dumps(c, sort_keys=True)}
    for c in record.pop("captions")
  ]
  texts = {name: record.pop(name) or "" for name in ("path", "license", "split", "sha256")}
  return record["id"], {
    **texts,
    "id": record.pop("id"),
    "audio": audio,
    "captions": captions,
    "json": json.dumps(record, sort_keys=True),
  }


class _InOrder(writer.ExampleWriter):
  """The same bytes in every process."""

  def write(self, path, examples):
    return super().write(path, ((key, in_order(record)) for key, record in examples))


class _ShardConfig(shard_utils.ShardConfig):
  """TFDS wants one number for all splits and fails on a split with fewer clips than shards."""

  def get_number_shards(self, total_size, num_examples, uses_precise_sharding=True):
    wanted = super().get_number_shards(total_size, num_examples, uses_precise_sharding)
    return max(1, min(wanted, num_examples))


class _DownloadConfig(tfds.download.DownloadConfig):
  def get_shard_config(self):
    return _ShardConfig(**dataclasses.asdict(super().get_shard_config()))


def build_shards(
  manifest: str | os.PathLike,
  out_dir: str | os.PathLike,
  *,
  shards: int | None = None,
  split: str | None = None,
  beam_args: Sequence[str] | None = None,
) -> Path:
  """Writes the clips of a manifest as ArrayRecord shards and returns the folder they lie in.

  Args:
    manifest: a manifest.jsonl or its folder; all its clips must have one sample rate.
    out_dir: where the data set's folder is made; it must not hold one yet.
    shards: how many for each split, or one a clip where clips are fewer; by default TFDS chooses by
      size (about 1 GB at most).
    split: only this split; by default each of them.
    beam_args: options for Beam, which then does the work; None: this process does. Records and
      their order are the same, shards may end elsewhere: `clips_beam` says why.

  Clips that cannot be read are left out and listed in `refused.jsonl` beside the shards.

  Raises:
    UserError: nothing to write, mixed sample rates, or shards are there already.
  """
  source, out_dir = ManifestSource(manifest, split=split), Path(out_dir).absolute()
  _expect_possible(source, shards)
  reader = Here(source.folder) if beam_args is None else _on_beam(source, out_dir, beam_args)
  builder = Clips(
    source=source, reader=reader, data_dir=os.fspath(out_dir), file_format="array_record"
  )
  folder = Path(builder.data_path)
  if folder.exists():
    raise UserError(f"{folder} holds shards already; remove it or choose another output folder")
  config = _DownloadConfig(num_shards=shards, beam_options=reader.options)
  try:
    builder.download_and_prepare(download_config=config)
  except Exception as error:
    _expect_some_of_each_split(source, error)
    raise
  refused = sorted(reader.refused(), key=lambda r: r["id"])
  written = sum(split.num_examples for split in builder.info.splits.values())
  if written + len(refused) != len(source):
    raise UserError(
      f"of {len(source)} clips {written} are in {folder} and {len(refused)} were left out: let all "
      "workers see one disk, remove the folder and run again"
    )
  write_json_lines(folder / REFUSED_NAME, refused)
  return folder


def _on_beam(source: ManifestSource, out_dir: Path, beam_args: Sequence[str]) -> Reader:
  from data_pipelines.datasets.clips_beam import OnBeam

  return OnBeam(
    folder=source.folder.absolute(), results=results_folder(out_dir), beam_args=beam_args
  )


def _by_split(source: ManifestSource) -> dict[str, list[Clip]]:
  found = collections.defaultdict(list)
  for clip in source.clips:
    found[clip.split or DEFAULT_SPLIT].append(clip)
  return found


def _expect_possible(source: ManifestSource, shards: int | None) -> None:
  if shards is not None and shards < 1:
    raise UserError(f"{shards} shards cannot be; give 1 or more")
  for name in _by_split(source):
    if not re.fullmatch(r"\w+", name) or name == "all":
      raise UserError(
        f"TFDS has no split called {name!r}; rename it in {source.path} with letters, digits and _"
      )


def _expect_some_of_each_split(source: ManifestSource, error: Exception) -> None:
  """Whether it is for a split without a clip that can be read that TFDS, or Beam, has failed."""
  for clips in _by_split(source).values():
    reader = Here(source.folder)
    if next(reader.examples("", clips), None) is None:
      first = reader.refused()[0]
      raise UserError(
        f"a split has no clip that can be read, {first['id']} for one: {first['reason']}; mend the "
        "clips or leave the split out"
      ) from error
