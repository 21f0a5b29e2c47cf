import sys
from pathlib import Path

import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import (
  AudioTextEncoder,
  EncoderError,
  check_vectors,
  pool_windows,
  split_windows,
)
from noise2music.joint_embedding.external import ExternalCommand
from noise2music.joint_embedding.load import load_encoder
from noise2music.joint_embedding.precomputed import Precomputed

# Width 3: loudness, length in seconds and 1 for a wav; counts of two letters and 1 for a text.
COMMAND = """\
import json, pathlib, sys, wave
import numpy as np
folder = pathlib.Path(sys.argv[-1])
requests = [json.loads(line) for line in open(folder / "requests.jsonl", encoding="utf-8")]
rows = []
for request in requests:
  if "wav" in request:
    file = wave.open(str(folder / request["wav"]))
    samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
    rows.append([np.abs(samples).max(), len(samples) / file.getframerate(), 1])
  else:
    rows.append([request["text"].count("a"), request["text"].count("é"), 1])
vectors = np.array(rows, np.float32).reshape(-1, 3)
vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
fingerprint, rate, wait = "v1", 4000, 0
{fault}
print("some progress", file=sys.stderr)
np.savez(folder / "vectors.npz", vectors=vectors, sample_rate_hz=rate, fingerprint=fingerprint)
"""


def command(tmp_path, fault: str = "", **settings) -> ExternalCommand:
  script = tmp_path / "encoder.py"
  script.write_text(COMMAND.replace("{fault}", fault))
  return ExternalCommand(command=(sys.executable, str(script)), **settings)


def test_a_clip_is_the_normalised_mean_of_its_windows_of_ten_seconds():
  clip = np.arange(25 * 8, dtype=np.float32)
  windows = split_windows(clip, sample_rate_hz=8)
  assert windows.shape == (2, 80)  # the half one at the end is dropped
  np.testing.assert_array_equal(windows.ravel(), clip[:160])
  short = split_windows(clip[:30], sample_rate_hz=8)
  assert short.shape == (1, 80)
  assert short[0, 30:].max() == 0
  pooled = pool_windows(np.array([[1.0, 0.0], [0.0, 1.0]]))
  np.testing.assert_allclose(pooled, [0.5**0.5, 0.5**0.5], rtol=1e-6)


def test_windows_that_cancel_out_have_no_direction():
  with pytest.raises(EncoderError, match="cancel out"):
    pool_windows(np.array([[1.0, 0.0], [-1.0, 0.0]]))


@pytest.mark.parametrize(
  ("vectors", "said"),
  [
    (np.eye(3), "gave 3 vectors for 2 requests"),
    (np.eye(2)[:, :1], "width 1 in place of 2"),
    (np.array([[1, 0], [np.nan, 0]]), "NaN"),
    (2 * np.eye(2), "length 2 .row 0.: divide"),
    (np.eye(2, dtype=int), "floats"),
  ],
)
def test_what_is_no_set_of_vectors_is_refused(vectors, said):
  with pytest.raises(EncoderError, match=said):
    check_vectors(vectors, rows=2, width=2, name="x")


def test_a_command_embeds_clips_and_texts(tmp_path):
  encoder = command(tmp_path, batch_size=2)
  assert isinstance(encoder, AudioTextEncoder)
  assert (encoder.width, encoder.sample_rate_hz, encoder.fingerprint) == (3, 4000, "v1")
  clips = [np.full(4000 * n, 0.5, np.float32) for n in (1, 2, 3)]
  wanted = np.array([[0.5, n, 1] for n in (1, 2, 3)])
  wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
  np.testing.assert_allclose(encoder.embed_audio(clips), wanted, atol=1e-4)
  texts = encoder.embed_texts(["aé", ""])
  np.testing.assert_allclose(texts, [[3**-0.5] * 3, [0, 0, 1]], atol=1e-6)
  assert encoder.embed_texts([]).shape == (0, 3)


