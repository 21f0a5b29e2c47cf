"""A TFDS data set of clips: from a manifest to ArrayRecord shards.

  build_shards("clips/manifest.jsonl", "shards", shards=64)

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
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer
from tensorflow_datasets.core.utils import shard_utils

from data_pipelines.manifest import write_json_lines
from data_pipelines.sources import DEFAULT_SPLIT, SHARD_FORMAT, ManifestSource, RecordError
from data_pipelines.tf_example import in_order
from noise2music.errors import UserError

REFUSED_NAME = "refused.jsonl"


class Clips(tfds.core.GeneratorBasedBuilder):
  """Use `build_shards`; this is what it hands to TFDS."""

  VERSION = tfds.core.Version("1.0.0")

  def __init__(self, *, source: ManifestSource, **kwargs):
    self._source = source
    self.refused: list[dict[str, str]] = []
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
    rows = collections.defaultdict(list)
    for k, clip in enumerate(self._source.clips):
      rows[clip.split or DEFAULT_SPLIT].append(k)
    return {split: self._generate_examples(ks) for split, ks in sorted(rows.items())}

  def _generate_examples(self, rows: list[int]) -> Iterator[tuple[str, dict]]:
    for k in rows:
      clip = self._source.clips[k]
      try:
        audio = self._source[k].audio()
      except RecordError as error:
        self.refused.append({"id": error.name, "reason": error.reason})
        continue
      record = clip.to_json()
      captions = [
        {"text": c.pop("text"), "kind": c.pop("kind"), "json": json.dumps(c, sort_keys=True)}
        for c in record.pop("captions")
      ]
      texts = {name: record.pop(name) or "" for name in ("path", "license", "split", "sha256")}
      yield (
        record["id"],
        {
          **texts,
          "id": record.pop("id"),
          "audio": audio,
          "captions": captions,
          "json": json.dumps(record, sort_keys=True),
        },
      )

  def _example_writer(self) -> writer.ExampleWriter:
    return _InOrder(self.info.file_format)


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
) -> Path:
  """Writes the clips of a manifest as ArrayRecord shards and returns the folder they lie in.

  Args:
    manifest: a manifest.jsonl or its folder; all its clips must have one sample rate.
    out_dir: where the data set's folder is made; it must not hold one yet.
    shards: how many for each split, or one a clip where clips are fewer; by default TFDS chooses by
      size (about 1 GB at most).
    split: only this split; by default each of them.

  Clips that cannot be read are left out and listed in `refused.jsonl` beside the shards.

  Raises:
    UserError: nothing to write, mixed sample rates, or shards are there already.
  """
  source = ManifestSource(manifest, split=split)
  if shards is not None and shards < 1:
    raise UserError(f"{shards} shards cannot be; give 1 or more")
  for name in {clip.split or DEFAULT_SPLIT for clip in source.clips}:
    if not re.fullmatch(r"\w+", name) or name == "all":
      raise UserError(
        f"TFDS has no split called {name!r}; rename it in {manifest} with letters, digits and _"
      )
  builder = Clips(source=source, data_dir=os.fspath(out_dir), file_format="array_record")
  folder = Path(builder.data_path)
  if folder.exists():
    raise UserError(f"{folder} holds shards already; remove it or choose another output folder")
  try:
    builder.download_and_prepare(download_config=_DownloadConfig(num_shards=shards))
  except AssertionError as error:
    if builder.refused:
      raise UserError(
        f"a split has no clip that can be read, {builder.refused[0]['id']} for one: "
        f"{builder.refused[0]['reason']}; mend the clips or leave the split out"
      ) from error
    raise
  write_json_lines(folder / REFUSED_NAME, sorted(builder.refused, key=lambda r: r["id"]))
  return folder
