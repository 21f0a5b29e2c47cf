"""Finds pieces that stand in the corpus under several names, and writes `same_piece.py`.

  python -m data_pipelines.datasets.score_corpus.duplicates CACHE_FOLDER

Needed again only when a collection is added, or music21's corpus changes: it reads every score of
the collections, a quarter of an hour on one core. Two works are the same piece when their melodies
share sixteen intervals in a row at the beginning, whatever their key, rhythm or upbeat.
"""

import collections
import itertools
import sys
from pathlib import Path

from data_pipelines.datasets.score_corpus.catalogue import COLLECTIONS, Work, works
from data_pipelines.datasets.score_corpus.scores import Score, read_score
from data_pipelines.manifest import atomic_text

_INTERVALS, _UPBEATS = 16, 4
# Masses open with the same chant, and a quartet has one name: their works are whole already.
_LEFT_OUT = ("palestrina", "trecento", "joplin")


def openings(score: Score) -> set[tuple[int, ...]]:
  """The runs of intervals by which a piece is known, from its first notes on."""
  keys = [note[2] for note in score.melody().notes]
  steps = [after - before for before, after in itertools.pairwise(keys)]
  runs = (tuple(steps[k : k + _INTERVALS]) for k in range(_UPBEATS))
  return {run for run in runs if len(run) == _INTERVALS and len(set(run)) > 3}


def same_piece(scores: list[tuple[Work, Score]]) -> dict[str, str]:
  """Key -> the key that stands for all that are the same piece, where that is another one."""
  parent: dict[str, str] = {}

  def root(key: str) -> str:
    while parent.get(key, key) != key:
      key = parent[key]
    return key

  heard = collections.defaultdict(set)
  for work, score in scores:
    for opening in openings(score):
      heard[opening].add(work.name)
  for keys in heard.values():
    roots = sorted({root(key) for key in keys})
    parent |= dict.fromkeys(roots, roots[0])
  return {key: root(key) for key in sorted(parent) if root(key) != key}


_HEADER = '''\
"""Works that are one piece under several names; made by duplicates.py.

A table, one line a work, and as long as there are such works: it is kept because finding them reads
the whole of music21's corpus, and no two splits may share a piece.
"""

# fmt: off
# ruff: noqa: E501
SAME_PIECE = {
'''


def main(cache: Path) -> None:
  """Reads everything and writes the table next to this file."""
  scores = []
  for name in COLLECTIONS:
    if name not in _LEFT_OUT and not name.endswith("Quartets"):
      found = ((work, read_score(work, cache=cache)) for work in works(name))
      scores += [(work, score) for work, score in found if score is not None]
  table = same_piece(scores)
  with atomic_text(Path(__file__).with_name("same_piece.py")) as out:
    out.write(_HEADER)
    out.writelines(f"  {key!r}: {other!r},\n" for key, other in table.items())
    out.write("}\n")


if __name__ == "__main__":
  main(Path(sys.argv[1]))
