"""A blind listening test of two folders of clips: one page to rate with, one key to score by.

Which clip of a pair is whose stands in the key alone, a file beside the page that raters do not
get. A code inside of the page would have to come with whatever decodes it, and a side is one bit:
whoever looks at the source could try both. The page holds random ids in its place.

Nothing else tells the sides apart but the sound: both clips of a pair are mono, equally long,
equally loud, at the same rate and through the same encoder.
"""

import dataclasses
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio.wav_io import AUDIO_SUFFIXES, probe, read_audio
from noise2music.errors import UserError
from noise2music.evaluation.listening_page import listening_page
from noise2music.evaluation.report import Player, audio_uri, write_whole

KEY_FORMAT = "noise2music listening key 1"
QUESTION = "Which of the two do you prefer?"
SIDES = ("left", "right")
_LEVEL_DB = -20.0  # root mean square, as loud as most music may be without clipping
_SILENT_DB = -75.0  # nothing but dither, which would become a hiss
_PEAK = 0.9  # mp3 overshoots what it is given by a little
_FADE_SECONDS = 0.02  # where a clip is cut, lest the cut clicks
_HIGHEST_RATE_HZ = 48_000  # of mp3
_SEED_BITS = 128  # too many to try: a page's ids would tell who tries that the seed is right


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
  """One question: the clips of a pair on two sides.

  id: all that the page knows of it. pair: the stem of both files. first_on: where the clip of the
  first folder is, `left` or `right`. repeat: asked before, with the sides swapped.
  """

  id: str
  pair: str
  first_on: str
  repeat: bool

  def __post_init__(self):
    if self.first_on not in SIDES:
      raise UserError(f"a trial's clip cannot be on the side {self.first_on!r}: use left or right")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListeningTest:
  """What was written, and the content of the key.

  names: what the first and the second folder are called in scores. trials: in the order of the
  page. unpaired: files without a partner, which are left out.
  """

  id: str
  names: tuple[str, str]
  question: str
  seed: int
  trials: tuple[Trial, ...]
  unpaired: tuple[str, ...] = ()
  without_prompt: int = 0

  @property
  def pairs(self) -> int:
    return sum(not trial.repeat for trial in self.trials)

  @property
  def repeats(self) -> int:
    return len(self.trials) - self.pairs

  def to_json(self) -> dict[str, Any]:
    return {"format": KEY_FORMAT, **dataclasses.asdict(self)}


def key_path(page: str | os.PathLike) -> Path:
  """Beside the page: test.html has test.KEY.json."""
  return Path(page).with_suffix(".KEY.json")


def write_listening_test(
  path: str | os.PathLike,
  a: str | os.PathLike,
  b: str | os.PathLike,
  *,
  names: tuple[str, str],
  seed: int | None = None,
  prompts: Mapping[str, str] | None = None,
  question: str = QUESTION,
  repeats: int | None = None,
  longest_seconds: float = 30.0,
) -> ListeningTest:
  """Writes the page to `path` and its key to `key_path(path)`.

  Args:
    path: of the page.
    a, b: folders of audio; files with the same stem make a pair.
    names: what scores call the two; the page does not hold them.
    seed: of order, sides and repeats; the same seed and files give the same test. Whoever knows or
      guesses it and a file name can compute the sides, so None draws one that only the key holds.
    prompts: {stem: text}, shown above the pair; it may hold texts of other clips.
    question: asked of each pair.
    repeats: pairs that are asked twice, the second time with sides swapped; None: a tenth.
    longest_seconds: clips are cut to the shorter of their pair and to this.

  Raises:
    UserError: without a pair, for a stem that is there twice in a folder, for prompts that fit no
      pair, more repeats than half of the pairs, unreadable audio, or where the key of another test
      is in the way.
  """
  if len(names) != 2 or not all(names) or names[0] == names[1]:
    raise UserError(f"two folders need two different names, not {list(names)}: see --names")
  if not longest_seconds > 0:
    raise UserError(f"clips of {longest_seconds:g} s cannot be heard: give more than 0 s")
  pairs, unpaired = pair_files(a, b)
  if seed is None:
    seed = secrets.randbits(_SEED_BITS)
  stems = sorted(pairs, key=lambda stem: _draw(seed, "order", stem))
  texts = _prompts(prompts, stems)
  sounds = {
    stem: [audio_uri(player) for player in level_pair(*pairs[stem], seconds=longest_seconds)]
    for stem in stems
  }
  trials = _trials(stems, repeats=_repeats(repeats, len(stems)), seed=seed)
  content = hashlib.blake2b(json.dumps([sounds, texts, question, names]).encode()).hexdigest()
  test = ListeningTest(
    id=_token(seed, "test", content, *(trial.id for trial in trials)),
    names=(names[0], names[1]),
    question=question,
    seed=seed,
    trials=tuple(trials),
    unpaired=tuple(unpaired),
    without_prompt=0 if prompts is None else len(stems) - len(texts),
  )
  _refuse_other_key(key_path(path), test.id)
  # The key first: a page whose key is missing would waste its raters' time.
  write_whole(key_path(path), json.dumps(test.to_json(), indent=2, ensure_ascii=False) + "\n")
  write_whole(path, listening_page(_page_data(test, sounds, texts)))
  return test


