"""Which parts of music21's corpus are used, and what is known of them before any is parsed."""

import dataclasses
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.datasets.score_corpus.same_piece import SAME_PIECE
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
    pattern: where its files lie, under music21's corpus.
    genre: what its pieces are, where the file itself does not say.
    style: where and when they come from, for captions.
    composer: None where several, or nobody, wrote them.
    license: what is known of the rights in the encodings.
    work_path, work_text: regular expression on the file's path, or its text, whose first group
      names the work, so that the movements of one work stay in one split. Where neither is given
      the title names the work.
    parts: whether there is more than a melody.
    analysed: the key is found by analysis, because these files write none that can be believed.
    metre: the usual one, for prompts.
  """

  name: str
  pattern: str
  genre: str
  style: str
  license: str
  composer: str | None = None
  work_path: str | None = None
  work_text: str | None = None
  parts: bool = True
  analysed: bool = False
  metre: str = "4/4"


_ALL = (
  Collection(
    name="ryansMammoth",
    pattern="ryansMammoth/*.abc",
    genre="fiddle tune",
    style="traditional fiddle",
    license="tunes of Ryan's Mammoth Collection (1883, public domain) transcribed by Ray Davies; "
    + _GENERAL,
    parts=False,
    metre="2/4",
  ),
  Collection(
    name="oneills1850",
    pattern="oneills1850/*.abc",
    genre="tune",
    style="traditional Irish",
    license="tunes of O'Neill's Music of Ireland (1903, public domain) transcribed by volunteers; "
    + _GENERAL,
    parts=False,
  ),
  Collection(
    name="airdsAirs",
    pattern="airdsAirs/*.abc",
    genre="air",
    style="eighteenth-century Scottish",
    license="tunes of Aird's Airs (1778-1801, public domain) transcribed by Jack Campin; "
    + _GENERAL,
    parts=False,
  ),
  Collection(
    name="northumbrian",
    pattern="miscFolk/northumbrian*.abc",
    genre="tune",
    style="traditional Northumbrian",
    license="tunes of Northumbrian Minstrelsy (1882, public domain) transcribed by Jack Campin; "
    + _GENERAL,
    parts=False,
  ),
  Collection(
    name="essenFolksong",
    pattern="essenFolksong/*[0-9r].abc",
    genre="folk song",
    style="European",
    license="Essen folk song database: permission for non-commercial distribution and use only",
    parts=False,
  ),
  Collection(
    name="bachChorales",
    pattern="bach/bwv[1-4]*.mxl",
    genre="chorale",
    style="baroque",
    composer="Johann Sebastian Bach",
    license="composition in the public domain; encoding " + _GENERAL,
  ),
  Collection(
    name="palestrina",
    pattern="palestrina/*_*.krn",
    genre="mass movement",
    style="renaissance",
    composer="Giovanni Pierluigi da Palestrina",
    license="composition in the public domain; encoding copyright 2000 John Miller, rights to "
    "derivative electronic formats reserved: do not distribute what is trained on it",
    work_text=r"!!!OPR:\s*(.+)",
    analysed=True,
    metre="4/2",
  ),
  Collection(
    name="monteverdi",
    pattern="monteverdi/madrigal.?.*[0-9].mxl",
    genre="madrigal",
    style="early baroque",
    composer="Claudio Monteverdi",
    license="composition in the public domain; encoding " + _GENERAL,
    work_path=r"(monteverdi/madrigal\.\d+\.\d+)",
    analysed=True,
  ),
  Collection(
    name="trecento",
    pattern="trecento/*.xml",
    genre="song",
    style="medieval Italian",
    license="composition in the public domain; encoding " + _GENERAL,
    work_path=r"(trecento/PMFC_06-Jacopo-03|.+)",  # that one lies there as 03a and 03b
    analysed=True,
    metre="6/8",
  ),
  Collection(
    name="joplin",
    pattern="joplin/*.mxl",
    genre="rag",
    style="ragtime",
    composer="Scott Joplin",
    license="composition in the public domain; encoding from musescore.com, " + _GENERAL,
    metre="2/4",
  ),
  *(
    Collection(
      name=f"{name}Quartets",
      pattern=f"{name}/*/*.mxl",
      genre="string quartet movement",
      style=style,
      composer=composer,
      license="composition in the public domain; encoding " + _GENERAL,
      work_path=rf"({name}/[^/]+)",
    )
    for name, style, composer in (
      ("haydn", "classical", "Joseph Haydn"),
      ("mozart", "classical", "Wolfgang Amadeus Mozart"),
      ("beethoven", "classical", "Ludwig van Beethoven"),
      ("schumann_robert", "romantic", "Robert Schumann"),
    )
  ),
)
COLLECTIONS = {group.name: group for group in _ALL}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """One piece, found but not parsed.

  id: unique in the corpus. name: of the piece, which its movements or variants share. title: None
  where only the score knows it. text: the tune, where its file may hold several.
  """

  id: str
  name: str
  title: str | None
  genre: str
  collection: Collection
  path: Path
  text: str | None = None

  @property
  def key(self) -> str:
    """What decides the split: the name, unless the piece stands here under other names too."""
    return SAME_PIECE.get(self.name, self.name)


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
  for path in sorted(root.glob(group.pattern)):
    tunes = _tunes if path.suffix == ".abc" else _score
    found.extend(tunes(group, path, path.relative_to(root).with_suffix("").as_posix()))
  if not found:
    raise UserError(f"music21 has no {group.pattern} here: install it again with its corpus.")
  return tuple(found)


def _tunes(group: Collection, path: Path, stem: str) -> Iterator[Work]:
  """The tunes of an ABC file; what stands before the first X: belongs to none of them."""
  text = path.read_text("utf-8", errors="replace")
  blocks = re.split(r"(?m)^(?=X:)", text)[1:]
  for number, block in enumerate(blocks, start=1):
    title = tidy_title(_field(block, "T") or path.stem)
    yield Work(
      id=stem if len(blocks) == 1 else f"{stem}/{number}",
      name=_title_key(title),
      title=title,
      genre=_genre(f"{_field(block, 'R')} {title}") or group.genre,
      collection=group,
      path=path,
      text=block,
    )


def _score(group: Collection, path: Path, stem: str) -> Iterator[Work]:
  match, title = None, None
  if group.work_path:
    match = re.match(group.work_path, stem)
  elif group.work_text:
    match = re.search(group.work_text, path.read_text("utf-8", errors="replace"))
    title = match[1].strip() if match else None
  elif path.stem.startswith("bwv"):
    title = "BWV " + path.stem.removeprefix("bwv").split("-")[0]
  yield Work(
    id=stem,
    name=match[1].strip() if match else stem,
    title=title,
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


def tidy_title(title: str) -> str:
  """`MISS BROWN'S, The -- REEL` -> `Miss Brown's, The Reel`."""
  title = re.sub(r'["_]|\s-+\s', " ", title)
  title = re.sub(r"(?<=\w):(?=\w)", "", title)
  title = re.sub(r"\s+", " ", title).strip(" .,;")
  if title.upper() == title:
    title = re.sub(r"[A-Za-zÀ-ÿ']+", lambda word: word[0].capitalize(), title)
  return title


def _title_key(title: str) -> str:
  """Variants of a tune under one title share a split, in whatever collection they stand."""
  text = re.sub(r"[^a-z0-9 ]", "", title.lower().replace("-", " "))
  words = [word for word in text.split() if word not in {"the", "a", "an", "of"}]
  named = [word for word in words if word not in {*GENRES, "no", "slip", "highland"}]
  named = [word for word in named if not word.isdigit()]
  return " ".join(named or words)
