"""The captions among which labels are sought: a text file, one caption a line.

  NAME.txt    UTF-8; blank lines do not count, a caption counts once
  NAME.json   {"kind": "long"} for sentences, {"kind": "short"} for phrases

A caption is known by 16 hexadecimal digits of the blake2b of its text, so a vocabulary may be
sorted anew or grow, and ties between two captions fall the same way on every machine.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Set
from pathlib import Path

from data_pipelines.manifest import LONG, MANIFEST_NAME, SHORT, read_manifest
from noise2music.errors import UserError

_MOST_LINE_BYTES = 10_000
_LEAST_WORDS = 3
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_NO_WORD = re.compile(r"[\W_]+")


def caption_id(text: str) -> str:
  """16 hexadecimal digits, equal on every machine."""
  return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
  """name: of the file. kind: long or short. labels: how many of them a clip gets.

  dropped: lines that are too long or no UTF-8, which are not in `captions`.
  """

  name: str
  kind: str
  captions: tuple[str, ...]
  labels: int = 3
  dropped: int = 0

  def __post_init__(self):
    if self.kind not in (LONG, SHORT):
      raise UserError(f"the vocabulary {self.name} is of kind {self.kind!r}: use long or short")
    if self.labels < 1:
      raise UserError(f"the vocabulary {self.name} gives {self.labels} labels: ask for 1 or more")
    if not self.captions:
      raise UserError(f"the vocabulary {self.name} holds no caption: write one a line")

  def __len__(self) -> int:
    return len(self.captions)

  @functools.cached_property
  def ids(self) -> tuple[str, ...]:
    return tuple(map(caption_id, self.captions))

  @functools.cached_property
  def rows(self) -> dict[str, int]:
    """Where each caption stands."""
    return {text: row for row, text in enumerate(self.captions)}


def read_vocabulary(path: str | os.PathLike, *, labels: int = 3) -> Vocabulary:
  """Reads NAME.txt and its NAME.json; raises UserError where one of them cannot be used."""
  path = Path(path)
  if not path.is_file():
    raise UserError(f"there is no vocabulary {path}: give a text file, one caption a line")
  captions, dropped = {}, 0
  with open(path, "rb") as lines:
    for raw in lines:
      try:
        text = raw.decode().strip().removeprefix("\ufeff")
      except UnicodeDecodeError:
        dropped += 1
        continue
      if len(raw) > _MOST_LINE_BYTES:
        dropped += 1
      elif text:
        captions[text] = None
  return Vocabulary(
    name=path.stem, kind=_kind(path), captions=tuple(captions), labels=labels, dropped=dropped
  )


def _kind(path: Path) -> str:
  beside = path.with_suffix(".json")
  try:
    kind = json.loads(beside.read_text(encoding="utf-8"))["kind"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(
      f'{beside} does not say what {path.name} holds: write {{"kind": "long"}} or "short" into it'
    ) from error
  return str(kind)


def normalised(text: str) -> str:
  """Lower case, words alone, one space between two: equal for what a reader takes for the same."""
  return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def sentences(text: str) -> set[str]:
  """The normalised sentences of a text; fewer than three words are a tag, and no sentence."""
  found = {normalised(part) for part in _SENTENCE_END.split(text)} | {normalised(text)}
  return {sentence for sentence in found if len(sentence.split()) >= _LEAST_WORDS}


def evaluation_sentences(paths: Iterable[str | os.PathLike]) -> frozenset[str]:
  """All that evaluation sets say: of manifests (or their folders), or of texts, one a line."""
  found: set[str] = set()
  for path in map(Path, paths):
    path = path / MANIFEST_NAME if path.is_dir() else path
    if ".jsonl" in path.suffixes:
      for clip in read_manifest(path):
        for caption in clip.captions:
          found |= sentences(caption.text)
      continue
    try:
      for line in path.read_text(encoding="utf-8").splitlines():
        found |= sentences(line)
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(
        f"cannot read the evaluation captions in {path}: give a manifest or a text file in UTF-8"
      ) from error
  return frozenset(found)


def leaks(text: str, evaluation: Set[str]) -> bool:
  """Whether a sentence of the text is, but for case and punctuation, one of an evaluation set."""
  return bool(evaluation) and not evaluation.isdisjoint(sentences(text))
