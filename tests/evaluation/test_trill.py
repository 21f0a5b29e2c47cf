"""TRILL's wrapper, on a model with its signature: a row each half second, its loudness and more."""

import sys
from pathlib import Path

import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.evaluation.embedders.encoder import AudioEncoder
from noise2music.evaluation.embedders.load import load_audio_encoder
from noise2music.evaluation.embedders.trill import Trill

tf = pytest.importorskip("tensorflow")
RATE = 16_000


def save(folder: Path, *, gain: float = 1.0) -> Path:
  class Model(tf.Module):
    def __init__(self):
      super().__init__()
      self.gain = tf.Variable(gain)

    @tf.function(
      input_signature=[
        tf.TensorSpec([None], tf.float32, name="samples"),
        tf.TensorSpec([], tf.int32, name="sample_rate"),
      ]
    )
    def __call__(self, samples, sample_rate):
      length = sample_rate // 2
      rows = tf.shape(samples)[0] // length
      windows = tf.reshape(samples[: rows * length], [rows, length])
      loud = self.gain * tf.reduce_max(tf.abs(windows), axis=1, keepdims=True)
      rate = tf.ones_like(loud) * tf.cast(sample_rate, tf.float32)
      return {"embedding": tf.concat([loud, rate, 2 * loud], 1), "layer19": tf.repeat(loud, 5, 1)}

  tf.saved_model.save(Model(), str(folder))
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
  return save(tmp_path_factory.mktemp("trill"))


def test_rows_widths_and_layers_are_what_the_model_gives(folder):
  encoder = load_audio_encoder(f"trill:{folder}")
  assert isinstance(encoder, AudioEncoder)
  assert (encoder.name, encoder.width, encoder.sample_rate_hz) == ("trill", 3, RATE)
  clip = np.repeat([0.1, 0.2, 0.3], RATE // 2)
  rows = encoder.embed([clip, clip[:RATE]])
  assert [row.dtype for row in rows] == [np.float32, np.float32]
  wanted = [[level, RATE, 2 * level] for level in (0.1, 0.2, 0.3)]
  np.testing.assert_allclose(rows[0], wanted, rtol=1e-6)
  np.testing.assert_array_equal(rows[1], rows[0][:2])
  deeper = load_audio_encoder(f"trill:{folder}:layer19")
  assert deeper.width == 5
  assert deeper.protocol.endswith("layer19")
  assert encoder.protocol != deeper.protocol


def test_other_weights_have_another_fingerprint(folder, tmp_path):
  first = Trill(folder=folder).fingerprint
  assert first == Trill(folder=folder, layer="layer19").fingerprint
  assert len(first) == 12
  assert first != Trill(folder=save(tmp_path / "louder", gain=2.0)).fingerprint


def test_short_clips_are_refused(folder):
  with pytest.raises(UserError, match=r"clip 0 lasts 0.500 s, shorter than the window of trill"):
    Trill(folder=folder).embed([np.zeros(RATE // 2)])


def test_what_is_no_trill_is_refused(folder, tmp_path):
  fetch = r"fetch https://tfhub.dev/google/nonsemantic-speech-benchmark/trill/3.*trill:FOLDER"
  with pytest.raises(UserError, match=rf"TRILL has no folder: {fetch}"):
    load_audio_encoder("trill:")
  with pytest.raises(UserError, match=rf"there is no TRILL in .*nothing: {fetch}"):
    load_audio_encoder(f"trill:{tmp_path}/nothing")
  with pytest.raises(UserError, match=r"no layer 'layer7': choose one of .*embedding.*layer19"):
    Trill(folder=folder, layer="layer7")


def test_another_model_is_refused(tmp_path):
  class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def __call__(self, audio):
      return audio

  tf.saved_model.save(Model(), str(tmp_path))
  with pytest.raises(UserError, match=r"takes no samples and sample_rate") as caught:
    Trill(folder=tmp_path)
  assert "\n" not in str(caught.value)


def test_a_damaged_model_is_refused(tmp_path):
  folder = save(tmp_path / "model")
  (folder / "variables/variables.data-00000-of-00001").unlink()
  with pytest.raises(UserError, match=r"is damaged .*: copy it anew") as caught:
    Trill(folder=folder)
  assert "\n" not in str(caught.value)


def test_without_tensorflow(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(UserError, match=r"pip install 'noise2music\[tf\]'"):
    Trill(folder=folder)
