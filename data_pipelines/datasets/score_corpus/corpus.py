"""The embedded demo music: clips of real scores, rendered, captioned and split by work.

Two passes. Planning reads as many works as the clips need (parsed once, then cached) and fixes
what each clip is; rendering makes the files. Every draw is a function of the seed and the clip's
number, so a longer corpus begins with the clips of a shorter one, and neither the number of
processes nor an interruption changes a byte.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from data_pipelines.datasets.score_corpus.arrange import TEMPOS, Tempo, arrange, playable
from data_pipelines.datasets.score_corpus.captions import (
  POLYPHONY,
  SINGLE_LINE,
  TEXTURES,
  Facts,
  captions,
  long_texts,
)
from data_pipelines.datasets.score_corpus.catalogue import Work, collection, works
from data_pipelines.datasets.score_corpus.instruments import Instrument, instrument
from data_pipelines.datasets.score_corpus.sampler import Sampler, level
from data_pipelines.datasets.score_corpus.scores import Score, read_score
from data_pipelines.datasets.score_corpus.sound_font import default_sound_font
from data_pipelines.manifest import (
  MANIFEST_NAME,
  Caption,
  Clip,
  atomic_text,
  cannot_write,
  write_manifest,
)
from noise2music.errors import UserError

VERSION = 1  # raise it when the same settings would give other clips
TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
DEFAULT_INSTRUMENTS = ("piano", "violin", "flute", "trumpet", "acoustic guitar", "marimba")
_STATE_NAME = "corpus.json"

Progress = Callable[[int, int, str], None]  # done, of how many, what is being done


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """What one clip will be."""

  index: int
  split: str
  work: Work
  score: Score
  instrument: Instrument
  tempo: Tempo
  bpm: int
  texture: str
  held_out: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """A text that no training clip answers, and what should be heard."""

  text: str
  instrument: str
  family: str
  tempo_word: str
  bpm: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreCorpus:
  """A data set that makes itself out of music21's scores.

  Attributes:
    collections: names from catalogue.COLLECTIONS.
    instruments: names from instruments.INSTRUMENTS.
    tempos: of which each clip gets one, and a number of beats per minute from its range.
    textures: SINGLE_LINE (the top part) or POLYPHONY (all parts, on instruments that can).
    clip_seconds: length of every clip.
    hours: of music in all splits together.
    sample_rate_hz: of the files.
    seed: of every draw.
    held_out: (instrument, tempo word) pairs that training never hears, though it hears each part.
      None holds out one tempo of each instrument, in turn.
    split_shares: share of the works that train, validation and test get. Validation hears the
      pairs that training hears; every second clip of the test split is of a held-out pair.

  Raises:
    UserError: a setting that cannot be honoured.
  """

  collections: tuple[str, ...] = ("ryansMammoth",)
  instruments: tuple[str, ...] = DEFAULT_INSTRUMENTS
  tempos: tuple[Tempo, ...] = TEMPOS
  textures: tuple[str, ...] = (SINGLE_LINE,)
  clip_seconds: float = 8.0
  hours: float = 1.0
  sample_rate_hz: int = 24_000
  seed: int = 0
  held_out: tuple[tuple[str, str], ...] | None = None
  split_shares: tuple[float, float, float] = (0.84, 0.06, 0.1)

  def __post_init__(self):
    for name in ("collections", "instruments", "tempos", "textures"):
      values = tuple(getattr(self, name))
      object.__setattr__(self, name, values)
      if not values or len(set(values)) < len(values):
        raise UserError(f"{name} must name at least one, and none twice.")
    for name in self.collections:
      collection(name)
    players = [instrument(name) for name in self.instruments]
    if unknown := set(self.textures) - set(TEXTURES):
      raise UserError(f"No texture {min(unknown)!r}: choose from {', '.join(TEXTURES)}.")
    single = [p.name for p in players if not p.polyphonic]
    if POLYPHONY in self.textures and single:
      raise UserError(f"{single[0]} plays one note at a time: leave it, or polyphony, out.")
    if not 0.5 <= self.clip_seconds <= 600:
      raise UserError("clip_seconds must lie between 0.5 and 600.")
    if not 0 < self.hours < 10_000:
      raise UserError("hours must be above 0.")
    if not 1_000 <= self.sample_rate_hz <= 192_000:
      raise UserError("sample_rate_hz must lie between 1,000 and 192,000.")
    shares = self.split_shares
    if len(shares) != 3 or min(shares) < 0 or shares[0] == 0 or abs(sum(shares) - 1) > 1e-6:
      raise UserError("split_shares must be three shares that add up to 1, the first above 0.")
    self._check_held_out()

  def _check_held_out(self) -> None:
    words = [tempo.word for tempo in self.tempos]
    if self.held_out is None:
      pairs = tuple(zip(self.instruments, itertools.cycle(words), strict=False))
      object.__setattr__(self, "held_out", pairs if len(words) > 1 else ())
    pairs = tuple(map(tuple, self.held_out))
    object.__setattr__(self, "held_out", pairs)
    everything = set(itertools.product(self.instruments, words))
    if unknown := set(pairs) - everything:
      raise UserError(f"held_out names {min(unknown)}, which these settings never play.")
    kept = everything - set(pairs)
    lost = [name for name in self.instruments if not any(k[0] == name for k in kept)]
    lost += [word for word in words if not any(k[1] == word for k in kept)]
    if lost:
      raise UserError(
        f"held_out would hide {lost[0]!r} from training altogether: keep a pair of it."
      )

  @property
  def clip_count(self) -> int:
    """Number of clips in all splits."""
    return math.ceil(self.hours * 3600 / self.clip_seconds - 1e-9)

  @property
  def fingerprint(self) -> str:
    """Names the settings, this code's version and the sound font: 16 hexadecimal digits."""
    font = hashlib.sha256(default_sound_font().read_bytes()).hexdigest()
    record = json.dumps([VERSION, dataclasses.asdict(self), font], sort_keys=True)
    return hashlib.sha256(record.encode()).hexdigest()[:16]

  def render(
    self,
    out_dir: str | os.PathLike,
    *,
    cache_dir: str | os.PathLike | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
  ) -> Path:
    """Writes the clips and `manifest.jsonl`, and returns the manifest's path.

    A folder that is complete is used as it is; one that was interrupted is completed.

    Args:
      out_dir: for the clips and the manifest.
      cache_dir: for parsed scores, shared between corpora; `scores` in `out_dir` by default.
      workers: processes; as many as cores by default, 1 stays in this one.
      progress: called with (done, total, what).

    Raises:
      UserError: the folder holds another corpus, the disk is full or cannot be written.
    """
    out = Path(out_dir)
    manifest, state = out / MANIFEST_NAME, out / _STATE_NAME
    if self._is_complete(state) and manifest.is_file():
      return manifest
    cache = Path(cache_dir) if cache_dir else out / "scores"
    try:
      out.mkdir(parents=True, exist_ok=True)
      self._require_space(out)
      self._write_state(state, complete=False)
      with _pool(workers or os.cpu_count() or 1) as run:
        plans = self._plan(run, cache, progress)
        clips = list(self._render(run, plans, out, progress))
      write_manifest(manifest, clips)
      self._write_state(state, complete=True)
    except OSError as error:
      raise cannot_write(out, error) from error
    return manifest

  def held_out_prompts(self, count: int, *, seed: int = 0) -> tuple[Prompt, ...]:
    """`count` texts about held-out pairs, each pair in turn; seed draws the wording."""
    if not self.held_out:
      raise UserError("This corpus holds no pair out: give held_out, or more than one tempo.")
    tempos = {tempo.word: tempo for tempo in self.tempos}
    prompts = []
    for index in range(count):
      draw = random.Random(f"prompt/{self.seed}/{seed}/{index}")
      name, word = self.held_out[index % len(self.held_out)]
      tempo, player = tempos[word], instrument(name)
      work = draw.choice(works(draw.choice(self.collections)))
      facts = Facts(
        instrument=player,
        tempo=tempo,
        bpm=draw.randint(tempo.low_bpm, tempo.high_bpm),
        key=draw.choice(("G", "D", "A", "F", "C")),
        mode="major",
        metre="6/8" if work.genre == "jig" else "2/4",
        genre=work.genre,
        style=work.collection.style,
        texture=draw.choice(self.textures),
        parts=4,
        composer=work.collection.composer,
      )
      prompts.append(
        Prompt(
          text=long_texts(facts, draw, 1)[0],
          instrument=name,
          family=player.family,
          tempo_word=word,
          bpm=facts.bpm,
        )
      )
    return tuple(prompts)

  def split_of(self, work: Work) -> str:
    """The split of a work: a function of its key alone, so that seeds do not mix them."""
    draw = random.Random(f"split/{work.key}").random()
    train, validation, _ = self.split_shares
    return TRAIN if draw < train else VALIDATION if draw < train + validation else TEST

  def _plan(self, run, cache: Path, progress: Progress | None) -> list[Plan]:
    """Fixes every clip: slot k takes the k-th work in an order drawn from the seed."""
    found = [work for name in self.collections for work in works(name)]
    found.sort(key=lambda work: hashlib.sha256(f"{self.seed}/{work.id}".encode()).digest())
    total = min(self.clip_count, len(found))
    plans: list[Plan] = []
    usable: list[tuple[Work, Score]] = []
    reader = functools.partial(read_score, cache=cache)
    scores = run(reader, found)
    for work, score in zip(found, scores, strict=False):
      if len(plans) == self.clip_count:
        break
      if score is not None and playable(score):
        usable.append((work, score))
        plans.append(self._clip(len(plans), work, score))
      if progress:
        progress(min(len(plans), total), total, "reading scores")
    if not usable:
      raise UserError("None of these collections has a score that can be played: choose others.")
    for work, score in itertools.cycle(usable):
      if len(plans) >= self.clip_count:
        return plans
      plans.append(self._clip(len(plans), work, score))
    return plans

  def _clip(self, index: int, work: Work, score: Score) -> Plan:
    draw = random.Random(f"plan/{self.seed}/{index}")
    split = self.split_of(work)
    words = {tempo.word: tempo for tempo in self.tempos}
    pairs = list(itertools.product(self.instruments, words))
    hidden = bool(self.held_out) and split == TEST and draw.random() < 0.5
    pair = draw.choice([pair for pair in pairs if (pair in self.held_out) == hidden])
    texture = draw.choice(self.textures)
    return Plan(
      index=index,
      split=split,
      work=work,
      score=score.melody() if texture == SINGLE_LINE else score,
      instrument=instrument(pair[0]),
      tempo=words[pair[1]],
      bpm=draw.randint(words[pair[1]].low_bpm, words[pair[1]].high_bpm),
      texture=texture,
      held_out=hidden,
    )

  def _render(self, run, plans: list[Plan], out: Path, progress: Progress | None) -> Iterator[Clip]:
    maker = functools.partial(
      render_clip,
      out=out,
      seconds=self.clip_seconds,
      sample_rate_hz=self.sample_rate_hz,
      seed=self.seed,
    )
    for done, clip in enumerate(run(maker, plans), start=1):
      if clip is not None:
        yield clip
      if progress:
        progress(done, len(plans), "rendering")

  def _is_complete(self, state: Path) -> bool:
    """Whether `state` says that this corpus is there; UserError if it says another is."""
    if not state.is_file():
      return False
    try:
      record = json.loads(state.read_text("utf-8"))
      found, complete = record["fingerprint"], record["complete"]
    except (ValueError, KeyError, TypeError):
      return False
    if found != self.fingerprint:
      raise UserError(
        f"{state.parent} holds music that was rendered with other settings: "
        "give another folder, or delete this one."
      )
    return complete

  def _write_state(self, state: Path, *, complete: bool) -> None:
    record = {
      "fingerprint": self.fingerprint,
      "complete": complete,
      "settings": dataclasses.asdict(self),
    }
    with atomic_text(state) as text:
      json.dump(record, text, indent=2)

  def _require_space(self, out: Path) -> None:
    there = sum(path.stat().st_size for path in out.glob("clips/*/*.wav"))
    needed = int(self.clip_count * (self.clip_seconds * self.sample_rate_hz * 2 + 8192)) - there
    free = shutil.disk_usage(out).free
    if needed > free:
      raise UserError(
        f"{self.hours:g} hours of music need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are "
        f"free at {out}: lower hours, or give a folder on another disk."
      )


