"""Plays a list of notes on one instrument: [samples] float32, mono, at a fixed loudness."""

import collections
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.datasets.score_corpus.sound_font import (
  load_sound_font,
  release_seconds,
  tone,
)

_CACHED_TONES = 320  # about 100 MB at 24 kHz
_RELEASE_DECIBELS = 60  # of its way down to silence that a release is followed
_FADE_SECONDS = 0.004  # no click where a sample without loop, or a clip, ends


class Note(NamedTuple):
  """A key held from `start` for `seconds`; `loudness` is a factor."""

  start: float
  seconds: float
  key: int
  loudness: float


class Sampler:
  """Renders notes with a sound font; tones are made once and kept.

  Deterministic: the same notes give the same samples in any process, whatever was played before.
  """

  def __init__(self, font: Path, *, sample_rate_hz: int):
    self._font = load_sound_font(font)
    self._rate = sample_rate_hz
    self._tones: collections.OrderedDict = collections.OrderedDict()

  def render(self, notes: list[Note], *, program: int, seconds: float) -> np.ndarray:
    """The first `seconds` of `notes`, not yet at its final loudness."""
    out = np.zeros(round(seconds * self._rate), np.float32)
    for note in notes:
      start = round(note.start * self._rate)
      room = len(out) - start
      held = max(1, round(note.seconds * self._rate))
      for wave, release in self._tone(program, note.key, note.seconds + 1.0):
        fade = round(release * self._rate * _RELEASE_DECIBELS / 100)
        count = min(room, held + fade)
        if count <= 0:
          continue
        piece = note.loudness * wave[:count]
        if count > held:
          steps = np.arange(count - held, dtype=np.float32)
          curve = 10 ** (steps * np.float32(-5 / (release * self._rate)))
          piece[held:] *= curve * (1 - (steps / fade) ** 8)
        out[start : start + len(piece)] += piece
    return out

  def _tone(self, program: int, key: int, seconds: float) -> tuple[tuple[np.ndarray, float], ...]:
    """The zones that sound, each with its release time; made in lengths of 2, 4, 8... seconds."""
    length = 2.0
    while length < seconds:
      length *= 2
    name = (program, key, length)
    if name not in self._tones:
      self._tones[name] = tuple(
        (
          tone(zone, key, seconds=length, sample_rate_hz=self._rate),
          min(release_seconds(zone), 1.0),
        )
        for zone in self._font.zones(program, key)
      )
      if len(self._tones) > _CACHED_TONES:
        self._tones.popitem(last=False)
    self._tones.move_to_end(name)
    return self._tones[name]


def level(wave: np.ndarray, *, rms: float = 0.1, peak: float = 0.95) -> np.ndarray | None:
  """Scales to a root mean square of `rms`, lower where a peak would pass `peak`; None if silent."""
  power = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
  highest = float(np.abs(wave).max(initial=0.0))
  if not np.isfinite(power) or power < 1e-5:
    return None
  return (wave * min(rms / power, peak / highest)).astype(np.float32)
