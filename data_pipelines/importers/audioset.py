"""AudioSet: ten seconds of a video each, with classes of an ontology as labels.

  # Segments csv created ...
  # num_ytids=20371, ...
  # YTID, start_seconds, end_seconds, positive_labels
  --PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"

Cells follow their comma after a space. The labels of the paper are in `audioset_labels`; another
choice can be had from the ontology's file by `read_ontology` and `subtree`.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.importers.audioset_labels import MUSIC_LABELS
from data_pipelines.importers.found import Found
from data_pipelines.importers.joined import Entry, find_tables, join_audio, youtube_names
from data_pipelines.importers.musiccaps import seconds_of
from data_pipelines.importers.tables import read_cells
from data_pipelines.manifest import SHORT, Caption
from data_pipelines.report import Problem, describe_error
from data_pipelines.splits import TEST, TRAIN
from noise2music.errors import UserError

MUSIC = "/m/04rlf"  # the ontology's root of all music

_YTID = re.compile(r"[A-Za-z0-9_-]{11}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
  """A class of the ontology. restrictions: "abstract" (has no examples) or "blacklist"."""

  id: str
  name: str
  children: tuple[str, ...]
  restrictions: tuple[str, ...]


def read_ontology(path: Path) -> dict[str, Label]:
  """Classes by identifier, in the file's order. Raises UserError for another kind of file."""
  try:
    nodes = json.loads(path.read_text(encoding="utf-8"))
    return {
      node["id"]: Label(
        id=node["id"],
        name=node["name"],
        children=tuple(node["child_ids"]),
        restrictions=tuple(node["restrictions"]),
      )
      for node in nodes
    }
  except OSError as error:
    raise UserError(f"cannot read {path} ({describe_error(error)}); give another file") from error
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(f"{path} is not AudioSet's ontology.json; download it again") from error


def subtree(ontology: Mapping[str, Label], root: str = MUSIC) -> dict[str, str]:
  """Names of `root` and all below it, by identifier; a class with two parents appears once.

  Raises UserError for a root that is not there.
  """
  if root not in ontology:
    raise UserError(f"the ontology has no class {root}; give the identifier of one it has")
  names: dict[str, str] = {}
  waiting = [root]
  while waiting:
    node = ontology.get(waiting.pop())
    if node is not None and node.id not in names:
      names[node.id] = node.name
      waiting.extend(reversed(node.children))
  return names


@dataclasses.dataclass(frozen=True, kw_only=True)
class AudioSetImporter:
  """Clips with at least one of `labels`, whose names become short captions; others are refused.

  metadata: the table, None looks for TABLES in the root. labels: names by identifier, the paper's
  where left out. All identifiers of a clip are kept beside the captions. The split is that of the
  table's name: "eval" is the test split.
  """

  TABLES = ("*_segments.csv",)
  metadata: Path | None = None
  labels: Mapping[str, str] = dataclasses.field(default_factory=lambda: MUSIC_LABELS)

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    tables = find_tables(root, given=self.metadata, names=self.TABLES)
    entries = (entry for table in tables for entry in self._entries(table))
    yield from join_audio(entries, root=root)

  def _entries(self, table: Path) -> Iterator[Entry | Problem]:
    split = TEST if "eval" in table.name else TRAIN if "train" in table.name else None
    for row in read_cells(table, delimiter=",", skip_spaces=True, comment="#"):
      if isinstance(row, Problem):
        yield row
        continue
      place, cells = row
      try:
        yield self._entry(place, cells, split=split)
      except ValueError as error:
        yield Problem(path=place, reason=str(error))

  def _entry(self, place: str, cells: list[str], *, split: str | None) -> Entry:
    if len(cells) != 4:
      raise ValueError(f"{len(cells)} columns where 4 are expected; quote labels with commas")
    ytid, ids = cells[0].strip(), [part.strip() for part in cells[3].split(",")]
    if not _YTID.fullmatch(ytid):
      raise ValueError(f"{ytid[:40]!r} is no video's id; a spreadsheet may have changed it")
    names = [self.labels[label] for label in ids if label in self.labels]
    if not names:
      raise ValueError("none of its labels is among the music labels that are asked for")
    start_s, end_s = seconds_of(cells[1]), seconds_of(cells[2])
    return Entry(
      place=place,
      names=youtube_names(ytid, start_s=start_s, end_s=end_s),
      captions=tuple(Caption(text=name, kind=SHORT, source="positive_labels") for name in names),
      split=split,
      extra={"ytid": ytid, "start_s": start_s, "end_s": end_s, "labels": ids},
    )