class _Runner:
  """An ordered map over a few processes, or in this one."""

  def __init__(self, workers: int):
    self._executor = None
    if workers > 1:
      # A fork is cheap, but not safe once another library has started threads of its own.
      threaded = {"jax", "tensorflow", "torch"} & set(sys.modules)
      kind = "fork" if not threaded and sys.platform == "linux" else "spawn"
      self._executor = concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context(kind)
      )
    self._ahead = 8 * workers

  def __call__(self, function: Callable, items: Iterable) -> Iterator:
    """The results in order; only a few items are taken ahead of the one that is asked for."""
    if self._executor is None:
      yield from map(function, items)
      return
    items = iter(items)
    waiting = collections.deque(
      self._executor.submit(function, item) for item in itertools.islice(items, self._ahead)
    )
    while waiting:
      result = waiting.popleft().result()
      waiting.extend(self._executor.submit(function, item) for item in itertools.islice(items, 1))
      yield result

  def __enter__(self) -> "_Runner":
    return self

  def __exit__(self, *_) -> None:
    if self._executor is not None:
      self._executor.shutdown(wait=True, cancel_futures=True)


_pool = _Runner


@functools.cache
def _sampler(sample_rate_hz: int) -> Sampler:
  return Sampler(default_sound_font(), sample_rate_hz=sample_rate_hz)


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
    wave = _sampler(sample_rate_hz).render(notes, program=plan.instrument.program, seconds=seconds)
    wave = level(wave)
    if wave is None:
      return None
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_wav(path, wave, sample_rate_hz=sample_rate_hz)
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


