"""From the columns that data sets use to captions of the right kind.

| kind | columns |
|---|---|
| long | caption(s), description(s), text, prompt |
| title | title, name |
| short | keywords, moods, tags, aspects, styles, bpm ("120 BPM"), key ("in C major") |
| entity | genre(s), artist(s), composer, instrument(s) |

Singular and plural, upper and lower case are the same. Everything else is kept as it came; so are
bpm and key, which are numbers as well as words.
"""

import ast
import dataclasses
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from data_pipelines.importers.found import Found
from data_pipelines.manifest import ENTITY, LONG, SHORT, TITLE, Caption, Clip
from data_pipelines.splits import known_split
from noise2music.errors import UserError

_LONG = ("caption", "description", "text", "prompt")
_TITLE = ("title", "name")
_SHORT = ("keyword", "mood", "tag", "aspect", "aspect_list", "style")
_ENTITY = ("genre", "artist", "composer", "instrument")
_KIND = {
  **dict.fromkeys(_LONG, LONG),
  **dict.fromkeys(_TITLE, TITLE),
  **dict.fromkeys(_SHORT, SHORT),
  **dict.fromkeys(_ENTITY, ENTITY),
}
_BPM = ("bpm", "tempo")
_KEY = ("key", "keyscale")
_LICENSE = ("license", "licence")
_NOTHING = ("", "none", "null", "nan", "n/a", "unknown")
# Measured anew or replaced by the importer.
_OURS = {f.name for f in dataclasses.fields(Clip)} - {"license", "split"} | {"extra"}


def read_fields(fields: Mapping[str, Any], found: Found) -> Found:
  """`found` with the captions, licence, split and unknown columns of `fields` added.

  What `found` says already (a split from the folder's name) yields to the columns, captions add up.
  """
  captions, extra = list(found.captions), dict(found.extra)
  license, split = found.license, found.split
  for column, value in fields.items():
    name = column.strip().lower()
    if name == "captions" and isinstance(value, list) and any(isinstance(v, dict) for v in value):
      captions += list(_whole_captions(value))
    elif kind := _KIND.get(name) or _KIND.get(name.removesuffix("s")):
      captions += [
        Caption(text=text, kind=kind, source=column)
        for text in texts_of(value, listed=kind != LONG)
      ]
    elif name in _LICENSE:
      license = next(texts_of(value), None) or license
    elif name == "split":
      split = next(texts_of(value), None) or split
    else:
      if name in _BPM or name in _KEY:
        captions += _measured(name, column, value)
      if name not in _OURS and not _is_nothing(value):
        extra[column] = value
  return dataclasses.replace(
    found,
    captions=tuple(_distinct(captions)),
    license=license,
    split=known_split(split) or split if split else None,
    extra=extra,
  )


def texts_of(value: Any, *, listed: bool = False) -> Iterator[str]:
  """Clean texts in a cell: a string, a list, a list written as text, or with `listed` "a, b; c"."""
  if _is_nothing(value) or isinstance(value, dict | bool):
    return
  if isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]"):
    value = _list_in_text(value)
  if isinstance(value, list | tuple):
    for item in value:
      yield from texts_of(item)
  elif listed and isinstance(value, str):
    yield from filter(None, (clean_text(part) for part in re.split(r"[,;|\n]", value)))
  elif text := clean_text(str(value)):
    yield text


def clean_text(text: str) -> str:
  """One line without control characters, halves of surrogate pairs or doubled spaces."""
  if not text.isprintable():
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)
  return " ".join(text.split())


def _list_in_text(text: str) -> Any:
  try:
    value = ast.literal_eval(text.strip())  # ['a', 'b'] and ["a", "b"], never code
  except (ValueError, SyntaxError, RecursionError, MemoryError):
    return text
  return value if isinstance(value, list) else text


def _measured(name: str, column: str, value: Any) -> Iterator[Caption]:
  text = next(texts_of(value), None)
  if text is None:
    return
  if name in _KEY:
    yield Caption(text=f"in {text}", kind=SHORT, source=column)
    return
  try:
    bpm = float(text)
  except ValueError:
    yield Caption(text=text, kind=SHORT, source=column)  # "allegro"
    return
  if 0 < bpm < 1000:
    yield Caption(text=f"{round(bpm)} BPM", kind=SHORT, source=column)


def _whole_captions(values: list) -> Iterator[Caption]:
  """Captions that carry their kind already; those that do not fit are left out."""
  for value in values:
    try:
      yield Caption.from_json(value)
    except UserError:
      continue


def _distinct(captions: list[Caption]) -> Iterator[Caption]:
  seen = set()
  for caption in captions:
    if (caption.text, caption.kind) not in seen:
      seen.add((caption.text, caption.kind))
      yield caption


def _is_nothing(value: Any) -> bool:
  if isinstance(value, float):
    return math.isnan(value)
  return value is None or (isinstance(value, str) and value.strip().lower() in _NOTHING)
