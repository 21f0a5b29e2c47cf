import dataclasses
import hashlib

import numpy as np
import pytest
import soundfile

from data_pipelines.ingest import CutResult, CutSpec, Interrupted, clips_of, cut_file
from data_pipelines.manifest import CannotWrite, Caption, Clip
from noise2music.audio.wav_io import probe, read_audio, write_audio
from noise2music.batch import to_int16
from noise2music.errors import UserError

RATE = 8000
SPEC = CutSpec(
  seconds=0.5, min_seconds=0.2, sample_rate_hz=RATE, min_sample_rate_hz=RATE, suffix=".wav"
)


def noise(seconds, *, rate=RATE, channels=1, scale=0.2):
  shape = (round(seconds * rate), channels)
  return scale * np.random.default_rng(0).uniform(-1, 1, shape)


def write(path, sound, *, rate=RATE, subtype="PCM_16"):
  soundfile.write(path, sound, rate, subtype=subtype)
  return path


def cut(path, out, **changes):
  return cut_file(path, clip_id=path.name, out_dir=out, spec=dataclasses.replace(SPEC, **changes))


def samples(path):
  return soundfile.read(path, dtype="int16")[0]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_consecutive_clips_and_the_end_as_long_as_it_is(tmp_path, suffix):
  sound = noise(1.25)
  result = cut(write(tmp_path / "a.wav", sound), tmp_path, suffix=suffix)
  assert [(piece.start, piece.duration) for piece in result.pieces] == [
    (0.0, 0.5),
    (0.5, 0.5),
    (1.0, 0.25),
  ]
  assert (result.reasons, result.sample_rate, result.dropped_seconds) == ((), RATE, 0.0)
  stored = np.concatenate([samples(tmp_path / piece.path) for piece in result.pieces])
  np.testing.assert_array_equal(stored, samples(tmp_path / "a.wav"))
  for piece in result.pieces:
    assert piece.path.endswith(suffix)
    assert piece.sha256 == hashlib.sha256((tmp_path / piece.path).read_bytes()).hexdigest()
    info = soundfile.info(tmp_path / piece.path)
    assert (info.channels, info.samplerate, info.subtype) == (1, RATE, "PCM_16")


def test_the_stored_samples_are_those_of_the_batch_contract(tmp_path):
  sound = noise(0.5, scale=0.99).astype(np.float32)
  result = cut(write(tmp_path / "a.wav", sound, subtype="FLOAT"), tmp_path)
  stored = samples(tmp_path / result.pieces[0].path).astype(int)
  assert np.abs(stored - to_int16(sound[:, 0]).astype(int)).max() <= 1


def test_an_end_too_short_is_counted_not_kept(tmp_path):
  result = cut(write(tmp_path / "a.wav", noise(1.125)), tmp_path)
  assert len(result.pieces) == 2
  assert result.dropped_seconds == pytest.approx(0.125)
  assert result.reasons == ()
  few = cut(write(tmp_path / "b.wav", noise(2.0)), tmp_path, max_clips=3)
  assert [piece.start for piece in few.pieces] == [0.0, 0.5, 1.0]
  assert few.dropped_seconds == pytest.approx(0.5)


def test_a_clip_of_the_default_length_needs_no_padding():
  assert round(CutSpec().seconds * 24_000) == 2760 * 256
  assert round(CutSpec().seconds * 3_200) == 23 * 4096


def test_rates_and_channels_are_made_equal(tmp_path):
  rate = 44_100
  time = np.arange(rate) / rate
  left, right = np.sin(2 * np.pi * 441 * time), np.sin(2 * np.pi * 882 * time)
  path = write(tmp_path / "a.wav", 0.5 * np.stack([left, right], 1), rate=rate)
  result = cut(path, tmp_path, sample_rate_hz=24_000, seconds=1.0)
  sound = samples(tmp_path / result.pieces[0].path) / 32768
  assert sound.shape == (24_000,)
  spectrum = np.abs(np.fft.rfft(sound)) / 12_000
  assert spectrum[441] == pytest.approx(0.25, abs=0.01)
  assert spectrum[882] == pytest.approx(0.25, abs=0.01)
  assert result.sample_rate == rate


