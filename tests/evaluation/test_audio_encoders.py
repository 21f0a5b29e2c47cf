"""What gives clips their vectors, besides VGGish and TRILL, and how it is chosen."""

import dataclasses
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from noise2music.audio.log_mel import LogMel
from noise2music.errors import UserError
from noise2music.evaluation.embedders.command import AudioCommand
from noise2music.evaluation.embedders.encoder import AudioEncoder, check_rows
from noise2music.evaluation.embedders.joint import JointAudio
from noise2music.evaluation.embedders.load import load_audio_encoder
from noise2music.evaluation.embedders.log_mel_statistics import LogMelStatistics
from noise2music.evaluation.embedders.stored import Stored
from noise2music.joint_embedding.encoder import EncoderError

# A row a second of each clip: its loudness and the second.
COMMAND = """\
import json, pathlib, sys, wave
import numpy as np
folder = pathlib.Path(sys.argv[-1])
requests = [json.loads(line) for line in open(folder / "requests.jsonl", encoding="utf-8")]
rows, counts = [], []
for request in requests:
  file = wave.open(str(folder / request["wav"]))
  samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
  seconds = samples[: len(samples) // 4000 * 4000].reshape(-1, 4000)
  rows += [[np.abs(second).max(), n] for n, second in enumerate(seconds)]
  counts.append(len(seconds))
answer = {"vectors": np.array(rows, np.float32).reshape(-1, 2), "counts": np.array(counts, int),
          "sample_rate_hz": 4000, "name": "loudness", "protocol": "seconds", "fingerprint": "v1",
          "shortest_seconds": 1.0}
FAULT
np.savez(folder / "vectors.npz", **answer)
"""


