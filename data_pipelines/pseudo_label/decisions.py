"""What people decided after listening, a JSON object a line; the next run keeps to it.

  {"decision": "accept", "clip": "a@0.00", "text": "A slow waltz.", "vocabulary": "long"}
  {"decision": "reject", "clip": "a@0.00", "text": "A techno track."}
  {"decision": "ban", "phrase": "in this video"}

An accepted label is given before any is drawn, a rejected one is never given to its clip, and a
caption that holds a banned phrase (whole words, case and punctuation aside) to nobody. A later
line about the same clip and text wins. Without "vocabulary" a line is about all of them.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

from data_pipelines.captions.cleaning import normal_form
from data_pipelines.manifest import ManifestError, json_lines
from noise2music.errors import UserError

ACCEPT, REJECT, BAN = "accept", "reject", "ban"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decisions:
  """labels: (clip, text) -> (accept or reject, vocabulary or "").

  phrases: banned, as `normal_form` gives them.
  """

  labels: Mapping[tuple[str, str], tuple[str, str]] = dataclasses.field(default_factory=dict)
  phrases: tuple[str, ...] = ()

  def banned_phrases(self, text: str) -> list[str]:
    """Those that the text holds."""
    if not self.phrases:
      return []
    words = f" {normal_form(text)} "
    return [phrase for phrase in self.phrases if f" {phrase} " in words]

  def of_clip(self, clip: str, *, vocabulary: str) -> tuple[list[str], set[str]]:
    """(accepted texts in their order, rejected texts) of a clip in a vocabulary."""
    mine = [
      (text, what) for text, what, where in self._by_clip.get(clip, ()) if where in ("", vocabulary)
    ]
    accepted = [text for text, what in mine if what == ACCEPT]
    return accepted, {text for text, what in mine if what == REJECT}

  def most_rejections(self) -> int:
    """Of any one clip: so many candidates more have to be sought."""
    return max(
      (sum(what == REJECT for _, what, _ in some) for some in self._by_clip.values()), default=0
    )

  @functools.cached_property
  def _by_clip(self) -> Mapping[str, list[tuple[str, str, str]]]:
    found: dict[str, list[tuple[str, str, str]]] = {}
    for (clip, text), (what, where) in self.labels.items():
      found.setdefault(clip, []).append((text, what, where))
    return found


def read_decisions(path: str | os.PathLike | None) -> Decisions:
  """No decisions for None; raises UserError with file:line for a line that is not as above."""
  if path is None:
    return Decisions()
  labels, phrases = {}, {}
  for number, line in json_lines(path):
    if isinstance(line, ManifestError):
      raise line
    try:
      _add(line, labels, phrases)
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(
        f"{path}:{number}: {error.args[0]!r} is missing or wrong: write decision (accept, reject "
        "or ban) with clip and text, or with phrase"
      ) from error
  return Decisions(labels=labels, phrases=tuple(phrases))


def _add(line: Any, labels: dict, phrases: dict) -> None:
  if not isinstance(line, dict):
    raise TypeError("the object")
  what = line["decision"]
  if what == BAN:
    phrase = normal_form(_text(line, "phrase"))
    if not phrase:
      raise ValueError("phrase")
    phrases[phrase] = None
    return
  if what not in (ACCEPT, REJECT):
    raise ValueError("decision")
  key = (_text(line, "clip"), _text(line, "text"))
  labels.pop(key, None)
  labels[key] = (what, line.get("vocabulary") or "")


def _text(line: Mapping[str, Any], name: str) -> str:
  if not isinstance(line[name], str):
    raise TypeError(name)
  return line[name]
