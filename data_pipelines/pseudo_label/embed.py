"""Clips and captions -> vectors, through any encoder; what cannot be embedded gets a reason."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.manifest import Clip
from data_pipelines.parallel import Progress, no_progress, ordered_map
from data_pipelines.pseudo_label.store import Item, Store, fill_shard, fill_store, shard_of
from data_pipelines.pseudo_label.vocabularies import Vocabulary, caption_id
from data_pipelines.report import describe_error
from noise2music.audio.wav_io import read_audio
from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import AudioTextEncoder, EncoderError, check_vectors
from noise2music.joint_embedding.precomputed import Precomputed

CLIPS_A_SHARD = 1_024
Encoder = AudioTextEncoder | Precomputed


def clip_items(clips: Iterable[Clip], *, folder: str | os.PathLike) -> list[Item]:
  """Named by the clip's id, stamped with size and time of the file; folder: of the manifest."""
  return [
    Item(id=clip.id, what=os.path.abspath(path), stamp=_stamp(path))
    for clip, path in ((clip, clip.audio_path(folder)) for clip in clips)
  ]


def embed_clips(
  encoder: Encoder, items: Sequence[Item], *, workers: int | None = None
) -> list[np.ndarray | str]:
  """For each clip its vector float32 [width], or why it has none.

  One clip that an encoder cannot take does not cost the others of its batch. Raises UserError for
  an encoder that does not take a second of noise either, and so is broken.
  """
  if isinstance(encoder, Precomputed):
    missing = "has no vector: add its id to the .npz of the encoder"
    return [
      encoder.embed_clips([item.id])[0] if encoder.has_clip(item.id) else missing for item in items
    ]

  def load(item: Item) -> np.ndarray | str:
    try:
      return read_audio(item.what, sample_rate_hz=encoder.sample_rate_hz)[0]
    except (OSError, ValueError) as error:
      return describe_error(error)

  audio = list(ordered_map(load, items, workers=workers))
  good = [row for row, samples in enumerate(audio) if not isinstance(samples, str)]
  for row, vector in zip(good, _vectors(encoder, [audio[row] for row in good]), strict=True):
    audio[row] = vector
  return audio


def embed_captions(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
  """float32 [texts, width], checked. Raises UserError."""
  return check_vectors(
    encoder.embed_texts(list(texts)), rows=len(texts), width=encoder.width, name="the encoder"
  )


def store_clips(
  folder: str | os.PathLike,
  items: Sequence[Item],
  *,
  encoder: Encoder,
  workers: int | None = None,
  progress: Progress = no_progress,
) -> Store:
  """The vectors of clips, kept in `folder`. Raises as `fill_store` and `embed_clips`."""
  return fill_store(
    folder,
    items,
    embed=lambda some: embed_clips(encoder, some, workers=workers),
    fingerprint=encoder.fingerprint,
    width=encoder.width,
    shard_rows=CLIPS_A_SHARD,
    progress=progress,
  )


def store_captions(
  folder: str | os.PathLike,
  vocabulary: Vocabulary,
  *,
  encoder: Encoder,
  progress: Progress = no_progress,
) -> Store:
  """The vectors of a vocabulary, kept in `folder`."""
  items = _caption_items(vocabulary.captions)
  return fill_store(folder, items, **_caption_settings(encoder), progress=progress)


def store_caption_shard(
  folder: str | os.PathLike, vocabulary: Vocabulary, shard: int, *, encoder: Encoder
) -> int:
  """One shard of `store_captions`; returns how many captions were embedded."""
  items = _caption_items(shard_of(vocabulary.captions, shard))
  return fill_shard(folder, shard, items, **_caption_settings(encoder))


def _caption_items(captions: Sequence[str]) -> list[Item]:
  return [Item(id=caption_id(text), what=text) for text in captions]


def _caption_settings(encoder: Encoder) -> dict[str, Any]:
  def embed(some: Sequence[Item]) -> list[np.ndarray]:
    return list(embed_captions(encoder, [item.what for item in some]))

  fingerprint, width = encoder.fingerprint, encoder.width
  return {"embed": embed, "fingerprint": fingerprint, "width": width, "batch_size": 1_024}


def _vectors(encoder: AudioTextEncoder, clips: list[np.ndarray]) -> list[np.ndarray | str]:
  if not clips:
    return []

  def embed(some: list[np.ndarray]) -> np.ndarray:
    vectors = encoder.embed_audio(some)
    return check_vectors(vectors, rows=len(some), width=encoder.width, name="the encoder")

  try:
    return list(embed(clips))
  except Exception:  # an encoder is anybody's code: the clip that upsets it is sought
    out = []
    for clip in clips:
      try:
        out.append(embed([clip])[0])
      except Exception as error:
        out.append(describe_error(error))
  # Whether a clip is to blame must not hang on its neighbours, so the encoder itself is asked.
  if all(isinstance(vector, str) for vector in out):
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, encoder.sample_rate_hz)
    try:
      embed([noise.astype(np.float32)])
    except UserError:
      raise
    except Exception as error:
      raise EncoderError(f"the encoder takes no clip ({describe_error(error)}): mend it") from error
  return out


def _stamp(path: Path) -> str:
  try:
    status = path.stat()
  except (OSError, ValueError):
    return ""
  return f"{status.st_size}.{status.st_mtime_ns}"
