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


def refine(texts: Iterable[Raw | Dropped], *, rules: Rules) -> Iterator[str | Dropped]:
  """Captions in the order of the texts, and what became of all else."""
  known = Duplicates(similarity=rules.similarity)
  for raw in texts:
    if isinstance(raw, Dropped):
      yield raw
      continue
    pieces = list(_pieces(raw, rules=rules))
    for piece in pieces or [""]:
      reason = _objection(piece, rules=rules) or known.add(piece)
      if reason is None:
        yield piece
      else:
        yield Dropped(place=raw.place, reason=reason, text=piece or raw.text[:200])


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
