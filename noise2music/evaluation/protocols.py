"""How the paper scores each of its sets (section 4.3): what is asked for, which seconds count."""

import dataclasses
from collections.abc import Callable, Iterable

from noise2music.errors import UserError
from noise2music.evaluation.embeddings import Middle, Whole

# (kind, source, text) of a clip's captions -> prompt.
Texts = Iterable[tuple[str, str, str]]
Prompt = Callable[[Texts], str | None]
SEPARATOR = ", "  # the paper names none, nor an order: that of the data set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """One way to score.

  generated_seconds: what a model is asked for; as it was trained where None. scored: of each clip,
  real or generated. prompt: from a clip's captions; None where they hold none, and the clip is left
  out. about: of the set, for tables.
  """

  name: str
  generated_seconds: float | None
  scored: Whole | Middle
  prompt: Prompt
  about: str = ""

  def __str__(self) -> str:
    asked = "" if self.generated_seconds is None else f" of {self.generated_seconds:g} s"
    return f"{self.name}: {self.scored}{asked}"


def caption(texts: Texts) -> str | None:
  """The first long caption."""
  return next((text for kind, _, text in texts if kind == "long"), None)


def tags(texts: Texts) -> str | None:
  """All short captions in one string; titles and names are left out."""
  return SEPARATOR.join(text for kind, _, text in texts if kind == "short") or None


def any_text(texts: Texts) -> str | None:
  """The first long caption, else the short ones."""
  texts = list(texts)
  return caption(texts) or tags(texts)


MUSIC_CAPS = Protocol(
  name="musiccaps",
  generated_seconds=30.0,
  scored=Middle(seconds=10.0),
  prompt=caption,
  about="5.5K clips of 10 s with a rater's caption",
)
AUDIO_SET_MUSIC_EVAL = Protocol(
  name="audioset_music_eval",
  generated_seconds=30.0,
  scored=Middle(seconds=10.0),
  prompt=tags,
  about="1,482 evaluation clips of 10 s with labels among the 130 of music",
)
MAGNA_TAG_A_TUNE = Protocol(
  name="magnatagatune",
  generated_seconds=29.0,
  scored=Whole(),
  prompt=tags,
  about="the 21,638 of 25,863 clips of 29 s that have a tag",
)
FOLDER = Protocol(
  name="folder",
  generated_seconds=None,
  scored=Whole(),
  prompt=any_text,
  about="any two sets of clips",
)
PROTOCOLS = {p.name: p for p in (FOLDER, MUSIC_CAPS, AUDIO_SET_MUSIC_EVAL, MAGNA_TAG_A_TUNE)}


def protocol_of(name: str) -> Protocol:
  """Raises UserError for a name that is none."""
  if name not in PROTOCOLS:
    raise UserError(f"there is no protocol {name!r}: use one of {', '.join(PROTOCOLS)}")
  return PROTOCOLS[name]
