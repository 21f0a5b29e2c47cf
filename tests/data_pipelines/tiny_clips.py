"""Tiny data sets for the tests of this folder: real wav files of a few thousand samples."""

import hashlib
import wave
from pathlib import Path

import numpy as np

from data_pipelines.index_batches import IndexBatches
from data_pipelines.manifest import Caption, Clip, write_manifest
from data_pipelines.sources import ManifestSource, ShardSource
from noise2music.batch import BatchSpec
from noise2music.text.tokenizer import ByteTokenizer

RATE = 8_000


def ramp(number: int, samples: int) -> np.ndarray:
  """int16 [samples] that tells which clip (its first 100 values) and which sample it is."""
  return ((np.arange(samples) * 7 + number * 1_000) % 30_000).astype(np.int16)


def write_wav(path: Path, audio: np.ndarray, *, rate: int = RATE) -> None:
  with wave.open(str(path), "wb") as out:
    out.setnchannels(1)
    out.setsampwidth(2)
    out.setframerate(rate)
    out.writeframes(audio.astype("<i2").tobytes())


def write_clips(folder: Path, *, count: int, samples: int = 1_000, rate: int = RATE, first: int = 0,
                split: str | None = None) -> list[Clip]:  # fmt: skip
  """Clip i has samples + 100 i samples; clips 0, 4, 8, ... have no caption."""
  folder.mkdir(parents=True, exist_ok=True)
  clips = []
  for i in range(first, first + count):
    length = samples + 100 * i
    write_wav(folder / f"{i}.wav", ramp(i, length), rate=rate)
    long = tuple(Caption(text=f"long {i} {j}", kind="long", score=j / 10) for j in range(i % 4))
    short = (Caption(text=f"short {i}", kind="short", source="tags"),) if i % 4 else ()
    clips.append(
      Clip(
        path=f"{i}.wav",
        duration=length / rate,
        sample_rate=rate,
        captions=long + short,
        split=split,
        id=f"clip-{i}",
        extra={"work": f"opus {i}"},
      )
    )
  return clips


def write_set(folder: Path, *, count: int, **kwargs) -> Path:
  """A folder with `count` clips and their manifest."""
  write_manifest(folder / "manifest.jsonl", write_clips(folder, count=count, **kwargs))
  return folder


def digest_batches(path: str | Path) -> str:
  """sha256 of the first batches of the test split of a manifest's folder or a shards' folder."""
  manifest = (Path(path) / "manifest.jsonl").is_file()
  spec = BatchSpec(batch_size=2, seconds=0.1, sample_rate_hz=RATE, token_length=16)
  source = ManifestSource(path, split="test") if manifest else ShardSource(path, split="test")
  batches = IndexBatches(source=source, spec=spec, tokenizer=ByteTokenizer(), seed=3)
  digest = hashlib.sha256()
  iterator = batches.batches()
  for _ in range(4):
    batch = next(iterator)
    spec.check(batch)
    for name in sorted(batch):
      digest.update(batch[name].tobytes())
  iterator.close()
  return digest.hexdigest()
