"""How the paper scores each of its sets (section 4.3): what is asked for, which seconds count."""

import dataclasses
from collections.abc import Callable, Iterable

from noise2music.errors import UserError
from noise2music.evaluation.embeddings import Middle, Whole

# (kind, text) of a clip's captions -> prompt.
Texts = Iterable[tuple[str, str]]
Prompt = Callable[[Texts], str | None]
SEPARATOR = ", "  # the paper names none, nor an order: that of the data set


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """One way to score.

  generated_seconds: what a model is asked for; as it was trained where None. scored: of each clip,
  real or generated. prompt: from a clip's captions; None where they hold none, and the clip is left
  out.
  """

  name: str
  generated_seconds: float | None
  scored: Whole | Middle
  prompt: Prompt

  def told(self, *, generated_seconds: float | None = None, prompted: bool = False) -> str:
    """In words, for a score. generated_seconds: length of the clips that were asked for."""
    parts = [f"{self.name}: {self.scored}"]
    if generated_seconds is not None:
      parts.append(f"of {generated_seconds:g} s")
    if prompted:
      parts.append(f"for {_RULES[self.prompt]}")
    return " ".join(parts)


def caption(texts: Texts) -> str | None:
  """The first long caption."""
  return next((text for kind, text in texts if kind == "long"), None)


def tags(texts: Texts) -> str | None:
  """All short captions in one string; titles and names are left out."""
  return SEPARATOR.join(text for kind, text in texts if kind == "short") or None


def any_text(texts: Texts) -> str | None:
  """The first long caption, else the short ones."""
  texts = list(texts)
  return caption(texts) or tags(texts)


_RULES = {
  caption: "the caption",
  tags: f"tags joined by {SEPARATOR!r}",
  any_text: f"the first caption, else tags joined by {SEPARATOR!r}",
}

# 5.5K clips of 10 s with a rater's caption.
MUSIC_CAPS = Protocol(
  name="musiccaps",
  generated_seconds=30.0,
  scored=Middle(seconds=10.0),
  prompt=caption,
)
# 1,482 clips of 10 s with labels among the 130 of music.
AUDIO_SET_MUSIC_EVAL = Protocol(
  name="audioset_music_eval",
  generated_seconds=30.0,
  scored=Middle(seconds=10.0),
  prompt=tags,
)
# The 21,638 of 25,863 clips of 29 s that have a tag.
MAGNA_TAG_A_TUNE = Protocol(
  name="magnatagatune",
  generated_seconds=29.0,
  scored=Whole(),
  prompt=tags,
)
# Any two sets of clips.
FOLDER = Protocol(
  name="folder",
  generated_seconds=None,
  scored=Whole(),
  prompt=any_text,
)
PROTOCOLS = {p.name: p for p in (FOLDER, MUSIC_CAPS, AUDIO_SET_MUSIC_EVAL, MAGNA_TAG_A_TUNE)}


def protocol_of(name: str) -> Protocol:
  """Raises UserError for a name that is none."""
  if name not in PROTOCOLS:
    raise UserError(f"there is no protocol {name!r}: use one of {', '.join(PROTOCOLS)}")
  return PROTOCOLS[name]