def _write_wav(path: Path, wave: np.ndarray, *, sample_rate_hz: int) -> None:
  part = path.with_suffix(f".{os.getpid()}.part")
  try:
    soundfile.write(part, wave, sample_rate_hz, format="WAV", subtype="PCM_16")
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def _captions(plan: Plan, draw: random.Random) -> tuple[Caption, ...]:
  facts = Facts(
    instrument=plan.instrument,
    tempo=plan.tempo,
    bpm=plan.bpm,
    key=plan.score.key,
    mode=plan.score.mode,
    metre=plan.score.metre,
    genre=plan.work.genre,
    style=plan.work.collection.style,
    texture=plan.texture,
    parts=plan.score.parts,
    composer=plan.work.collection.composer,
    title=plan.work.title,
  )
  return captions(facts, draw)


def _extra(plan: Plan) -> Mapping[str, Any]:
  return {
    "work": plan.work.id,
    "work_key": plan.work.key,
    "collection": plan.work.collection.name,
    "composer": plan.work.collection.composer,
    "genre": plan.work.genre,
    "instrument": plan.instrument.name,
    "family": plan.instrument.family,
    "program": plan.instrument.program,
    "tempo_word": plan.tempo.word,
    "bpm": plan.bpm,
    "key": plan.score.key,
    "mode": plan.score.mode,
    "metre": plan.score.metre,
    "texture": plan.texture,
    "parts": plan.score.parts,
    "held_out": plan.held_out,
  }