@pytest.mark.parametrize(
  ("fault", "said"),
  [
    ("if rows: sys.exit('out of memory')", "exit status 1 and said 'out of memory': mend it"),
    ("if rows: vectors = vectors[1:]", "gave 1 vectors for 2 requests"),
    ("if rows: vectors = vectors[:, :2]", "width 2 in place of 3"),
    ("if rows: vectors[0] = np.nan", "NaN"),
    ("if rows: vectors *= 3", "divide by the length"),
    ("if rows: fingerprint = 'v2'", "changed its fingerprint from 'v1' to 'v2'"),
    ("fingerprint = ''", "did not say what it is"),
    ("sys.exit(0)", "left no vectors.npz"),
    ("print('about to hang', file=sys.stderr, flush=True); import time; time.sleep(60)",
     "took more than 3 s and said 'about to hang'"),
  ],
)  # fmt: skip
def test_what_a_command_does_wrong_is_one_sentence(tmp_path, fault, said):
  encoder = command(tmp_path, fault, timeout_seconds=3.0 if "hang" in fault else 60.0)
  with pytest.raises(EncoderError, match=said) as caught:
    encoder.embed_texts(["one", "two"])
  assert "\n" not in str(caught.value)


def test_a_command_that_takes_too_long_leaves_nobody_behind(tmp_path):
  script = f"sleep 60 & echo $! > {tmp_path}/child; wait"
  encoder = ExternalCommand(command=("sh", "-c", script), timeout_seconds=1.0)
  with pytest.raises(EncoderError, match="took more than 1 s"):
    _ = encoder.width
  child = Path("/proc") / (tmp_path / "child").read_text().strip()
  # What was killed may stand there until its new parent has looked at it.
  assert not child.exists() or "\nState:\tZ" in (child / "status").read_text()


def test_a_command_is_chosen_by_name(tmp_path):
  here = command(tmp_path)
  encoder = load_encoder("command:" + " ".join(f"'{word}'" for word in here.command))
  assert encoder == here


def test_a_command_that_is_not_there(tmp_path):
  with pytest.raises(EncoderError, match="cannot be started"):
    load_encoder(f"command:{tmp_path}/nothing")


def write_npz(path, **changes):
  arrays = {
    "clip_ids": np.array(["a", "b"]),
    "clip_vectors": np.eye(3)[:2],
    "texts": np.array(["one", "two", "drei"]),
    "text_vectors": np.eye(3, dtype=np.float32),
    "fingerprint": "of a model",
  }
  np.savez(path, **{**arrays, **changes})
  return path


def test_vectors_made_elsewhere_are_looked_up(tmp_path):
  encoder = load_encoder(str(write_npz(tmp_path / "v.npz")))
  assert isinstance(encoder, Precomputed)
  assert (encoder.width, encoder.fingerprint) == (3, "of a model")
  np.testing.assert_array_equal(encoder.embed_texts(["drei", "one"]), np.eye(3)[[2, 0]])
  np.testing.assert_array_equal(encoder.embed_clips(["b"]), np.eye(3)[[1]])
  assert encoder.has_clip("a")
  assert not encoder.has_clip("c")
  with pytest.raises(UserError, match="no vector for the clip 'c': add it"):
    encoder.embed_clips(["c"])


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"texts": np.array(["one", "one", "two"])}, "twice"),
    ({"texts": np.array(["one"])}, "3 vectors for 1"),
    ({"clip_vectors": np.ones((2, 3))}, "divide by the length"),
    ({"texts": np.array(["one", {}, None], object)}, "cannot be|can be read|make it again"),
  ],
)
def test_a_file_that_is_not_as_it_should_be(tmp_path, changes, said):
  with pytest.raises(UserError, match=said):
    Precomputed(path=write_npz(tmp_path / "v.npz", **changes))


def test_encoders_that_are_none(tmp_path):
  (tmp_path / "words.npz").write_text("words")
  with pytest.raises(UserError, match="make it again"):
    load_encoder(str(tmp_path / "words.npz"))
  with pytest.raises(UserError, match="command:PROGRAM, or the folder"):
    load_encoder(str(tmp_path / "nothing"))
  with pytest.raises(UserError, match="no command line"):
    load_encoder("command:python 'x")
