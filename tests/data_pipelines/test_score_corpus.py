"""The demo music: in tune, at once, equally loud, whole after any interruption."""

import dataclasses
import errno
import json
import random

import numpy as np
import pytest
import soundfile
from tiny_scores import scale

from data_pipelines.datasets.score_corpus import ScoreCorpus
from data_pipelines.datasets.score_corpus import clips as clips_module
from data_pipelines.datasets.score_corpus.arrange import arrange
from data_pipelines.datasets.score_corpus.captions import says
from data_pipelines.datasets.score_corpus.catalogue import COLLECTIONS, tidy_title, works
from data_pipelines.datasets.score_corpus.duplicates import same_piece
from data_pipelines.datasets.score_corpus.instruments import INSTRUMENTS
from data_pipelines.datasets.score_corpus.sampler import Note, Sampler, level
from data_pipelines.datasets.score_corpus.scores import TICKS, compact, read_score
from data_pipelines.datasets.score_corpus.sound_font import SoundFont, default_sound_font
from data_pipelines.manifest import read_manifest
from noise2music.errors import UserError

RATE = 16_000


@pytest.fixture(scope="module")
def sampler():
  return Sampler(default_sound_font(), sample_rate_hz=RATE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  """Parsed scores, shared by the tests that need real ones."""
  return tmp_path_factory.mktemp("scores")


def play(sampler, name, key, *, held=1.0, seconds=2.0):
  note = Note(start=0.0, seconds=held, key=key, loudness=1.0)
  return sampler.render([note], program=INSTRUMENTS[name].program, seconds=seconds)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_every_instrument_is_in_tune(sampler, name):
  player = INSTRUMENTS[name]
  for key in (player.low, player.centre, min(player.high, 84)):
    wave = play(sampler, name, key)[: RATE * 9 // 10]
    power = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * RATE)) ** 2
    hertz = np.arange(len(power)) / 8
    expected = 440 * 2 ** ((key - 69) / 12)
    strongest = hertz[np.argmax(power * (hertz < 12 * expected))]
    partial = max(1, round(strongest / expected))
    cents = 1200 * np.log2(strongest / (partial * expected))
    assert abs(cents) < 25, (key, strongest, expected)
    # Not an octave too high either: something sounds at an odd partial.
    odd = sum(power[np.abs(hertz - n * expected) < 6].sum() for n in (1, 3, 5))
    assert odd > 1e-3 * power.sum(), key


def test_the_a_of_the_piano_has_440_hertz(sampler):
  wave = play(sampler, "piano", 69)[:RATE]
  power = np.abs(np.fft.rfft(wave * np.hanning(RATE), 8 * RATE))
  assert np.argmax(power) / 8 == pytest.approx(440, abs=1.5)


