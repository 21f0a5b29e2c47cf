"""The embedded demo music: clips of real scores, rendered, captioned and split by work.

Two passes. Planning reads as many works as the clips need (parsed once, then cached) and fixes
what each clip is; rendering makes the files. Every draw is a function of the seed and the clip's
number, so a longer corpus begins with the clips of a shorter one, and neither the number of
processes nor an interruption changes a byte.
"""

import dataclasses
import errno
import functools
import hashlib
import itertools
import json
import math
import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from data_pipelines.datasets.score_corpus.arrange import TEMPOS, Tempo, playable
from data_pipelines.datasets.score_corpus.captions import (
  POLYPHONY,
  SINGLE_LINE,
  TEXTURES,
  Facts,
  long_texts,
)
from data_pipelines.datasets.score_corpus.catalogue import Work, collection, works
from data_pipelines.datasets.score_corpus.clips import Plan, render_clip
from data_pipelines.datasets.score_corpus.instruments import Instrument, instrument
from data_pipelines.datasets.score_corpus.runner import Runner
from data_pipelines.datasets.score_corpus.scores import Score, read_score
from data_pipelines.datasets.score_corpus.sound_font import default_sound_font
from data_pipelines.manifest import (
  MANIFEST_NAME,
  Clip,
  atomic_text,
  cannot_write,
  write_manifest,
)
from data_pipelines.parallel import default_workers
from noise2music.audio.wav_io import AudioError
from noise2music.errors import UserError

VERSION = 3  # raise it when the same settings would give other clips
TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
DEFAULT_INSTRUMENTS = ("piano", "violin", "flute", "trumpet", "acoustic guitar", "marimba")
_STATE_NAME = "corpus.json"
_METRES = {"jig": "6/8", "slip jig": "9/8", "waltz": "3/4"}