BAD = {
  "empty.wav": lambda path: path.write_bytes(b""),
  "words.wav": lambda path: path.write_text("all these are words\n" * 99),
  "two samples.wav": lambda path: write(path, noise(2 / RATE)),
  "silence.wav": lambda path: write(path, np.zeros(RATE)),
  "low rate.wav": lambda path: write(path, noise(1.0, rate=4000), rate=4000),
  "gone.wav": lambda path: None,
}
REASONS = {
  "empty.wav": "is empty (0 bytes)",
  "words.wav": "is no audio that can be read",
  "gone.wav": "No such file or directory",
  "two samples.wav": "0.00 s long, shorter than 0.2 s",
  "silence.wav": "silence, left out (2 clips, the first at 0.00 s)",
  "low rate.wav": "sampled at 4000 Hz, below 8000 Hz",
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_useless_file_is_refused_with_its_reason(tmp_path, name):
  BAD[name](tmp_path / name)
  result = cut(tmp_path / name, tmp_path / "out")
  assert result.pieces == ()
  problem = result.problem(tmp_path / name)
  assert problem.status == "refused"
  assert REASONS[name] in problem.reason
  assert problem.reason
  assert "\n" not in problem.reason
  assert not list(tmp_path.glob("out/**/*.wav"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_only_the_clip_with_bad_samples_is_left_out(tmp_path, value):
  sound = noise(1.25)
  sound[100] = value
  result = cut(write(tmp_path / "a.wav", sound, subtype="FLOAT"), tmp_path)
  assert [piece.start for piece in result.pieces] == [0.5, 1.0]
  (reason,) = result.reasons
  assert "NaN or infinite" in reason
  assert reason.endswith("left out (clip at 0.00 s)")
  assert str(tmp_path) not in reason


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_file_that_breaks_off_keeps_what_is_there(tmp_path, suffix):
  path = tmp_path / f"half{suffix}"
  write_audio(path, noise(4.0)[:, 0].astype(np.float32), sample_rate_hz=RATE)
  assert cut(path, tmp_path / "whole").reasons == ()
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  result = cut(path, tmp_path)
  assert result.problem(path).status == "repaired"
  assert 1.0 <= sum(piece.duration for piece in result.pieces) <= 2.1
  assert [piece.start for piece in result.pieces] == [
    0.5 * index for index in range(len(result.pieces))
  ]


@pytest.mark.parametrize("suffix", [".mp3", ".wav", ".ogg"])
def test_a_clip_that_breaks_off_in_its_middle_keeps_its_beginning(tmp_path, suffix):
  path = tmp_path / f"half{suffix}"
  write_audio(path, noise(4.0)[:, 0].astype(np.float32), sample_rate_hz=RATE)
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  result = cut(path, tmp_path, seconds=4.0)
  (piece,) = result.pieces
  assert 1.0 <= piece.duration <= 2.1
  assert result.problem(path).status == "repaired"
  assert "what is there is used" in result.problem(path).reason
  nothing = cut(path, tmp_path, seconds=4.0, min_seconds=3.0)
  assert nothing.problem(path).status == "refused"


def test_eight_channels_and_too_loud_are_repaired(tmp_path):
  result = cut(write(tmp_path / "a.wav", noise(0.5, channels=8)), tmp_path)
  assert (len(result.pieces), result.problem("a").status) == (1, "repaired")
  assert result.reasons == ("8 channels mixed to one",)
  loud = cut(write(tmp_path / "b.wav", noise(1.0, scale=4.0), subtype="FLOAT"), tmp_path)
  assert loud.reasons == ("louder than full scale, scaled down (2 clips, the first at 0.00 s)",)
  peaks = [np.abs(samples(tmp_path / piece.path).astype(int)).max() for piece in loud.pieces]
  assert min(peaks) >= 32_700
  unheard = cut(write(tmp_path / "c.wav", noise(1.0, scale=1.1), subtype="FLOAT"), tmp_path)
  assert unheard.reasons == ()


def test_reading_trouble_of_any_kind_is_a_reason(tmp_path, monkeypatch):
  path = write(tmp_path / "a.wav", noise(1.0))

  def forbidden(*args, **kwargs):
    raise PermissionError(13, "Permission denied")

  def second_time(path, *, start_seconds, **kwargs):
    if start_seconds:
      raise MemoryError("too much")
    return read_audio(path, start_seconds=start_seconds, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr("data_pipelines.ingest.read_audio", second_time)
    result = cut(path, tmp_path)
    assert len(result.pieces) == 1
    assert result.reasons == ("MemoryError: too much, left out (clip at 0.50 s)",)
  monkeypatch.setattr("builtins.open", forbidden)
  assert cut(path, tmp_path).reasons == ("permission denied; make the file readable",)


def test_writing_trouble_is_raised_for_the_whole_run(tmp_path):
  path = write(tmp_path / "a.wav", noise(1.0))
  (tmp_path / "clips").write_text("in the way")
  with pytest.raises(CannotWrite, match="choose another output folder"):
    cut(path, tmp_path)


def test_an_encoder_that_hides_a_full_disk_does_not_fool_us(tmp_path, monkeypatch):
  path = write(tmp_path / "a.wav", noise(1.0))

  def failing(*args, **kwargs):
    raise RuntimeError("System error.")

  monkeypatch.setattr("data_pipelines.ingest.write_audio", failing)
  with pytest.raises(CannotWrite, match=r"cannot write .*System error"):
    cut(path, tmp_path)
  usage = type("Usage", (), {"free": 1000})
  monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
  with pytest.raises(CannotWrite, match="is full; free some space"):
    cut(path, tmp_path)


def test_file_names_are_ascii_and_depend_on_the_id_alone(tmp_path):
  path = write(tmp_path / "夜曲 😀.WAV", noise(0.5))
  names = set()
  for name in ("夜曲 😀.WAV", "夜曲 😁.WAV", "a b/c d.wav", "x" * 300 + ".wav"):
    first = cut_file(path, clip_id=name, out_dir=tmp_path / "1", spec=SPEC)
    second = cut_file(path, clip_id=name, out_dir=tmp_path / "2", spec=SPEC)
    assert first == second
    names.add(first.pieces[0].path)
    assert first.pieces[0].path.isascii()
    assert len(first.pieces[0].path) < 80
  assert len(names) == 4


def test_stopping_between_clips(tmp_path):
  path = write(tmp_path / "a.wav", noise(1.0))
  with pytest.raises(Interrupted):
    cut_file(path, clip_id="a", out_dir=tmp_path, spec=SPEC, keep_going=lambda: False)


def test_a_long_file_is_read_clip_by_clip(tmp_path, monkeypatch):
  path = write(tmp_path / "a.wav", noise(5.0))
  lengths = []

  def reading(path, **kwargs):
    sound, rate = read_audio(path, **kwargs)
    lengths.append(sound.size)
    return sound, rate

  monkeypatch.setattr("data_pipelines.ingest.read_audio", reading)
  cut(path, tmp_path)
  assert lengths == [4000] * 10


def test_the_clips_inherit_what_is_known_of_the_file(tmp_path):
  source = Clip(
    path="a.wav",
    duration=1.0,
    sample_rate=RATE,
    captions=(Caption(text="A waltz.", kind="long"),),
    license="CC0",
    split="test",
    sha256="0" * 64,
    id="album/a",
    extra={"bpm": 90},
  )
  result = cut(write(tmp_path / "a.wav", noise(1.0)), tmp_path)
  first, second = clips_of(source, result, spec=SPEC)
  assert (first.id, second.id) == ("album/a@0.00", "album/a@0.50")
  assert second.extra == {
    "bpm": 90,
    "source_id": "album/a",
    "source_start": 0.5,
    "source_sample_rate": RATE,
    "source_sha256": "0" * 64,
  }
  assert (first.captions, first.license, first.split) == (source.captions, "CC0", "test")
  assert probe(tmp_path / second.path).duration == second.duration
  assert CutResult.from_json(result.to_json()) == result


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"seconds": 0}, "seconds must be above 0"),
    ({"seconds": float("nan")}, "seconds must be above 0"),
    ({"min_seconds": 0.6}, "min_seconds must be above 0 and at most seconds"),
    ({"min_seconds": 0}, "min_seconds must be above 0"),
    ({"sample_rate_hz": 0}, "must be 1 or more"),
    ({"suffix": ".mp3"}, "suffix must be one of .flac, .wav"),
    ({"max_clips": 0}, "max_clips must be 1 or more"),
    ({"silence_peak": 1.0}, "silence_peak must be"),
  ],
)
def test_settings_that_cannot_be(change, reason):
  with pytest.raises(UserError, match=reason):
    dataclasses.replace(SPEC, **change)
