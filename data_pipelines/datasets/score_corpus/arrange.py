"""From a score to the notes of one clip: where it starts, how fast it goes, in which octave."""

import dataclasses
import random

from data_pipelines.datasets.score_corpus.instruments import Instrument
from data_pipelines.datasets.score_corpus.sampler import Note
from data_pipelines.datasets.score_corpus.scores import Score
from noise2music.errors import UserError

_LEAST_NOTES = 16
_LEAST_SOUND = 0.6  # share of a clip in which some note is held


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tempo:
  """A tempo word, the beats per minute it stands for, and other words for it."""

  word: str
  low_bpm: int
  high_bpm: int
  synonyms: tuple[str, ...] = ()

  def __post_init__(self):
    if not 20 <= self.low_bpm <= self.high_bpm <= 300:
      raise UserError(f"Tempo {self.word!r} needs 20 <= low_bpm <= high_bpm <= 300.")


SLOW = Tempo(word="slow", low_bpm=54, high_bpm=66, synonyms=("adagio", "unhurried", "calm"))
MODERATE = Tempo(word="moderate", low_bpm=88, high_bpm=104, synonyms=("andante", "medium-paced"))
FAST = Tempo(word="fast", low_bpm=138, high_bpm=160, synonyms=("allegro", "quick", "lively"))
TEMPOS = (SLOW, MODERATE, FAST)


def playable(score: Score) -> bool:
  """Whether there is enough of it to make a clip."""
  return len(score.notes) >= _LEAST_NOTES and score.length >= 8 * score.beat


def arrange(
  score: Score, *, instrument: Instrument, bpm: int, seconds: float, draw: random.Random
) -> list[Note] | None:
  """The notes of a clip that begins at a bar of the score and goes round again at its end.

  Returns None where rests would fill too much of it.
  """
  per_tick = 60 / (bpm * score.beat)
  needed = seconds / per_tick
  onsets = {note[0] for note in score.notes}
  starts = [bar for bar in score.bars if bar in onsets] or [score.notes[0][0]]
  start = draw.choice(starts)
  shift = _octaves(score, instrument)
  notes = []
  # Rounds are a whole number of bars long, so that the beat does not stumble between them.
  first = score.notes[0][0]
  around = -(-(score.length - first) // score.beat) * score.beat
  rounds = int(needed // around) + 2
  for turn in range(rounds):
    for onset, length, key, part in score.notes:
      at = onset + turn * around - start
      if 0 <= at < needed:
        sounding = min(length * instrument.gate, needed - at)
        accent = 1.0 if onset in onsets and onset in score.bars else 0.85
        loudness = accent * (1.0 if part == 0 else 0.8)
        notes.append(
          Note(at * per_tick, sounding * per_tick, _fold(key + shift, instrument), loudness)
        )
  return notes if _sounding(notes, seconds) >= _LEAST_SOUND * seconds else None


def _octaves(score: Score, instrument: Instrument) -> int:
  """Whole octaves that bring the score into the range, then closest to the centre."""
  keys = [key for _, _, key, _ in score.notes]
  mean = sum(keys) / len(keys)

  def cost(shift: int) -> tuple[int, float]:
    outside = sum(not instrument.low <= key + shift <= instrument.high for key in keys)
    return outside, abs(mean + shift - instrument.centre)

  return min((12 * octave for octave in range(-4, 5)), key=cost)


def _fold(key: int, instrument: Instrument) -> int:
  """The rare note that is still out of range moves by octaves on its own."""
  while key < instrument.low:
    key += 12
  while key > instrument.high:
    key -= 12
  return key


def _sounding(notes: list[Note], seconds: float) -> float:
  covered = reached = 0.0
  for note in sorted(notes):
    stop = min(note.start + note.seconds, seconds)
    covered += max(0.0, stop - max(note.start, reached))
    reached = max(reached, stop)
  return covered