@dataclasses.dataclass(frozen=True)
class Towers:
  """An AudioTextEncoder that hears the sign of the first sample."""

  width: int = 2
  sample_rate_hz: int = 100
  fingerprint: str = "towers"

  def embed_audio(self, clips: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([[1, 0] if clip[0] > 0 else [0, 1] for clip in clips], np.float32)

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    raise NotImplementedError


def command(tmp_path, fault: str = "", **settings) -> AudioCommand:
  script = tmp_path / "encoder.py"
  script.write_text(COMMAND.replace("FAULT", fault))
  return AudioCommand(command=(sys.executable, str(script)), **settings)


def write_npz(path, **changes):
  arrays = {
    "clip_ids": np.array(["a", "b"]),
    "counts": np.array([2, 1]),
    "vectors": np.arange(6.0).reshape(3, 2),
    "name": "clap",
    "protocol": "10 s",
    "fingerprint": "v3",
  }
  arrays |= changes
  np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
  return path


def test_log_mel_statistics_of_a_clip_do_not_depend_on_others_nor_on_where_they_lie():
  encoder = LogMelStatistics(log_mel=LogMel(bands=20), window_seconds=0.5, batch_size=4)
  assert isinstance(encoder, AudioEncoder)
  noise = np.random.default_rng(0).normal(size=40_000).astype(np.float32)
  clips = [noise, noise[:8_000], noise[5_000:30_123]]
  together = encoder.embed(clips)
  assert [rows.shape for rows in together] == [(5, 60), (1, 60), (3, 60)]
  for clip, rows in zip(clips, together, strict=True):
    np.testing.assert_array_equal(encoder.embed([clip])[0], rows)
  assert encoder.embed([]) == []


def test_log_mel_statistics_are_of_the_spectrogram_of_the_whole_clip():
  mel = LogMel(bands=20)
  noise = np.random.default_rng(0).normal(size=24_000).astype(np.float32)
  encoder = LogMelStatistics(log_mel=mel, window_seconds=0.5)
  rows = encoder.embed([np.append(noise, noise[:70])])[0]  # less than a frame at the end is dropped
  frames = np.asarray(mel(noise)).reshape(3, 50, 20)
  change = np.abs(np.diff(frames, axis=1)).mean(1)
  wanted = np.concatenate([frames.mean(1), frames.std(1), change], 1)
  np.testing.assert_allclose(rows, wanted, atol=1e-5)
  called = encoder(noise[None], sample_rate_hz=16_000)
  np.testing.assert_allclose(called[0], rows, atol=1e-6)


def test_log_mel_statistics_tell_settings_apart_and_refuse_windows_of_broken_frames():
  one, other = LogMelStatistics(), LogMelStatistics(window_seconds=2.0)
  assert one.fingerprint != other.fingerprint
  assert one.protocol != other.protocol
  for seconds in (0.505, 0.01):
    with pytest.raises(UserError, match=r"give whole frames of 1/100 s"):
      LogMelStatistics(window_seconds=seconds)
  with pytest.raises(UserError, match="shorter than the window of log_mel"):
    one.embed([np.zeros(15_999)])


def test_a_joint_embedding_gives_a_row_a_clip():
  encoder = load_audio_encoder("joint:runs/x", load_joint={"runs/x": Towers()}.get)
  assert isinstance(encoder, AudioEncoder)
  assert (encoder.name, encoder.width, encoder.fingerprint) == ("joint", 2, "towers")
  rows = encoder.embed([np.full(3, -1.0), np.full(200, 1.0)])
  np.testing.assert_array_equal(rows, [[[0, 1]], [[1, 0]]])
  assert JointAudio(encoder=Towers(), name="mulan").name == "mulan"
  with pytest.raises(UserError, match=r"clip 0 lasts 0.000 s"):
    encoder.embed([np.zeros(0)])


def test_vectors_made_elsewhere_are_looked_up_by_the_clips_id(tmp_path):
  stored = load_audio_encoder(str(write_npz(tmp_path / "v.npz")))
  assert isinstance(stored, Stored)
  assert (stored.name, stored.protocol, stored.fingerprint) == ("clap", "10 s", "v3")
  assert (stored.width, stored.clip_ids) == (2, ("a", "b"))
  one, two = stored.embed_ids(["b", "a"])
  assert one.dtype == np.float32
  np.testing.assert_array_equal(one, [[4, 5]])
  np.testing.assert_array_equal(two, [[0, 1], [2, 3]])
  assert stored.has_clip("a")
  with pytest.raises(UserError, match="no vectors of the clip 'c': add it"):
    stored.embed_ids(["a", "c"])


def test_the_file_of_a_joint_embeddings_vectors_is_one_too(tmp_path):
  path = tmp_path / "joint.npz"
  np.savez(
    path, clip_ids=["x", "y"], clip_vectors=np.eye(2), texts=["one"], text_vectors=np.eye(2)[:1],
    fingerprint="of towers",
  )  # fmt: skip
  stored = Stored(path=path)
  assert (stored.name, stored.width, stored.fingerprint) == ("joint", 2, "of towers")
  np.testing.assert_array_equal(stored.embed_ids(["y", "x"]), [[[0, 1]], [[1, 0]]])


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"counts": None}, r"has no array 'counts': write it with clip_ids, counts"),
    ({"counts": np.array([1, 1])}, "holds 3 vectors, its counts sum to 2"),
    ({"counts": np.array([3, 0])}, "has no vector for clip 1: leave"),
    ({"counts": np.array([2.0, 1.0])}, "counts float64.2. for 2 clips"),
    ({"counts": np.array([3])}, "counts int64.1. for 2 clips"),
    ({"clip_ids": np.array(["a", "a"])}, "names a clip twice"),
    ({"clip_ids": np.array([1, 2])}, "names no clips"),
    ({"clip_ids": np.array([], str), "counts": np.array([], int)}, "names no clips"),
    ({"vectors": np.full((3, 2), np.inf)}, "NaN or infinite"),
    ({"vectors": np.zeros((3, 2), int)}, "let it hold floats"),
    ({"vectors": np.zeros(3)}, "let it hold floats"),
    ({"name": "my CLAP"}, "'my CLAP': give it a name of small letters"),
    ({"protocol": " "}, "empty protocol"),
    ({"fingerprint": ""}, "empty fingerprint"),
    ({"clip_ids": np.array(["a", None], object)}, "no .npz that can be read"),
  ],
)
def test_a_file_of_vectors_that_is_not_as_it_should_be(tmp_path, changes, said):
  with pytest.raises(UserError, match=said) as caught:
    Stored(path=write_npz(tmp_path / "v.npz", **changes))
  assert "\n" not in str(caught.value)


def test_a_file_of_vectors_that_is_none(tmp_path):
  with pytest.raises(UserError, match=r"no vectors at .*: check the path"):
    Stored(path=tmp_path / "nothing.npz")
  path = write_npz(tmp_path / "v.npz")
  path.write_bytes(path.read_bytes()[:300])
  with pytest.raises(UserError, match=r"no \.npz that can be read"):
    Stored(path=path)
  path.write_text("words")
  with pytest.raises(UserError, match=r"no \.npz that can be read"):
    Stored(path=path)
  with path.open("wb") as file:
    np.save(file, np.zeros(3))  # one array in the place of several
  with pytest.raises(UserError, match=r"no \.npz that can be read"):
    Stored(path=path)


