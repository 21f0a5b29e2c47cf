"""From raw texts to the captions of a vocabulary: split, cleaned, judged, each kept only once.

Every piece has one fate, so what is read is what is kept and what is dropped.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from data_pipelines.captions.about_music import is_about_music, is_chatter
from data_pipelines.captions.cleaning import clean_caption, split_sentences
from data_pipelines.captions.duplicates import Duplicates
from data_pipelines.manifest import LONG, SHORT
from noise2music.errors import UserError

MOST_RAW_CHARACTERS = 1 << 20  # of a whole text before it is split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Raw:
  """A text as found. place: "file:line"."""

  place: str
  text: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropped:
  """A piece that is not in the vocabulary. reason: one of few, to be counted; detail: of this."""

  place: str
  reason: str
  text: str = ""
  detail: str = ""

  def to_json(self) -> dict[str, str]:
    shown = {**dataclasses.asdict(self), "text": self.text[:200]}
    return {name: value for name, value in shown.items() if value}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
  """What a caption must be; the defaults are for long ones, `SHORT_RULES` for short.

  sentences: split texts into sentences. about_music: drop what does not seem to be about music, see
  that module. similarity: texts at least so alike are one, see `duplicates`.
  """

  kind: str = LONG
  sentences: bool = True
  about_music: bool = False
  similarity: float = 0.9
  least_words: int = 3
  most_characters: int = 1000

  def __post_init__(self):
    if self.kind not in (LONG, SHORT):
      raise UserError(f"a vocabulary is of kind {LONG} or {SHORT}, not {self.kind!r}")
    if self.least_words < 1 or self.most_characters < 1:
      raise UserError("least_words and most_characters must be 1 or more")
    Duplicates(similarity=self.similarity)  # refuses what cannot be


SHORT_RULES = Rules(kind=SHORT, sentences=False, similarity=1.0, least_words=1, most_characters=100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """A piece of a text. reason: why it is no caption, None where it may be one.

  shown: what to show of it where it is dropped.
  """

  place: str
  text: str
  shown: str
  reason: str | None


def refine(texts: Iterable[Raw | Dropped], *, rules: Rules) -> Iterator[str | Dropped]:
  """Captions in the order of the texts, and what became of all else."""

  def judged() -> Iterator[Judged | Dropped]:
    for raw in texts:
      if isinstance(raw, Dropped):
        yield raw
      else:
        yield from judge(raw, rules=rules)

  return without_duplicates(judged(), similarity=rules.similarity)


def judge(raw: Raw, *, rules: Rules) -> Iterator[Judged]:
  """The pieces of a text, whatever other texts there are; one, where it has none."""
  for piece in list(_pieces(raw, rules=rules)) or [""]:
    reason = _objection(piece, rules=rules)
    yield Judged(place=raw.place, text=piece, shown=piece or raw.text[:200], reason=reason)


def without_duplicates(
  pieces: Iterable[Judged | Dropped], *, similarity: float
) -> Iterator[str | Dropped]:
  """Of pieces that say the same the first is kept."""
  known = Duplicates(similarity=similarity)
  for piece in pieces:
    if isinstance(piece, Dropped):
      yield piece
      continue
    reason = piece.reason or known.add(piece.text)
    if reason is None:
      yield piece.text
    else:
      yield Dropped(place=piece.place, reason=reason, text=piece.shown)


def _pieces(raw: Raw, *, rules: Rules) -> Iterator[str]:
  if len(raw.text) > MOST_RAW_CHARACTERS:
    yield raw.text  # refused by its length, without being searched
  elif rules.sentences:
    yield from split_sentences(raw.text)
  else:
    yield clean_caption(raw.text)


def _objection(piece: str, *, rules: Rules) -> str | None:
  if len(piece) > rules.most_characters:
    return f"longer than {rules.most_characters} characters"
  if not piece:
    return "no letter or digit"
  try:
    piece.encode()
  except UnicodeEncodeError:
    return "not valid Unicode"
  if len(piece.split()) < rules.least_words and piece.isascii():  # not every script has spaces
    return f"fewer than {rules.least_words} words"
  if rules.about_music and is_chatter(piece):
    return "a language model's own words"
  if rules.about_music and not is_about_music(piece):
    return "likely not about music"
  return None