Progress = Callable[[int, int, str], None]  # done, of how many, what is being done


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
    textures: SINGLE_LINE (the top part) or POLYPHONY (all parts, on instruments that can; the
      others play the top part).
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
    if single and SINGLE_LINE not in self.textures:
      raise UserError(f"{single[0]} plays one note at a time: add the texture {SINGLE_LINE!r}.")
    if POLYPHONY in self.textures and len(single) == len(players):
      raise UserError("None of the instruments plays several notes at once: leave polyphony out.")
    melodies = [name for name in self.collections if not collection(name).parts]
    if melodies and SINGLE_LINE not in self.textures:
      raise UserError(f"{melodies[0]} has melodies only: add the texture {SINGLE_LINE!r}.")
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
    if len(set(words)) < len(words):
      raise UserError("tempos must have different words.")
    if self.held_out is None:
      pairs = tuple(zip(self.instruments, itertools.cycle(words), strict=False))
      enough = len(words) > 1 and len(self.instruments) > 1
      object.__setattr__(self, "held_out", pairs if enough else ())
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
  def _clip_bytes(self) -> int:
    """Of a file with its line in the manifest and its score, roughly."""
    return int(self.clip_seconds * self.sample_rate_hz * 2) + 8192

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
    manifest = out / MANIFEST_NAME
    if self._is_complete(out):
      return manifest
    cache = Path(cache_dir) if cache_dir else out / "scores"
    try:
      out.mkdir(parents=True, exist_ok=True)
      self._require_space(out)
      self._write_state(out, complete=False)
      with Runner(workers or default_workers()) as run:
        plans = self._plan(run, cache, progress)
        clips = list(self._render(run, plans, out, progress))
      write_manifest(manifest, clips)
      self._write_state(out, complete=True)
    except OSError as error:
      raise cannot_write(out, error) from error
    except AudioError as error:
      if shutil.disk_usage(out).free < self._clip_bytes:  # libsndfile only says "system error"
        raise cannot_write(out, OSError(errno.ENOSPC, "full")) from error
      raise
    return manifest

  def held_out_prompts(self, count: int, *, seed: int = 0) -> tuple[Prompt, ...]:
    """`count` texts about held-out pairs, each pair in turn; `seed` draws the rest."""
    if not self.held_out:
      raise UserError("This corpus holds no pair out: give held_out, or more than one tempo.")
    tempos = {tempo.word: tempo for tempo in self.tempos}
    prompts = []
    for index in range(count):
      draw = random.Random(f"prompt/{self.seed}/{seed}/{index}")
      name, word = self.held_out[index % len(self.held_out)]
      work = draw.choice(works(draw.choice(self.collections)))
      group, player = work.collection, instrument(name)
      tempo = tempos[word]
      facts = Facts(
        instrument=player,
        tempo=tempo,
        bpm=draw.randint(tempo.low_bpm, tempo.high_bpm),
        key=draw.choice(("G", "D", "A", "F", "C")),
        mode="major",
        metre=_METRES.get(work.genre, group.metre),
        genre=work.genre,
        style=group.style,
        texture=draw.choice(_played_by(player, self.textures if group.parts else (SINGLE_LINE,))),
        parts=4,
        composer=group.composer,
      )
      prompts.append(
        Prompt(
          text=long_texts(facts, draw, 1)[0],
          instrument=name,
          family=facts.instrument.family,
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

  def _plan(self, run: Runner, cache: Path, progress: Progress | None) -> list[Plan]:
    """Fixes every clip: clip k takes the k-th playable work in an order drawn from the seed."""
    found = [work for name in self.collections for work in works(name)]
    found.sort(key=lambda work: hashlib.sha256(f"{self.seed}/{work.id}".encode()).digest())
    goal = min(self.clip_count, len(found))
    usable: list[tuple[Work, dict[str, Score]]] = []
    scores = run(functools.partial(read_score, cache=cache), found)
    for done, (work, score) in enumerate(zip(found, scores, strict=True), start=1):
      if textures := self._textures_of(score):
        usable.append((work, textures))
      if progress:
        progress(min(done, goal), goal, "reading scores")
      if len(usable) == self.clip_count:
        break
    if not usable:
      raise UserError("None of these collections has a score that can be played: choose others.")
    turns = itertools.islice(itertools.cycle(usable), self.clip_count)
    return [self._clip(index, *turn) for index, turn in enumerate(turns)]

  def _textures_of(self, score: Score | None) -> dict[str, Score]:
    """The textures in which a score can be played here, with what is left of it."""
    if score is None:
      return {}
    forms = {SINGLE_LINE: score.melody()}
    if score.parts > 1:
      forms[POLYPHONY] = score
    return {name: forms[name] for name in self.textures if name in forms and playable(forms[name])}

  def _clip(self, index: int, work: Work, textures: dict[str, Score]) -> Plan:
    draw = random.Random(f"plan/{self.seed}/{index}")
    split = self.split_of(work)
    words = {tempo.word: tempo for tempo in self.tempos}
    hidden = bool(self.held_out) and split == TEST and draw.random() < 0.5
    played = {name: _played_by(instrument(name), textures) for name in self.instruments}
    pairs = itertools.product([name for name in self.instruments if played[name]], words)
    name, word = draw.choice([pair for pair in pairs if (pair in self.held_out) == hidden])
    texture = draw.choice(played[name])
    return Plan(
      index=index,
      split=split,
      work=work,
      score=textures[texture],
      instrument=instrument(name),
      tempo=words[word],
      bpm=draw.randint(words[word].low_bpm, words[word].high_bpm),
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

  def _is_complete(self, out: Path) -> bool:
    """Whether `out` holds this corpus whole; UserError if it holds something else."""
    try:
      record = json.loads((out / _STATE_NAME).read_text("utf-8"))
    except FileNotFoundError:
      record = {} if (out / "clips").exists() else {"fingerprint": self.fingerprint}
    except ValueError:
      record = {}
    if record.get("fingerprint") != self.fingerprint:
      raise UserError(
        f"{out} holds music that was rendered with other settings, or by another version: give "
        "another folder, or delete this one."
      )
    return bool(record.get("complete")) and (out / MANIFEST_NAME).is_file()

  def _write_state(self, out: Path, *, complete: bool) -> None:
    record = {
      "fingerprint": self.fingerprint,
      "complete": complete,
      "settings": dataclasses.asdict(self),
    }
    with atomic_text(out / _STATE_NAME) as text:
      json.dump(record, text, indent=2)

  def _require_space(self, out: Path) -> None:
    there = sum(path.stat().st_size for path in out.glob("clips/*/*.wav"))
    needed = self.clip_count * self._clip_bytes - there
    free = shutil.disk_usage(out).free
    if needed > free:
      raise UserError(
        f"{self.hours:g} hours of music need {needed / 1e9:.1f} GB, but {free / 1e9:.1f} GB are "
        f"free at {out}: lower hours, or give a folder on another disk."
      )


def _played_by(player: Instrument, textures: Iterable[str]) -> list[str]:
  """Those of the textures that an instrument can play."""
  return [texture for texture in textures if texture == SINGLE_LINE or player.polyphonic]
