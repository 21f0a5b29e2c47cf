"""A data set's table of rows joined with a folder of its audio.

Audio is looked up among the files below the folder, by names that the row suggests: no path of a
table is ever opened, so no table can reach outside. Rows without audio are refused one by one.
"""

import collections
import dataclasses
import fnmatch
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.importers.found import Found, audio_files, relative_id
from data_pipelines.manifest import Caption
from data_pipelines.report import NOTED, Problem
from data_pipelines.splits import TEST
from noise2music.audio.wav_io import AUDIO_SUFFIXES
from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
  """A row of a table. place: "file:line". names: of its audio, see `stem_of`, best first.

  Several rows with the same audio add their captions up. Its split is that of the first row with
  one, but for test, which wins over others; of the rest, the first row speaks.
  """

  place: str
  names: tuple[str, ...]
  captions: tuple[Caption, ...] = ()
  license: str | None = None
  split: str | None = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def find_tables(root: Path, *, given: Path | None, names: tuple[str, ...]) -> tuple[Path, ...]:
  """The table `given`, or `root` where it is one, or those in it whose names match `names`.

  Raises UserError when there is none.
  """
  if given is not None:
    return (given,)
  if root.is_file():
    return (root,)
  if not root.is_dir():
    raise UserError(f"there is no folder {root}; check the spelling of the path")
  found = tuple(path for path in sorted(root.iterdir()) if is_named(path, names))
  if not found:
    raise UserError(f"there is no {' or '.join(names)} in {root}; say where with --metadata")
  return found


def is_named(path: Path, names: tuple[str, ...]) -> bool:
  """Whether the file has a name that matches one of `names`, shell patterns."""
  return any(fnmatch.fnmatchcase(path.name, name) for name in names) and path.is_file()


def join_audio(entries: Iterable[Entry | Problem], *, root: Path) -> Iterator[Found | Problem]:
  """What the rows and the files below `root` (or beside it, where it is a file) have in common.

  Problems: rows whose audio is absent, files that no row names, names that fit two files, rows that
  disagree about a split.
  """
  root = root.parent if root.is_file() else root
  by_name: dict[str, list[Path]] = collections.defaultdict(list)
  unnamed: dict[str, Path] = {}
  for path in audio_files(root):
    if isinstance(path, Problem):
      yield path
      continue
    name = relative_id(path, root=root)
    unnamed[name] = path
    parts = stem_of(name).split("/")
    for tail in {parts[-1], "/".join(parts[-2:])}:
      by_name[tail].append(path)
  found: dict[Path, Found] = {}
  for entry in entries:
    if isinstance(entry, Problem):
      yield entry
      continue
    fits = next((by_name[name] for name in entry.names if name in by_name), None)
    if fits is None:
      yield Problem(path=entry.place, reason=f"there is no audio of {entry.names[0]:.200}")
      continue
    audio = fits[0]
    if len(fits) > 1 and audio not in found:
      reason = f"{fits[1]} has the name too; the first is taken"
      yield Problem(path=str(audio), reason=reason, status=NOTED)
    before = found.get(audio)
    if before is None:
      name = relative_id(audio, root=root)
      before = Found(
        audio=audio, id=name, license=entry.license, split=entry.split, extra=entry.extra
      )
      unnamed.pop(name, None)
    split = before.split or entry.split
    if entry.split not in (None, split):
      split = TEST if TEST in (split, entry.split) else split
      reason = f"split {entry.split}, but {before.split} in a row before; {split} is taken"
      yield Problem(path=entry.place, reason=reason, status=NOTED)
    captions = dict.fromkeys((caption.kind, caption.text) for caption in before.captions)
    new = tuple(c for c in entry.captions if (c.kind, c.text) not in captions)
    found[audio] = dataclasses.replace(before, captions=(*before.captions, *new), split=split)
  yield from found.values()
  for path in unnamed.values():
    yield Problem(path=str(path), reason="no row of the metadata that is used names this file")


def stem_of(name: str) -> str:
  """A path with forward slashes and composed accents, less the suffix of an audio file."""
  name = unicodedata.normalize("NFC", name.strip().replace("\\", "/"))
  suffix = Path(name).suffix
  return name[: -len(suffix)] if suffix.lower() in AUDIO_SUFFIXES else name


def tails(path: str, *, endings: tuple[str, ...] = ("",)) -> tuple[str, ...]:
  """Names to look for, from the path in a row: with its folder, then without; each ending tried."""
  parts = stem_of(path).split("/")
  stems = dict.fromkeys(("/".join(parts[-2:]), parts[-1]))
  return tuple(stem + ending for stem in stems for ending in endings)


def youtube_names(ytid: str, *, start_s: float, end_s: float) -> tuple[str, ...]:
  """How the usual downloaders name ten seconds of a video; ids hold dashes, so nothing is split."""
  seconds = f"{start_s:g}", f"{end_s:g}"
  spans = [seconds, (f"{start_s:.3f}", f"{end_s:.3f}"), (f"{start_s:.1f}", f"{end_s:.1f}")]
  spans.append((f"{start_s * 1000:.0f}", f"{end_s * 1000:.0f}"))
  names = [ytid, f"Y{ytid}", f"[{ytid}]-[{seconds[0]}-{seconds[1]}]", f"{ytid}_{seconds[0]}"]
  for start, end in spans:
    names += [f"{ytid}_{start}_{end}", f"Y{ytid}_{start}_{end}", f"{ytid}_{start}-{end}"]
  return tuple(dict.fromkeys(names))
