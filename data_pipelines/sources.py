"""Random access to clips: `source[k]` is the k-th example, from audio files or from shards.

numpy alone (with soundfile, or array_record and protobuf), so that training runs where TensorFlow
is not installed. An example reads its audio when asked, and only the snippet that is asked for.

A record that cannot be read raises RecordError with its name; whoever iterates decides what to do
(`index_batches` takes another clip and reports it). Everything else that can be wrong with a source
is refused when it is built.

All clips of a source have one sample rate. Clips of other rates are brought to it by ingestion
(24 kHz), once, and not again at each step.
"""

import bisect
import collections
import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile

from data_pipelines.manifest import Caption, Clip, manifest_path, read_manifest
from data_pipelines.tf_example import parse_example
from noise2music.batch import to_int16
from noise2music.errors import UserError

SHARD_FORMAT = 1  # the layout of a record that `datasets/clips.py` writes
DEFAULT_SPLIT = "train"  # of a clip whose manifest line names none


class RecordError(UserError):
  """One example that cannot be read; the others can. Says which and why."""

  def __init__(self, name: str, reason: object):
    super().__init__(f"{name}: {reason}")
    self.name = name
    self.reason = str(reason)

  def to_json(self) -> dict[str, str]:
    return {"id": self.name, "reason": self.reason}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """One clip.

  id: its name in the manifest. sample_rate_hz, samples: of its audio. captions: what is said of it.
  read(start, length) -> int16 [length], mono: part of its audio; raises RecordError.
  """

  id: str
  sample_rate_hz: int
  samples: int
  captions: tuple[Caption, ...]
  read: Callable[[int, int], np.ndarray]

  def audio(self) -> np.ndarray:
    """All of it, int16 [samples]."""
    return self.read(0, self.samples)


