"""What a language model is asked about a song: an instruction, worked examples, title, artist."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.captions.refine import Dropped
from data_pipelines.importers.fields import clean_text
from data_pipelines.importers.tables import read_table
from data_pipelines.report import Problem, describe_error
from noise2music.errors import UserError

_MOST_CHARACTERS = 200  # of a title or an artist

INSTRUCTION = (
  "You describe recordings of music for listeners who cannot see what is playing. Given a title "
  "and an artist, write three English sentences about how the recording sounds: genre, mood, "
  "tempo, instruments, voices, production, or where it would be played. Each sentence stands on "
  "its own, on a line of its own, and names neither the song nor any person. If you do not know "
  "the recording, describe what such a title and artist would most likely sound like. Write the "
  "three lines and nothing else."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Song:
  """place: "file:line" of where it was listed."""

  place: str
  title: str
  artist: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """A song with the answer that is wanted for it."""

  title: str
  artist: str
  captions: tuple[str, ...]


EXAMPLES = (
  Example(
    title="Für Elise",
    artist="Ludwig van Beethoven",
    captions=(
      "A wistful solo piano piece circles around a hesitant theme of two neighbouring notes.",
      "The left hand rolls quiet arpeggios beneath a tender melody in a minor key.",
      "It is intimate classical music that suits a still evening at home.",
    ),
  ),
  Example(
    title="Maple Leaf Rag",
    artist="Scott Joplin",
    captions=(
      "A bouncing ragtime piano sets a syncopated melody against a steady marching bass.",
      "The tune is bright and playful at a brisk, even tempo.",
      "It sounds like the saloon of a silent film.",
    ),
  ),
  Example(
    title="Wayfaring Stranger",
    artist="Traditional",
    captions=(
      "A lonesome voice sings a slow minor folk melody over sparse acoustic guitar.",
      "The mood is weary and devout, with long pauses between the lines.",
      "Plain production leaves every breath of the singer in the recording.",
    ),
  ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """A few-shot prompt; the defaults are examples whose recordings need not be known."""

  instruction: str = INSTRUCTION
  examples: tuple[Example, ...] = EXAMPLES

  def messages(self, song: Song) -> list[dict[str, str]]:
    """For the chat interface: each example as a question and its answer, then the song."""
    messages = [{"role": "system", "content": self.instruction}]
    for example in self.examples:
      messages.append({"role": "user", "content": _question(example)})
      messages.append({"role": "assistant", "content": "\n".join(example.captions)})
    return [*messages, {"role": "user", "content": _question(song)}]


def read_prompt(path: Path) -> Prompt:
  """{"instruction": text, "examples": [{"title", "artist", "captions": [...]}, ...]}.

  Raises UserError for anything else, and for fields of other names, which would be lost unseen.
  """
  try:
    fields = json.loads(path.read_text(encoding="utf-8"))
    listed = fields.get("examples", [])
    _refuse_others(fields, known=("instruction", "examples"), path=path)
    for example in listed:
      _refuse_others(example, known=("title", "artist", "captions"), path=path)
    examples = tuple(
      Example(title=_text(e["title"]), artist=_text(e["artist"]), captions=_texts(e["captions"]))
      for e in listed
    )
    return Prompt(instruction=_text(fields["instruction"]), examples=examples)
  except UserError:
    raise
  except OSError as error:
    raise UserError(f"cannot read {path} ({describe_error(error)}); give another file") from error
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(
      f"{path} is no prompt: give an object with instruction, a text, and examples, a list of "
      "objects with title, artist and captions"
    ) from error


def read_songs(path: Path) -> Iterator[Song | Dropped]:
  """Rows of a table, by tabs or commas, with the columns title and artist; each pair once."""
  seen: set[tuple[str, str]] = set()
  for row in read_table(path, columns=("title", "artist")):
    if isinstance(row, Problem):
      yield Dropped(place=row.path, reason="a row that cannot be read", detail=row.reason)
      continue
    place, cells = row
    title, artist = clean_text(cells["title"]), clean_text(cells["artist"])
    if not title:
      yield Dropped(place=place, reason="no title")
    elif max(len(title), len(artist)) > _MOST_CHARACTERS:
      reason = f"a title or artist of more than {_MOST_CHARACTERS} characters"
      yield Dropped(place=place, reason=reason, text=title)
    elif (title.casefold(), artist.casefold()) in seen:
      yield Dropped(place=place, reason="listed before", text=title)
    else:
      seen.add((title.casefold(), artist.casefold()))
      yield Song(place=place, title=title, artist=artist)


def _question(song: Song | Example) -> str:
  return f"Title: {song.title}\nArtist: {song.artist or 'unknown'}"


def _refuse_others(fields: dict[str, Any], *, known: tuple[str, ...], path: Path) -> None:
  other = next((name for name in fields.keys() - known), None)
  if other is not None:
    raise UserError(f"{path} has the unknown field {other[:40]!r}; use only {', '.join(known)}")


def _text(value: Any) -> str:
  if not isinstance(value, str) or not value.strip():
    raise TypeError("not a text")
  return value


def _texts(value: Any) -> tuple[str, ...]:
  if not isinstance(value, list) or not value:
    raise TypeError("not a list of texts")
  return tuple(map(_text, value))