def test_a_command_gives_several_rows_a_clip(tmp_path):
  here = command(tmp_path, batch_size=2)
  encoder = load_audio_encoder("command:" + " ".join(f"'{word}'" for word in here.command))
  assert isinstance(encoder, AudioEncoder)
  said = (encoder.name, encoder.protocol, encoder.fingerprint, encoder.shortest_seconds)
  assert said == ("loudness", "seconds", "v1", 1.0)
  assert (encoder.width, encoder.sample_rate_hz) == (2, 4000)
  clips = [np.repeat([0.25, 0.5], 4000), np.full(4000, 0.75), np.full(15_000, 1.0)]
  for each in (here, encoder):  # in two batches, and in one
    rows = each.embed(clips)
    assert [len(of_clip) for of_clip in rows] == [2, 1, 3]
    np.testing.assert_allclose(rows[0], [[0.25, 0], [0.5, 1]], atol=1e-4)
    np.testing.assert_allclose(rows[2], [[1, 0], [1, 1], [1, 2]], atol=1e-4)
  with pytest.raises(UserError, match=r"clip 1 lasts 0.500 s, shorter .* window of loudness"):
    encoder.embed([clips[0], clips[0][:2000]])


def test_a_command_may_leave_out_what_is_plain(tmp_path):
  fault = "del answer['counts'], answer['shortest_seconds']"
  encoder = command(tmp_path, fault)
  assert encoder.shortest_seconds == 0
  rows = encoder.embed([np.full(4000, 0.5), np.full(4000, 1.0)])
  np.testing.assert_allclose(rows, [[[0.5, 0]], [[1, 0]]], atol=1e-4)


@pytest.mark.parametrize(
  ("fault", "said"),
  [
    ("if rows: sys.exit('out of memory')", "exit status 1 and said 'out of memory': mend it"),
    ("if rows: answer['counts'] += 1", "holds 3 vectors, its counts sum to 5"),
    ("if rows: answer['counts'] = [3]", r"counts int64\[1\] for 2 clips"),
    ("if rows: answer['vectors'] = answer['vectors'][:, :1]", "width 1 in place of 2"),
    ("if rows: answer['vectors'][0] = np.nan", "NaN"),
    ("if rows: answer['fingerprint'] = 'v2'", "changed its fingerprint from 'v1' to 'v2'"),
    ("answer['fingerprint'] = ''", "empty fingerprint"),
    ("answer['name'] = 'PaSST!'", "'PaSST!': give it a name of small letters"),
    ("answer['vectors'] = np.zeros(3)", "did not say what it is"),
    ("answer['shortest_seconds'] = -1.0", "let shortest_seconds be 0 or more"),
    ("del answer['protocol']", "left no vectors.npz with vectors, sample_rate_hz, name, protocol"),
  ],
)
def test_what_a_command_of_clips_does_wrong_is_one_sentence(tmp_path, fault, said):
  with pytest.raises(EncoderError, match=said) as caught:
    command(tmp_path, fault).embed([np.zeros(8000), np.zeros(4000)])
  assert "\n" not in str(caught.value)


def test_a_command_without_a_program_is_refused():
  with pytest.raises(UserError, match="needs a program"):
    load_audio_encoder("command:")
  with pytest.raises(UserError, match="no command line"):
    load_audio_encoder("command:python 'x")


def test_rows_are_taken_apart_by_their_counts():
  rows = check_rows(np.eye(3), np.array([1, 2]), clips=2, name="x")
  np.testing.assert_array_equal(rows[1], np.eye(3)[1:])
  assert check_rows(np.zeros((0, 3)), np.zeros(0, int), clips=0, name="x") == []


def test_encoders_are_chosen_by_name(tmp_path, monkeypatch):
  monkeypatch.delenv("N2M_VGGISH", raising=False)
  assert load_audio_encoder("log_mel") == LogMelStatistics()
  for text in ("vggish", "vggish:tfhub", "vggish::google"):
    with pytest.raises(UserError, match="VGGish has no weights: fetch"):
      load_audio_encoder(text)
  with pytest.raises(UserError, match="no weights of VGGish at a:b: fetch"):
    load_audio_encoder("vggish:a:b:google")
  with pytest.raises(UserError, match=r"no vectors at x.npz"):
    load_audio_encoder("x.npz")


@pytest.mark.parametrize("text", ["", "clap", "joint:runs/x", "log_mel:80"])
def test_an_unknown_encoder_is_told_the_choices(text):
  with pytest.raises(UserError, match=r"no encoder '.*': give log_mel, vggish.*trill.*\.npz"):
    load_audio_encoder(text)