def test_struck_notes_fade_and_blown_notes_hold(sampler):
  def later(name):
    wave = play(sampler, name, 69, held=1.5)
    early, late = wave[: RATE // 5], wave[RATE * 12 // 10 : RATE * 14 // 10]
    return 20 * np.log10(late.std() / early.std())

  assert later("marimba") < -30
  assert later("piano") < -6
  assert later("organ") > -3
  assert later("flute") > -4


@pytest.mark.parametrize("name", ["violin", "organ", "piano", "marimba"])
def test_a_note_that_ends_leaves_no_click_and_no_drone(sampler, name):
  wave = play(sampler, name, 60, held=0.5)
  steps = np.abs(np.diff(wave))
  ending = steps[int(0.49 * RATE) : int(0.52 * RATE)].max()
  assert ending <= 1.2 * steps[int(0.2 * RATE) : int(0.49 * RATE)].max()
  assert np.abs(wave[int(1.8 * RATE) :]).max() < 2e-3 * np.abs(wave).max()


def test_rendering_does_not_depend_on_what_was_played_before(sampler):
  fresh = Sampler(default_sound_font(), sample_rate_hz=RATE)
  play(sampler, "flute", 72)
  np.testing.assert_array_equal(play(sampler, "violin", 70), play(fresh, "violin", 70))


def test_sounds_keep_their_time_at_any_rate():
  for rate in (3_200, 24_000):
    note = Note(start=0.5, seconds=0.3, key=69, loudness=1.0)
    player = Sampler(default_sound_font(), sample_rate_hz=rate)
    wave = player.render([note], program=0, seconds=1.0)
    assert wave.shape == (rate,)
    assert np.abs(wave[: rate // 2]).max() == 0
    assert np.abs(wave[rate // 2 : rate * 52 // 100]).max() > 0.3 * np.abs(wave).max()


def test_level_fixes_the_mean_and_bounds_the_peak():
  tone = np.sin(np.arange(1000) * 0.1).astype(np.float32)
  assert np.sqrt(np.mean(level(7 * tone) ** 2)) == pytest.approx(0.1, rel=1e-4)
  spike = np.zeros(10_000, np.float32)
  spike[5] = 0.5
  assert np.abs(level(spike)).max() == pytest.approx(0.95, rel=1e-5)
  assert level(np.zeros(100, np.float32)) is None
  assert level(np.full(100, np.nan, np.float32)) is None


def test_what_is_no_sound_font_is_refused(tmp_path):
  (tmp_path / "x.sf2").write_bytes(b"RIFF0000WAVE")
  with pytest.raises(UserError, match="no SoundFont 2 file"):
    SoundFont(tmp_path / "x.sf2")
  with pytest.raises(UserError, match="no General MIDI program 200"):
    SoundFont(default_sound_font()).zones(200, 60)


def test_the_catalogue_finds_every_collection():
  sizes = {name: len(works(name)) for name in COLLECTIONS}
  assert sizes["ryansMammoth"] == 1059
  assert sizes["bachChorales"] == 360
  assert min(sizes.values()) >= 1
  ids = [work.id for name in COLLECTIONS for work in works(name)]
  assert len(set(ids)) == len(ids)
  assert all(COLLECTIONS[name].license for name in COLLECTIONS)


def test_movements_and_settings_of_one_work_share_its_key():
  movements = [work for work in works("mozartQuartets") if "/k155/" in work.id]
  assert len(movements) == 3
  assert len({work.key for work in movements}) == 1
  masses = {work.key for work in works("palestrina") if work.id.startswith("palestrina/Kyrie")}
  assert masses & {work.key for work in works("palestrina") if "/Gloria" in work.id}
  assert tidy_title('MISS  BROWN\'S "REEL"') == "Miss Brown's Reel"


def test_a_piece_under_two_names_has_one_key():
  names = {work.name: work.key for work in works("ryansMammoth")}
  assert names["ball and pin"] == names["ariel"] == "ariel"
  found = {work.name: work for work in works("ryansMammoth")}
  first, second, third = (found[name] for name in ("acacia", "acrobats", "admirals"))
  draw = random.Random(0)
  steps = [draw.choice((-4, -2, -1, 2, 3, 5)) for _ in range(40)]
  keys = [60 + sum(steps[:k]) for k in range(40)]

  def piece(keys):
    return dataclasses.replace(
      scale(), notes=tuple((k * TICKS, TICKS, key, 0) for k, key in enumerate(keys))
    )

  higher_with_upbeat = [70, *(key + 5 for key in keys)]
  other = [60 + (key * key) % 7 for key in keys]
  scores = [(first, piece(keys)), (second, piece(higher_with_upbeat)), (third, piece(other))]
  assert same_piece(scores) == {"acrobats": "acacia"}


TUNE = """X:1
T:A Test
M:2/4
L:1/16
K:Ador
A2|:c2d2 e2f2|1 g8:|2 [ac']4 z4|]
"""


def test_a_score_becomes_ticks():
  from music21 import converter

  score = compact(converter.parseData(TUNE, format="abc"))
  half = TICKS // 2
  # The first ending is left out; the chord of the second follows the bar of eighths.
  expected = [(0, half, 69), *[(half * (1 + k), half, p) for k, p in enumerate((72, 74, 76, 78))]]
  assert [note[:3] for note in score.notes[:5]] == expected
  assert [note[:3] for note in score.notes[5:]] == [(5 * half, TICKS, 81), (5 * half, TICKS, 84)]
  assert (score.key, score.mode, score.metre) == ("A", "dorian", "2/4")
  assert score.bars[:3] == (0, half, 5 * half)
  assert [note[2] for note in score.melody().notes] == [69, 72, 74, 76, 78, 84]


def test_tied_notes_are_struck_once():
  from music21 import chord, note, stream, tie

  held, let_go = chord.Chord(["E5", "G5"]), chord.Chord(["E5", "G5"])
  held.tie, let_go.tie = tie.Tie("start"), tie.Tie("stop")
  again = note.Note("E5")
  part = stream.Part([note.Note("C5"), held, let_go, again, note.Note("E5")])
  notes = compact(stream.Score([part])).notes
  assert [(onset / TICKS, length / TICKS, key) for onset, length, key, _ in notes] == [
    (0, 1, 72),
    (1, 2, 76),
    (1, 2, 79),
    (3, 1, 76),
    (4, 1, 76),
  ]


def test_the_melody_is_the_highest_part_that_sounds():
  lower = dataclasses.replace(scale(parts=3), notes=tuple(n for n in scale(parts=3).notes if n[3]))
  assert [note[2] for note in lower.melody().notes[:3]] == [44, 46, 48]
  assert lower.melody().parts == 1


def test_sixteenths_are_counted_in_eighths():
  from music21 import converter

  tune = "X:1\nM:2/4\nL:1/16\nK:C\ncdef gagf|edcd efga|"
  assert compact(converter.parseData(tune, format="abc")).beat == TICKS // 2
  jig = "X:1\nM:6/8\nL:1/8\nK:C\ncde fga|gfe dcB|"
  assert compact(converter.parseData(jig, format="abc")).beat == TICKS * 3 // 2


def test_scores_are_cached_and_a_damaged_entry_is_read_again(tmp_path):
  work = works("ryansMammoth")[7]
  first = read_score(work, cache=tmp_path)
  (entry,) = tmp_path.rglob("*.json")
  entry.write_text('{"notes": [')
  assert read_score(work, cache=tmp_path) == first
  assert json.loads(entry.read_text())["key"] == first.key
  broken = dataclasses.replace(work, id="broken", text="this is no tune")
  assert read_score(broken, cache=tmp_path) is None
  assert read_score(broken, cache=tmp_path) is None


def test_a_beat_lasts_as_long_as_its_tempo_says():
  piano = INSTRUMENTS["piano"]
  notes = arrange(scale(), instrument=piano, bpm=120, seconds=4.0, draw=random.Random(0))
  assert [note.start for note in notes] == pytest.approx([0.5 * k for k in range(8)])
  assert all(note.seconds == pytest.approx(0.5 * piano.gate) for note in notes)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_clips_start_at_once_go_round_and_stay_in_range(name):
  player = INSTRUMENTS[name]
  notes = arrange(scale(), instrument=player, bpm=160, seconds=30.0, draw=random.Random(3))
  assert notes[0].start == 0
  assert len(notes) == 80  # two and a half rounds of 32 beats
  assert max(note.start + note.seconds for note in notes) <= 30.0
  assert all(player.low <= note.key <= player.high for note in notes)
  assert {note.key % 12 for note in notes} == {0, 2, 4, 5, 7, 9, 11}


def test_a_clip_of_rests_is_left_out():
  sparse = dataclasses.replace(scale(), notes=scale().notes[::4])
  piano = INSTRUMENTS["piano"]
  assert arrange(sparse, instrument=piano, bpm=60, seconds=8.0, draw=random.Random(0)) is None


SMALL = ScoreCorpus(hours=5 / 3600, clip_seconds=1.0, sample_rate_hz=8_000)


def contents(folder):
  return {path.name: path.read_bytes() for path in folder.rglob("*.wav")}


def test_real_scores_become_clips_and_a_manifest(tmp_path, cache):
  seen = []
  path = SMALL.render(
    tmp_path, cache_dir=cache, workers=1, progress=lambda *where: seen.append(where)
  )
  made = list(read_manifest(path))
  assert len(made) == 5
  assert seen[-1] == (5, 5, "rendering")
  for clip in made:
    wave, rate = soundfile.read(clip.audio_path(tmp_path))
    assert (rate, len(wave), soundfile.info(clip.audio_path(tmp_path)).subtype) == (
      8_000,
      8_000,
      "PCM_16",
    )
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.1, rel=0.02)
    assert np.abs(wave).max() < 0.96
    assert np.argmax(np.abs(wave) > 0.01) < 0.05 * rate
    words = [caption.text.lower() for caption in clip.captions if caption.kind == "long"]
    assert all(clip.extra["instrument"] in text for text in words)
    assert clip.license.startswith("tunes of Ryan's")
    assert {"work", "family", "tempo_word", "bpm", "key", "mode", "metre"} <= set(clip.extra)


def test_any_number_of_processes_writes_the_same_bytes(tmp_path, cache):
  first = SMALL.render(tmp_path / "a", cache_dir=cache, workers=1)
  second = SMALL.render(tmp_path / "b", cache_dir=cache, workers=2)
  assert contents(tmp_path / "a") == contents(tmp_path / "b")
  assert first.read_bytes() == second.read_bytes()


def test_a_complete_folder_is_reused_and_an_interrupted_one_completed(tmp_path, cache, monkeypatch):
  manifest = SMALL.render(tmp_path, cache_dir=cache, workers=1)
  whole, lines = contents(tmp_path), manifest.read_bytes()
  rendered = []
  write = clips_module.write_audio
  monkeypatch.setattr(
    clips_module, "write_audio", lambda path, *a, **k: rendered.append(path) or write(path, *a, **k)
  )
  SMALL.render(tmp_path, cache_dir=cache, workers=1)
  assert rendered == []
  lost = tmp_path / "clips/000/000003.wav"
  lost.unlink()
  SMALL._write_state(tmp_path, complete=False)
  manifest.unlink()
  SMALL.render(tmp_path, cache_dir=cache, workers=1)
  assert rendered == [lost]
  assert (contents(tmp_path), manifest.read_bytes()) == (whole, lines)


def test_a_folder_with_other_music_is_left_alone(tmp_path, cache):
  SMALL.render(tmp_path, cache_dir=cache, workers=1)
  with pytest.raises(UserError, match="rendered with other settings, or by another version"):
    dataclasses.replace(SMALL, seed=3).render(tmp_path, cache_dir=cache)
  (tmp_path / "corpus.json").unlink()
  with pytest.raises(UserError, match="rendered with other settings"):
    SMALL.render(tmp_path, cache_dir=cache)


def test_a_full_disk_is_one_sentence(tmp_path, cache, monkeypatch):
  def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")

  monkeypatch.setattr(clips_module, "write_audio", full)
  with pytest.raises(UserError, match="is full; free some space"):
    SMALL.render(tmp_path / "a", cache_dir=cache, workers=1)
  assert not (tmp_path / "a/manifest.jsonl").exists()
  with pytest.raises(UserError, match=r"hours of music need .* GB"):
    ScoreCorpus(hours=9_999.0, sample_rate_hz=192_000).render(tmp_path / "b")


def test_a_text_says_whole_words_in_any_case():
  assert says("A Slow waltz, for flute.", "slow")
  assert says("in F# minor", "f# minor")
  assert not says("A slowish waltz", "slow")
  assert not says("A flute", "slow flute")
