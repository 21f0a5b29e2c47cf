"""Metrics files: resumed without doubles, valid JSON and PNG whatever the numbers."""

import json
import struct
import zlib

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from noise2music.training.writers import JsonLines, SampleFiles, TensorBoard, encode_png, to_pixels


def rows(folder):
  return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_the_step_one_goes_on_from_are_dropped(tmp_path):
  writer = JsonLines(tmp_path, start_step=0)
  for step in (10, 20, 30):
    writer.scalars(step, {"loss": step / 10})
  writer.close()
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"step": 35, "lo')  # torn by a kill
  writer = JsonLines(tmp_path, start_step=20)
  writer.scalars(30, {"loss": 7.0})
  writer.close()
  assert rows(tmp_path) == [
    {"step": 10, "loss": 1.0},
    {"step": 20, "loss": 2.0},
    {"step": 30, "loss": 7.0},
  ]


def test_a_number_that_is_none_is_null(tmp_path):
  writer = JsonLines(tmp_path, start_step=0)
  writer.scalars(1, {"loss": float("nan"), "norm": float("inf")})
  writer.close()
  assert rows(tmp_path) == [{"step": 1, "loss": None, "norm": None}]


def test_png_holds_the_pixels():
  pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
  data = encode_png(pixels)
  assert data[:8] == b"\x89PNG\r\n\x1a\n"
  assert struct.unpack(">II", data[16:24]) == (7, 5)
  start = data.index(b"IDAT")
  length = struct.unpack(">I", data[start - 4 : start])[0]
  raw = zlib.decompress(data[start + 4 : start + 4 + length])
  decoded = np.frombuffer(raw, np.uint8).reshape(5, 1 + 7 * 3)[:, 1:].reshape(5, 7, 3)
  np.testing.assert_array_equal(decoded, pixels)


def test_float_pictures_are_scaled_and_clipped():
  pixels = to_pixels(np.array([[0.0, 0.5, 1.0, 2.0, -1.0]]))
  np.testing.assert_array_equal(pixels[..., 0], [[0, 128, 255, 255, 0]])


def test_tensorboard_gets_scalars_audio_and_pictures(tmp_path):
  writer = TensorBoard(tmp_path, start_step=0)
  writer.scalars(3, {"loss": 0.25})
  writer.audio(3, {"clip": (np.zeros(100, np.float32), 8000)})
  writer.images(3, {"mel": np.zeros((4, 6))})
  writer.close()
  (path,) = (tmp_path / "tensorboard").iterdir()
  values = {}
  data = path.read_bytes()
  while data:
    (length,) = struct.unpack("<Q", data[:8])
    event = Event.FromString(data[12 : 12 + length])
    data = data[16 + length :]
    values |= {value.tag: value for value in event.summary.value}
  assert values["loss"].simple_value == 0.25
  assert values["clip"].audio.sample_rate == 8000
  assert (values["mel"].image.height, values["mel"].image.width) == (4, 6)


def test_pictures_are_files_with_names_that_stay_in_the_folder(tmp_path):
  SampleFiles(tmp_path).images(12, {"../guide 3.0/clip": np.zeros((2, 2))})
  (path,) = (tmp_path / "samples").rglob("*.png")
  assert path == tmp_path / "samples" / "00000012" / ".._guide_3.0_clip.png"
