"""One clip: from its plan to a file and a line of the manifest."""

import dataclasses
import functools
import hashlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.datasets.score_corpus.arrange import Tempo, arrange
from data_pipelines.datasets.score_corpus.captions import Facts, captions
from data_pipelines.datasets.score_corpus.catalogue import Work
from data_pipelines.datasets.score_corpus.instruments import Instrument
from data_pipelines.datasets.score_corpus.sampler import Sampler, level
from data_pipelines.datasets.score_corpus.scores import Score
from data_pipelines.datasets.score_corpus.sound_font import default_sound_font
from data_pipelines.manifest import Caption, Clip
from noise2music.audio.wav_io import write_audio


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """What one clip will be. `score` holds only the parts that are played."""

  index: int
  split: str
  work: Work
  score: Score
  instrument: Instrument
  tempo: Tempo
  bpm: int
  texture: str
  held_out: bool


def render_clip(
  plan: Plan, *, out: Path, seconds: float, sample_rate_hz: int, seed: int
) -> Clip | None:
  """Writes one clip, unless it is there, and says what it is; None when it would be silent."""
  draw = random.Random(f"clip/{seed}/{plan.index}")
  notes = arrange(plan.score, instrument=plan.instrument, bpm=plan.bpm, seconds=seconds, draw=draw)
  if notes is None:
    return None
  name = f"clips/{plan.index // 1000:03d}/{plan.index:06d}.wav"
  path = out / name
  if not path.is_file():  # files appear whole, so one that is there needs no second rendering
    sampler = _sampler(sample_rate_hz)
    wave = level(sampler.render(notes, program=plan.instrument.program, seconds=seconds))
    if wave is None:
      return None
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, wave, sample_rate_hz=sample_rate_hz)
  return Clip(
    id=f"score/{seed}/{plan.index:06d}",
    path=name,
    duration=round(seconds * sample_rate_hz) / sample_rate_hz,
    sample_rate=sample_rate_hz,
    captions=_captions(plan, draw),
    license=plan.work.collection.license,
    split=plan.split,
    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    extra=_extra(plan),
  )


@functools.cache
def _sampler(sample_rate_hz: int) -> Sampler:
  return Sampler(default_sound_font(), sample_rate_hz=sample_rate_hz)


def _captions(plan: Plan, draw: random.Random) -> tuple[Caption, ...]:
  group, score = plan.work.collection, plan.score
  facts = Facts(
    instrument=plan.instrument,
    tempo=plan.tempo,
    bpm=plan.bpm,
    key=score.key,
    mode=score.mode,
    metre=score.metre,
    genre=plan.work.genre,
    style=group.style,
    texture=plan.texture,
    parts=score.parts,
    composer=group.composer,
    title=plan.work.title or score.title,
  )
  return captions(facts, draw)


def _extra(plan: Plan) -> Mapping[str, Any]:
  """What a classifier, or somebody who sorts clips, may want to know."""
  group, score = plan.work.collection, plan.score
  return {
    "work": plan.work.id,
    "work_key": plan.work.key,
    "collection": group.name,
    "composer": group.composer,
    "genre": plan.work.genre,
    "style": group.style,
    "instrument": plan.instrument.name,
    "family": plan.instrument.family,
    "program": plan.instrument.program,
    "tempo_word": plan.tempo.word,
    "bpm": plan.bpm,
    "key": score.key,
    "mode": score.mode,
    "metre": score.metre,
    "texture": plan.texture,
    "parts": score.parts,
    "held_out": plan.held_out,
  }
