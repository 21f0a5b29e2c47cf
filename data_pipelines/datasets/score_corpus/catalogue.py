"""Which parts of music21's corpus are used, and what is known of them before any is parsed."""

import dataclasses
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from noise2music.errors import UserError

_GENERAL = (
  "distributed with music21's corpus by permission of the encoders; "
  "commercial use may be restricted"
)
GENRES = (
  "slip jig",
  "highland fling",
  "strathspey",
  "hornpipe",
  "reel",
  "jig",
  "clog",
  "fling",
  "walkaround",
  "slide",
  "march",
  "waltz",
  "polka",
  "air",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collection:
  """One folder of the corpus.

  Attributes:
    name: how settings call it.
    folder, pattern: where its files lie, under music21's corpus.
    genre: what its pieces are, where the file itself does not say.
    style: where and when they come from, for captions.
    composer: None where several, or nobody, wrote them.
    license: what music21 says of the encodings.
    work: regular expression on the file's path; its first group names the work, so that the
      movements of one work stay in one split. None: the title names the work.
  """

  name: str
  folder: str
  pattern: str
  genre: str
  style: str
  composer: str | None
  license: str
  work: str | None = None


COLLECTIONS = {
  c.name: c
  for c in (
    Collection(
      name="ryansMammoth",
      folder="ryansMammoth",
      pattern="*.abc",
      genre="fiddle tune",
      style="traditional fiddle",
      composer=None,
      license="tunes from Ryan's Mammoth Collection (1883, public domain), transcribed by Ray "
      f"Davies; {_GENERAL}",
    ),
  )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """One piece, found but not parsed.

  id: unique in the corpus. key: what decides its split. number: which tune of an ABC file, or None.
  """

  id: str
  key: str
  title: str
  genre: str
  collection: Collection
  path: Path
  text: str | None = None


def collection(name: str) -> Collection:
  """The collection of that name; UserError lists those that exist."""
  if name not in COLLECTIONS:
    raise UserError(f"No collection {name!r} here: choose from {', '.join(COLLECTIONS)}.")
  return COLLECTIONS[name]


def corpus_folder() -> Path:
  """Where music21's corpus is installed, found without importing music21."""
  spec = importlib.util.find_spec("music21")
  if spec is None or spec.origin is None:
    raise UserError("The scores are missing: pip install 'noise2music[demo]' brings music21.")
  return Path(spec.origin).parent / "corpus"


@functools.cache
def works(name: str) -> tuple[Work, ...]:
  """All pieces of a collection in the order of their ids."""
  group = collection(name)
  root = corpus_folder()
  found = []
  for path in sorted((root / group.folder).glob(group.pattern)):
    tunes = _tunes if path.suffix == ".abc" else _score
    found.extend(tunes(group, path, path.relative_to(root).with_suffix("").as_posix()))
  if not found:
    raise UserError(
      f"music21's corpus has no {group.folder} here: reinstall music21 with its corpus."
    )
  return tuple(found)


def _tunes(group: Collection, path: Path, stem: str) -> Iterator[Work]:
  """The tunes of an ABC file; what stands before the first X: belongs to none of them."""
  text = path.read_text("utf-8", errors="replace")
  blocks = re.split(r"(?m)^(?=X:)", text)[1:]
  for number, block in enumerate(blocks, start=1):
    title = _tidy_title(_field(block, "T") or path.stem)
    yield Work(
      id=stem if len(blocks) == 1 else f"{stem}/{number}",
      key=_title_key(title),
      title=title,
      genre=_genre(f"{_field(block, 'R')} {title}") or group.genre,
      collection=group,
      path=path,
      text=block,
    )


def _score(group: Collection, path: Path, stem: str) -> Iterator[Work]:
  match = re.match(group.work, stem) if group.work else None
  yield Work(
    id=stem,
    key=match[1] if match else stem,
    title=path.stem.replace("_", " "),
    genre=group.genre,
    collection=group,
    path=path,
  )


def _field(block: str, letter: str) -> str:
  match = re.search(rf"(?m)^{letter}:[ \t]*(.*?)[ \t]*(?:%.*)?$", block)
  return match[1].strip().strip('"') if match else ""


def _genre(text: str) -> str | None:
  text = text.lower().replace("slipjig", "slip jig")
  return next((genre for genre in GENRES if re.search(rf"\b{genre}\b", text)), None)


def _tidy_title(title: str) -> str:
  """`Miss Brown's, The -- Reel` -> `Miss Brown's Reel`."""
  title = re.sub(r"\s*-{1,2}\s*", " ", title)
  return re.sub(r"\s+", " ", title).strip(" .")


def _title_key(title: str) -> str:
  """Variants of a tune under one title share a split, in whatever collection they stand."""
  text = re.sub(r"[^a-z0-9 ]", "", title.lower().replace("-", " "))
  words = [word for word in text.split() if word not in {"the", "a", "an", "of"}]
  named = [word for word in words if word not in {*GENRES, "no", "slip", "highland"}]
  named = [word for word in named if not word.isdigit()]
  return " ".join(named or words)
