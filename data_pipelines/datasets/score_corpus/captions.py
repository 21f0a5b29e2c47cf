"""What is known of a clip, in words: whole sentences, phrases, a title, names."""

import dataclasses
import random

from data_pipelines.datasets.score_corpus.arrange import Tempo
from data_pipelines.datasets.score_corpus.instruments import Instrument
from data_pipelines.manifest import ENTITY, LONG, SHORT, TITLE, Caption

SINGLE_LINE, POLYPHONY = "single line", "polyphony"
TEXTURES = (SINGLE_LINE, POLYPHONY)
_SOURCE = "score"
_LONG, _SHORT = 3, 4  # how many of each a clip gets
_PARTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
  """Everything that a caption may say. `title` and `composer` may be None."""

  instrument: Instrument
  tempo: Tempo
  bpm: int
  key: str
  mode: str
  metre: str
  genre: str
  style: str
  texture: str
  parts: int
  composer: str | None = None
  title: str | None = None


def captions(facts: Facts, draw: random.Random) -> tuple[Caption, ...]:
  """Long sentences, short phrases, the title and the names, in an order drawn from `draw`."""
  made = [Caption(text=text, kind=LONG, source=_SOURCE) for text in long_texts(facts, draw)]
  made += [Caption(text=text, kind=SHORT, source=_SOURCE) for text in short_texts(facts, draw)]
  if facts.title:
    made.append(Caption(text=facts.title, kind=TITLE, source=_SOURCE))
  if facts.composer:
    made.append(Caption(text=facts.composer, kind=ENTITY, source=_SOURCE))
  return tuple(made)


def long_texts(facts: Facts, draw: random.Random, count: int = _LONG) -> list[str]:
  """`count` different sentences; each names the instrument and how fast it goes."""
  name, genre = facts.instrument.name, facts.genre
  word = draw.choice((facts.tempo.word, facts.tempo.word, *facts.tempo.synonyms))
  plain = facts.tempo.word
  character = draw.choice(facts.instrument.character or ("clear",))
  key, texture = f"{facts.key} {facts.mode}", _texture(facts)
  a = _article
  by = f" by {facts.composer}" if facts.composer else ""
  sentences = [
    f"{a(word)} {word} {genre}{by} played on the {name}.",
    f"{a(name)} {name} plays {a(facts.style).lower()} {facts.style} {genre} "
    f"at a {plain} tempo of {facts.bpm} beats per minute.",
    f"{a(character)} {character} {name} playing a {plain} {genre} in {key}.",
    f"{a(plain)} {plain} {genre} in {key} and {facts.metre} time, {texture} for {name}.",
    f"This is {texture} on the {name}: {a(genre).lower()} {genre}{by} in {facts.metre} "
    f"at {facts.bpm} BPM, {word}.",
    f"Instrumental music with {a(name).lower()} {name}, {plain}, {facts.bpm} BPM, in {key}.",
    f"{name.capitalize()} music, {word} and {character}: {a(genre).lower()} {genre}{by}.",
    f"The {name} plays {texture}, {plain} and in {key}.",
  ]
  return draw.sample(sentences, count)


def short_texts(facts: Facts, draw: random.Random, count: int = _SHORT) -> list[str]:
  """Phrases: the instrument and the tempo always, then others, in any order."""
  word = draw.choice((facts.tempo.word, *facts.tempo.synonyms))
  others = [
    facts.genre,
    f"{facts.bpm} BPM",
    f"{facts.key} {facts.mode}",
    f"{facts.metre} time",
    facts.instrument.family,
    facts.style,
    _texture(facts),
  ]
  chosen = [facts.instrument.name, f"{word} tempo", *draw.sample(others, max(0, count - 2))]
  draw.shuffle(chosen)
  return chosen


def says(text: str, phrase: str) -> bool:
  """Whether a text holds a phrase, as whole words in any case."""
  words = "".join(c if c.isalnum() or c in "/#-" else " " for c in f" {text} ".lower())
  return f" {phrase.lower()} " in words


def _texture(facts: Facts) -> str:
  if facts.texture == SINGLE_LINE:
    return "a single melodic line"
  return f"{_PARTS.get(facts.parts, 'many')}-part polyphony"


def _article(word: str) -> str:
  return "An" if word[0].lower() in "aeiou" else "A"