class Source(Protocol):
  """What an index source offers."""

  @property
  def sample_rate_hz(self) -> int: ...

  def __len__(self) -> int: ...

  def __getitem__(self, k: int) -> Example: ...

  def name(self, k: int) -> str:
    """Names example k without reading it, for a report."""

  def captions(self, k: int) -> tuple[Caption, ...]:
    """What is said of example k, without its audio where that lies elsewhere."""

  def fingerprint(self) -> str:
    """Changes when the examples or their order do; a checkpoint keeps it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
  """Several sources drawn in proportion to `weights` (default: to their sizes).

  `data_pipelines.index_order` says how; a Mixture goes wherever a source goes.
  """

  sources: tuple[Source, ...]
  weights: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class ManifestSource:
  """The clips of a manifest, read from their audio files by seeking.

  path: a `manifest.jsonl`, or the folder that holds one. split: only the clips of this split; a
  clip that names none counts as "train". None takes all. Raises UserError for a manifest that
  cannot be read, a split without clips, or two clips with one id.
  """

  path: str | Path
  _: dataclasses.KW_ONLY
  split: str | None = None

  def __post_init__(self):
    _ = self.clips

  @property
  def folder(self) -> Path:
    """That of the manifest, which the paths of clips begin at."""
    return manifest_path(self.path).parent

  @functools.cached_property
  def clips(self) -> tuple[Clip, ...]:
    found = tuple(read_manifest(manifest_path(self.path)))
    if self.split is not None:
      splits = collections.Counter(clip.split or DEFAULT_SPLIT for clip in found)
      found = tuple(clip for clip in found if (clip.split or DEFAULT_SPLIT) == self.split)
      _expect_split(self.path, self.split, splits)
    if not found:
      raise UserError(f"{self.path} names no clips; import some with `n2m data import`")
    twice = [name for name, n in collections.Counter(clip.id for clip in found).items() if n > 1]
    if twice:
      raise UserError(f"{self.path} has the id {twice[0]!r} more than once; give each clip its own")
    return found

  @functools.cached_property
  def sample_rate_hz(self) -> int:
    rates = collections.Counter(clip.sample_rate for clip in self.clips)
    if len(rates) > 1:
      raise UserError(
        f"{self.path} mixes the sample rates {dict(sorted(rates.items()))} (Hz: clips); bring them "
        "to one with `n2m data cut`"
      )
    return next(iter(rates))

  def __len__(self) -> int:
    return len(self.clips)

  def __getitem__(self, k: int) -> Example:
    return open_clip(self.clips[k], self.folder)

  def name(self, k: int) -> str:
    return self.clips[k].id

  def captions(self, k: int) -> tuple[Caption, ...]:
    return self.clips[k].captions

  def fingerprint(self) -> str:
    digest = hashlib.sha256()
    for clip in self.clips:
      digest.update(json.dumps(clip.to_json(), sort_keys=True).encode())
    return digest.hexdigest()


def open_clip(clip: Clip, folder: Path) -> Example:
  """A clip of the manifest in `folder`; its audio is not read yet. Raises RecordError."""
  path = clip.audio_path(folder)
  try:
    info = soundfile.info(str(path))
  except (OSError, RuntimeError) as error:
    raise RecordError(clip.id, error) from error
  if info.samplerate != clip.sample_rate:
    raise RecordError(
      clip.id, f"{path} is at {info.samplerate} Hz, its manifest says {clip.sample_rate}"
    )
  if info.frames < 1:
    raise RecordError(clip.id, f"{path} holds no samples")
  return Example(
    id=clip.id,
    sample_rate_hz=clip.sample_rate,
    samples=info.frames,
    captions=clip.captions,
    read=functools.partial(_read_snippet, clip.id, path),
  )


@dataclasses.dataclass(frozen=True)
class ShardSource:
  """The clips in ArrayRecord shards that `datasets/clips.py` wrote.

  path: the folder with `dataset_info.json`, or one above it. split: which of its splits. Raises
  UserError for a folder without shards, a split that it does not have, or a shard that is missing.
  """

  path: str | Path
  _: dataclasses.KW_ONLY
  split: str = DEFAULT_SPLIT

  def __post_init__(self):
    _ = self._records, self.sample_rate_hz

  @functools.cached_property
  def folder(self) -> Path:
    root = Path(self.path)
    found = sorted(
      itertools.chain.from_iterable(
        root.glob("*/" * depth + "dataset_info.json") for depth in range(4)
      )
    )
    if len(found) != 1:
      several = f"{len(found)} data sets; name the folder of one" if found else "no data set"
      raise UserError(
        f"{root} holds {several}{'' if found else '; write one with `n2m data shards`'}"
      )
    return found[0].parent

  @functools.cached_property
  def sample_rate_hz(self) -> int:
    path = self.folder / "metadata.json"
    metadata = json.loads(path.read_text()) if path.is_file() else {}
    if metadata.get("shard_format") != SHARD_FORMAT:
      raise UserError(
        f"{self.folder} was not written by this version of `n2m data shards`; write it again"
      )
    return int(metadata["sample_rate_hz"])

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, k: int) -> Example:
    if not 0 <= k < len(self):
      raise IndexError(k)
    try:
      features = parse_example(self._records[k])
      name = features["id"][0].decode()
      audio = np.frombuffer(features["audio"][0], "<i2")
      captions = tuple(
        Caption.from_json({**json.loads(extra), "text": text.decode(), "kind": kind.decode()})
        for text, kind, extra in zip(
          features["captions/text"], features["captions/kind"], features["captions/json"],
          strict=True,
        )
      )  # fmt: skip
    except (ValueError, KeyError, IndexError, OSError, RuntimeError) as error:
      raise RecordError(self.name(k), error) from error
    return Example(
      id=name,
      sample_rate_hz=self.sample_rate_hz,
      samples=audio.size,
      captions=captions,
      read=lambda start, length: audio[start : start + length],
    )

  def captions(self, k: int) -> tuple[Caption, ...]:
    return self[k].captions

  def name(self, k: int) -> str:
    shard = bisect.bisect_right(self._ends, k)
    return f"{self._shards[shard].filename.name}#{k - ([0, *self._ends])[shard]}"

  def fingerprint(self) -> str:
    digest = hashlib.sha256()
    for shard in self._shards:
      size = shard.filename.stat().st_size
      digest.update(f"{shard.filename.name} {shard.take} {size}\n".encode())
    return digest.hexdigest()

  @functools.cached_property
  def _shards(self) -> tuple["_Shard", ...]:
    info = json.loads((self.folder / "dataset_info.json").read_text())
    splits = {split["name"]: split for split in info["splits"]}
    _expect_split(self.folder, self.split, splits)
    lengths = [int(n) for n in splits[self.split]["shardLengths"]]
    shards = tuple(
      _Shard(
        self.folder / f"{info['name']}-{self.split}.array_record-{i:05d}-of-{len(lengths):05d}",
        take=n,
      )
      for i, n in enumerate(lengths)
    )
    for shard in shards:
      if not shard.filename.is_file():
        raise UserError(f"the shard {shard.filename} is missing; copy it there or write all again")
    return shards

  @functools.cached_property
  def _ends(self) -> list[int]:
    return list(itertools.accumulate(shard.take for shard in self._shards))

  @functools.cached_property
  def _records(self) -> Sequence[bytes]:
    try:
      from array_record.python.array_record_data_source import ArrayRecordDataSource
    except ImportError as error:
      raise UserError(
        "shards need array_record; pip install 'noise2music[shards]', or read the manifest instead"
      ) from error
    # A shard is opened when its first record is asked for.
    return ArrayRecordDataSource(list(self._shards))


@dataclasses.dataclass(frozen=True)
class _Shard:
  """What array_record calls a file instruction: all records of one file."""

  filename: Path
  _: dataclasses.KW_ONLY
  take: int
  skip: int = 0

  @property
  def examples_in_shard(self) -> int:
    return self.take


def _expect_split(path: str | Path, split: str, splits) -> None:
  if split not in splits:
    raise UserError(f"{path} has no split {split!r}; it has {', '.join(sorted(splits))}")


def _read_snippet(name: str, path: Path, start: int, length: int) -> np.ndarray:
  """int16 [length] of an audio file from sample `start` on, channels averaged."""
  try:
    with soundfile.SoundFile(path) as file:
      file.seek(start)
      if file.subtype == "PCM_16" and file.channels == 1:
        audio = file.read(length, dtype="int16")
      else:
        audio = file.read(length, dtype="float32", always_2d=True).mean(axis=1)
  except (OSError, RuntimeError) as error:
    raise RecordError(name, error) from error
  if audio.size != length:
    raise RecordError(name, f"{path} ends at sample {start + audio.size}, it was to have more")
  if audio.dtype == np.int16:
    return audio
  if not np.isfinite(audio).all():
    raise RecordError(name, f"{path} holds numbers that are not finite")
  return to_int16(audio)