def pair_files(
  a: str | os.PathLike, b: str | os.PathLike
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
  """{stem: (file of a, file of b)}, and the paths of those without a partner, both sorted.

  Raises UserError where there is no pair, or a stem is there twice in a folder.
  """
  first, second = _audio_files(a), _audio_files(b)
  pairs = {stem: (first[stem], second[stem]) for stem in sorted(first.keys() & second.keys())}
  if not pairs:
    raise UserError(
      f"{a} ({len(first)} audio files) and {b} ({len(second)}) have no file name in common: name "
      "the two versions of a clip alike, as a/01.wav and b/01.flac"
    )
  left = [str(path) for some in (first, second) for k, path in some.items() if k not in pairs]
  return pairs, sorted(left)


def level_pair(first: Path, second: Path, *, seconds: float) -> tuple[Player, Player]:
  """Both files as mono clips that are equally long and have the same root mean square.

  The level is -20 dB, or less where one of the two would clip. Silence stays as it is. The rate is
  the higher one of the files: the lower would take from the better clip what makes it so.
  """
  rate = min(_HIGHEST_RATE_HZ, max(probe(path).sample_rate for path in (first, second)))
  clips = [read_audio(p, sample_rate_hz=rate, seconds=seconds)[0] for p in (first, second)]
  length = min(len(clip) for clip in clips)
  clips = [_faded(clip[:length], sample_rate_hz=rate) for clip in clips]
  rms = [float(np.sqrt(np.mean(np.square(clip, dtype=np.float64)))) for clip in clips]
  level = 10 ** (_LEVEL_DB / 20)
  heard = [has > 10 ** (_SILENT_DB / 20) for has in rms]
  for clip, has, audible in zip(clips, rms, heard, strict=True):
    if audible:
      level = min(level, _PEAK * has / float(np.abs(clip).max()))
  gains = [level / has if audible else 1.0 for has, audible in zip(rms, heard, strict=True)]
  one, other = (
    Player(label="", audio=(gain * clip).astype(np.float32), sample_rate_hz=rate)
    for gain, clip in zip(gains, clips, strict=True)
  )
  return one, other


def _audio_files(folder: str | os.PathLike) -> dict[str, Path]:
  """Those of the folder itself by stem; AppleDouble and other hidden files are no audio."""
  if not Path(folder).is_dir():
    raise UserError(f"{folder} is no folder: give one that holds audio files")
  found: dict[str, Path] = {}
  for path in sorted(Path(folder).iterdir()):
    if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith("."):
      continue
    if path.stem in found:
      raise UserError(f"{path} and {found[path.stem].name} are both clip {path.stem}: remove one")
    found[path.stem] = path
  return found


def _prompts(prompts: Mapping[str, str] | None, stems: Sequence[str]) -> dict[str, str]:
  texts = {stem: prompts[stem] for stem in stems if stem in prompts} if prompts else {}
  if prompts is not None and not texts:
    raise UserError(f"none of the {len(prompts)} prompts names a pair: key them by file stem")
  return texts


def _repeats(asked: int | None, pairs: int) -> int:
  if asked is None:
    return min(pairs // 2, math.ceil(pairs / 10))
  if not 0 <= asked <= pairs // 2:
    raise UserError(f"{asked} of {pairs} pairs cannot be repeated: give 0 to {pairs // 2}")
  return asked


def _trials(stems: Sequence[str], *, repeats: int, seed: int) -> list[Trial]:
  """Each stem once, and some of the first half again, somewhere in the second half."""
  trials = []
  for stem in stems:
    side = SIDES[_draw(seed, "side", stem) % 2]
    trials.append(
      Trial(id=_token(seed, "trial", stem), pair=stem, first_on=side, repeat=False)
    )  # fmt: skip
  half = len(stems) // 2
  again = sorted(trials[:half], key=lambda t: _draw(seed, "repeated", t.pair))[:repeats]
  for trial in again:
    swapped = Trial(
      id=_token(seed, "repeat", trial.pair),
      pair=trial.pair,
      first_on=SIDES[1 - SIDES.index(trial.first_on)],
      repeat=True,
    )
    free = len(trials) - half  # places after the middle, and not before all of the second half
    trials.insert(half + 1 + _draw(seed, "place", trial.pair) % free, swapped)
  return trials


def _page_data(
  test: ListeningTest, sounds: Mapping[str, Sequence[str]], texts: Mapping[str, str]
) -> dict[str, Any]:
  """What the page may know: ids drawn from the seed, texts, and sounds sorted by their id."""
  ids = {
    (stem, side): _token(test.seed, "clip", stem, str(side)) for stem in sounds for side in (0, 1)
  }
  trials = []
  for trial in test.trials:
    left, right = (0, 1) if trial.first_on == "left" else (1, 0)
    trials.append(
      {
        "id": trial.id,
        "prompt": texts.get(trial.pair, ""),
        "left": ids[trial.pair, left],
        "right": ids[trial.pair, right],
      }
    )
  clips = {token: sounds[stem][side] for (stem, side), token in ids.items()}
  return {
    "test": test.id,
    "question": test.question,
    "trials": trials,
    "clips": dict(sorted(clips.items())),
  }


def _refuse_other_key(path: Path, test: str) -> None:
  """Answers to a page without its key are lost, so no key is written over another's."""
  if not path.exists():
    return
  try:
    same = json.loads(path.read_text(encoding="utf-8"))["id"] == test
  except (ValueError, KeyError, TypeError):
    same = False
  if not same:
    raise UserError(
      f"{path} is the key of another test: move it, write this page elsewhere, or give its seed to"
      " write the same test again"
    )


def _faded(clip: np.ndarray, *, sample_rate_hz: int) -> np.ndarray:
  count = min(len(clip), round(_FADE_SECONDS * sample_rate_hz))
  out = clip.astype(np.float32)
  out[len(out) - count :] *= np.linspace(1, 0, count, dtype=np.float32)
  return out


def _digest(seed: int, *names: str) -> bytes:
  return hashlib.blake2b(json.dumps([seed, *names]).encode(), digest_size=8).digest()


def _draw(seed: int, *names: str) -> int:
  return int.from_bytes(_digest(seed, *names), "big")


def _token(seed: int, *names: str) -> str:
  return _digest(seed, *names).hex()
