"""The captions among which labels are sought: a caption list, made or written by hand.

  NAME.txt    UTF-8, a caption a line
  NAME.json   {"kind": "long"} for sentences, {"kind": "short"} for phrases

A caption is known by 16 hexadecimal digits of the blake2b of its text, so a vocabulary may be
sorted anew or grow, and ties between two captions fall the same way on every machine.
"""

import csv
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

from data_pipelines.captions.caption_list import read_list
from data_pipelines.captions.cleaning import normal_form, split_sentences
from data_pipelines.manifest import LONG, MANIFEST_NAME, SHORT, read_manifest
from noise2music.errors import UserError

_LEAST_WORDS = 3
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


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
  """The list at `path`, see `read_list`; raises UserError where it cannot be used."""
  made = read_list(path)
  return Vocabulary(
    name=Path(path).stem,
    kind=made.kind,
    captions=made.captions,
    labels=labels,
    dropped=made.dropped,
  )


def sentences(text: str) -> set[str]:
  """Sentences of a text, as `normal_form`; fewer than three words are a tag, and no sentence."""
  parts = [
    text,
    *_SENTENCE_END.split(text),
    *split_sentences(text),
  ]  # as lists are made, and simply
  found = {normal_form(part) for part in parts}
  return {sentence for sentence in found if len(sentence.split()) >= _LEAST_WORDS}


def evaluation_sentences(paths: Iterable[str | os.PathLike]) -> frozenset[str]:
  """All that evaluation sets say: manifests (or their folders), tables (every cell of a .csv or
  .tsv), or texts, one a line."""
  found: set[str] = set()
  for path in map(Path, paths):
    path = path / MANIFEST_NAME if path.is_dir() else path
    if ".jsonl" in path.suffixes:
      for clip in read_manifest(path):
        for caption in clip.captions:
          found |= sentences(caption.text)
      continue
    try:
      for text in _texts(path):
        found |= sentences(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
      raise UserError(
        f"cannot read the evaluation captions in {path}: give a manifest, a .csv or .tsv table or a"
        " text file, in UTF-8"
      ) from error
  return frozenset(found)


def _texts(path: Path) -> Iterator[str]:
  delimiter = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
  with open(path, encoding="utf-8", newline="") as lines:
    if delimiter is None:
      yield from lines
      return
    for row in csv.reader(lines, delimiter=delimiter):
      yield from (line for cell in row for line in [cell, *cell.splitlines()])


def leaks(text: str, evaluation: Set[str]) -> bool:
  """Whether a sentence of the text is, but for case and punctuation, one of an evaluation set."""
  return bool(evaluation) and not evaluation.isdisjoint(sentences(text))
