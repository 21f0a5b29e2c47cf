"""Where metrics, audio and pictures go: JSON lines, TensorBoard, files in the run's folder."""

import json
import math
import os
import struct
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

METRICS_FILE = "metrics.jsonl"

# name -> (float [samples] in [-1, 1], sample rate in Hz)
Audio = Mapping[str, tuple[np.ndarray, int]]
# name -> [height, width] or [height, width, 3], uint8, or float in [0, 1]
Images = Mapping[str, np.ndarray]


@runtime_checkable
class Writer(Protocol):
  """`step` is the number of updates done."""

  def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

  def audio(self, step: int, clips: Audio) -> None: ...

  def images(self, step: int, pictures: Images) -> None: ...

  def close(self) -> None: ...


class JsonLines:
  """MODEL_DIR/metrics.jsonl: one object a line, "step" first. Audio and pictures pass it by."""

  def __init__(self, folder: Path, *, start_step: int):
    self._path = folder / METRICS_FILE
    self._forget_after(start_step)
    self._file = self._path.open("a", encoding="utf-8")

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    # NaN is no JSON; null says "was not a number".
    row = {name: v if math.isfinite(v) else None for name, v in values.items()}
    self._file.write(json.dumps({"step": step, **row}) + "\n")
    self._file.flush()

  def audio(self, step: int, clips: Audio) -> None:
    pass

  def images(self, step: int, pictures: Images) -> None:
    pass

  def close(self) -> None:
    self._file.close()

  def _forget_after(self, step: int) -> None:
    """Drops what was logged after the step that training goes on from, and a torn last line."""
    if not self._path.exists():
      return
    kept = [line for line in self._path.read_text("utf-8").splitlines() if _step_of(line) <= step]
    temporary = self._path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept), "utf-8")
    os.replace(temporary, self._path)


class TensorBoard:
  """MODEL_DIR/tensorboard, for `tensorboard --logdir MODEL_DIR`."""

  def __init__(self, folder: Path, *, start_step: int):
    # Not SummaryWriter: its thread dies on a full disk without a word, and whoever writes next
    # waits for it for ever.
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import SessionLog

    (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
    self._events = EventsWriter(str(folder / "tensorboard" / "events"))
    # TensorBoard then forgets what an earlier process logged from this step on.
    self._add(start_step + 1, session_log=SessionLog(status=SessionLog.START))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    from tensorboardX.proto.summary_pb2 import Summary

    rows = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    self._add(step, summary=Summary(value=rows))
    self._events.flush()

  def audio(self, step: int, clips: Audio) -> None:
    from tensorboardX.summary import audio

    for name, (samples, rate) in clips.items():
      self._add(step, summary=audio(name, np.clip(samples, -1, 1), sample_rate=rate))
    self._events.flush()

  def images(self, step: int, pictures: Images) -> None:
    # Not summary.image: it would need Pillow to make the same few bytes.
    from tensorboardX.proto.summary_pb2 import Summary

    for name, picture in pictures.items():
      pixels = to_pixels(picture)
      image = Summary.Image(
        height=pixels.shape[0],
        width=pixels.shape[1],
        colorspace=pixels.shape[2],
        encoded_image_string=encode_png(pixels),
      )
      self._add(step, summary=Summary(value=[Summary.Value(tag=name, image=image)]))
    self._events.flush()

  def close(self) -> None:
    self._events.close()

  def _add(self, step: int, **what) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._events.write_event(Event(wall_time=time.time(), step=step, **what))


class SampleFiles:
  """MODEL_DIR/samples/<step>/<name>.wav and .png, for people without TensorBoard."""

  def __init__(self, folder: Path):
    self._folder = folder / "samples"

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    pass

  def audio(self, step: int, clips: Audio) -> None:
    if not clips:
      return
    # Imported where it is needed: training without samples needs no audio library.
    from noise2music.audio.wav_io import write_audio

    for name, (samples, rate) in clips.items():
      write_audio(self._path(step, name, ".wav"), np.asarray(samples), sample_rate_hz=rate)

  def images(self, step: int, pictures: Images) -> None:
    for name, picture in pictures.items():
      self._path(step, name, ".png").write_bytes(encode_png(to_pixels(picture)))

  def close(self) -> None:
    pass

  def _path(self, step: int, name: str, suffix: str) -> Path:
    safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in name)
    path = self._folder / f"{step:08d}" / (safe + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def to_pixels(picture: np.ndarray) -> np.ndarray:
  """uint8 [height, width, 1 or 3] from uint8 or from floats in [0, 1]."""
  picture = np.asarray(picture)
  if picture.dtype != np.uint8:
    picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
  return picture[..., None] if picture.ndim == 2 else picture


def encode_png(pixels: np.ndarray) -> bytes:
  """PNG bytes of uint8 [height, width, 1 or 3] (RFC 2083: no filter, one IDAT)."""
  height, width, channels = pixels.shape

  def chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

  header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
  rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))
  body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + body


def _step_of(line: str) -> float:
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return math.inf
