"""The text a clip is trained with: one member of its text batch, drawn anew each time.

The paper (section 4.1): each long caption is an element of its own; the shorter ones are
concatenated, segmented to the token length and added; one element is drawn at random. We read
"the shorter ones" as all that is no sentence: the title and the entity tags (genre, artist,
instrument) stand with the short labels, in that order, because none of them says enough alone.
Labels are cut between two of them, never inside one that fits.

A clip without captions has an empty text batch: its text is "", its token mask all False, which
the model takes for text that was dropped.

numpy alone. `noise2music.text.tokenizer` is imported because the rule that cuts a prompt must be
the one that generation uses.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from data_pipelines.index_order import draw_below
from data_pipelines.manifest import ENTITY, KINDS, LONG, SHORT, TITLE
from noise2music.errors import UserError
from noise2music.text.tokenizer import tokenize
from noise2music.typing import Tokenizer


class HasText(Protocol):
  """What is read of a caption: `data_pipelines.manifest.Caption` has it."""

  text: str
  kind: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextBatch:
  """Makes the members of a text batch and draws one.

  separator: between two labels of the concatenated text. short_kinds: the kinds that are
  concatenated, in this order; a kind left out is never trained on. short_members: how many
  segments of the concatenated text become members; 1 keeps the first and drops the rest.
  """

  separator: str = ", "
  short_kinds: tuple[str, ...] = (TITLE, ENTITY, SHORT)
  short_members: int = 1

  def __post_init__(self):
    allowed = [kind for kind in KINDS if kind != LONG]
    for kind in self.short_kinds:
      if kind not in allowed:
        raise UserError(f"{kind!r} cannot be concatenated; choose among {', '.join(allowed)}")
    if self.short_members < 1:
      raise UserError(
        f"short_members is {self.short_members}; give 1 or more, or short_kinds=() for none"
      )

  def members(
    self, captions: Sequence[HasText], *, tokenizer: Tokenizer, token_length: int
  ) -> list[str]:
    """The texts among which one is drawn; [] where there is nothing to say.

    token_length: ids in a row of the batch, its end included.
    """

    def ids(text: str) -> int:
      return len(tokenizer.encode(text))

    long = [caption.text.strip() for caption in captions if caption.kind == LONG]
    labels = [
      caption.text.strip()
      for kind in self.short_kinds
      for caption in captions
      if caption.kind == kind
    ]
    segments = []
    for label in dict.fromkeys(label for label in labels if label):
      longer = self.separator.join([*segments[-1:], label])
      if segments and ids(longer) < token_length:
        segments[-1] = longer
      elif len(segments) < self.short_members:
        segments.append(label)
      else:
        break
    return [text for text in [*long, *segments] if text and ids(text)]

  def draw(
    self,
    captions: Sequence[HasText],
    *,
    tokenizer: Tokenizer,
    token_length: int,
    seed: int,
    global_index: int,
  ) -> str:
    """One member, a pure function of (captions, seed, global_index); "" where there is none."""
    members = self.members(captions, tokenizer=tokenizer, token_length=token_length)
    return members[draw_below(len(members), seed, "text", global_index)] if members else ""


def token_rows(
  texts: Sequence[str], *, tokenizer: Tokenizer, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """int32 [len(texts), length] ids and their bool mask; a row of "" is all 0 and all False."""
  tokens = np.zeros((len(texts), length), np.int32)
  mask = np.zeros((len(texts), length), np.bool_)
  said = [row for row, text in enumerate(texts) if text]
  if said:
    tokens[said], mask[said] = tokenize(
      [texts[row] for row in said], tokenizer=tokenizer, length=length
    )
  return tokens, mask
