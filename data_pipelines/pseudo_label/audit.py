"""One page to listen to and judge labels by: a self-contained HTML file, no scripts, no network.

A sample of the clips with a player and their labels, how scores are spread, how often captions
come up before and after the draw evens them out, and recordings that are there twice. Players
point to the audio by relative paths, so page and clips can move together.
"""

import dataclasses
import hashlib
import html
import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from data_pipelines.duplicates import COSINE, Duplicate, Overlay, find_duplicates
from data_pipelines.manifest import Clip, atomic_text, json_lines, read_manifest
from data_pipelines.pseudo_label.job import (
  CLIPS,
  DEAD_LETTERS,
  EMBEDDINGS,
  FREQUENCIES,
  LABELS,
  read_run,
)
from data_pipelines.pseudo_label.store import open_store
from noise2music.errors import UserError

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; }
table { border-collapse: collapse; } td, th { padding: .15em .8em .15em 0; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } audio { width: 100%; }
section.clip { border-top: 1px solid #999; padding: .6em 0; } .quiet { color: #666; }
svg { background: #fafafa; } svg text { font: 11px system-ui, sans-serif; fill: #333; }
"""
_WIDTH, _HEIGHT, _EDGE = 420, 220, 34


@dataclasses.dataclass(frozen=True, kw_only=True)
class Audit:
  """clips: how many are shown, drawn by `seed` and their ids.

  compared: among so many, drawn likewise, recordings that are there twice are sought: each is
  compared with each. cosine: of their vectors.
  """

  clips: int = 50
  compared: int = 20_000
  seed: int = 0
  cosine: float = COSINE
  overlay: Overlay = Overlay()

  def __post_init__(self):
    if self.clips < 1:
      raise UserError(f"an audit of {self.clips} clips shows nothing: ask for 1 or more")

  def write(self, run: str | os.PathLike, path: str | os.PathLike | None = None) -> Path:
    """Writes the page of the run's folder, RUN/audit.html where no path is given."""
    job, record = read_run(run)
    path = Path(path) if path is not None else job.out / "audit.html"
    clips = {clip.id: clip for clip in read_manifest(job.out / "manifest.jsonl")}
    order = sorted(clips, key=self._order)
    shown = order[: self.clips]
    labels, scores = {name: [] for name in shown}, defaultdict(list)
    for _, label in json_lines(job.out / LABELS):
      scores[label["vocabulary"]].append(label["score"])
      if label["clip"] in labels:
        labels[label["clip"]].append(label)
    compared = {name: clips[name] for name in order[: self.compared]}
    duplicates = self._duplicates(job.out, compared)
    parts = [
      _head(record),
      _scores(scores),
      _frequencies(_frequency_lines(job.out)),
      _twice(duplicates, compared=len(compared), folder=path.parent),
      f"<h2>{len(shown)} of {len(clips)} clips</h2>",
      *(_clip(clips[name], labels[name], run=job.out, folder=path.parent) for name in shown),
      _dead(job.out / DEAD_LETTERS),
    ]
    with atomic_text(path) as out:
      out.write("<!doctype html>\n<html lang=en><meta charset=utf-8>")
      out.write(f"<title>Labels of {_text(job.out.name)}</title><style>{_STYLE}</style>\n")
      out.write("\n".join(parts) + "\n</html>\n")
    return path

  def _order(self, clip: str) -> bytes:
    return hashlib.blake2b(json.dumps([self.seed, clip]).encode(), digest_size=8).digest()

  def _duplicates(self, out: Path, clips: dict[str, Clip]) -> list[Duplicate]:
    store = open_store(out / EMBEDDINGS / CLIPS)
    here = [row for row, name in enumerate(store.ids) if name in clips]
    files = [(store.ids[row], str(clips[store.ids[row]].audio_path(out))) for row in here]
    return find_duplicates(files, store.rows(here), cosine=self.cosine, overlay=self.overlay)


def histogram(values: Sequence[float], *, title: str, bins: int = 40) -> str:
  """An inline SVG of how often values fall where."""
  counts, edges = np.histogram(values, bins=bins)
  top, bar = max(1, int(counts.max())), (_WIDTH - 2 * _EDGE) / bins
  bars = "".join(
    f'<rect x="{_EDGE + i * bar:.1f}" y="{_HEIGHT - _EDGE - h:.1f}" width="{bar * 0.9:.1f}" '
    f'height="{h:.1f}" fill="#47a"/>'
    for i, h in enumerate(counts / top * (_HEIGHT - 2 * _EDGE))
  )
  return _figure(title, bars, low=f"{edges[0]:.3f}", high=f"{edges[-1]:.3f}", top=f"{top}")


def rank_frequency(lines: Sequence[tuple[str, str, Sequence[int]]], *, title: str) -> str:
  """An inline SVG, both axes logarithmic. lines: (name, colour, how often each caption)."""
  ranked = [
    (name, colour, sorted(filter(None, some), reverse=True)) for name, colour, some in lines
  ]
  most = max((some[0] for *_, some in ranked if some), default=1)
  longest = max((len(some) for *_, some in ranked), default=1)
  out = []
  for row, (name, colour, some) in enumerate(ranked):
    points = " ".join(
      f"{_EDGE + (_WIDTH - 2 * _EDGE) * math.log(rank) / math.log(max(2, longest)):.1f},"
      f"{_HEIGHT - _EDGE - (_HEIGHT - 2 * _EDGE) * math.log(n) / math.log(max(2, most)):.1f}"
      for rank, n in enumerate(some, start=1)
      if rank < 200 or rank % (rank // 100) == 0
    )
    out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
    out.append(
      f'<text x="{_WIDTH - _EDGE}" y="{_EDGE + 14 * row}" text-anchor="end" '
      f'style="fill:{colour}">{_text(name)}</text>'
    )
  return _figure(title, "".join(out), low="rank 1", high=f"{longest}", top=f"{most}")


def _figure(title: str, inside: str, *, low: str, high: str, top: str) -> str:
  base = _HEIGHT - _EDGE
  return (
    f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img"><title>{_text(title)}</title>'
    f'<text x="{_EDGE}" y="16">{_text(title)}</text>{inside}'
    f'<line x1="{_EDGE}" y1="{base}" x2="{_WIDTH - _EDGE}" y2="{base}" stroke="#333"/>'
    f'<text x="{_EDGE}" y="{base + 16}">{low}</text>'
    f'<text x="{_WIDTH - _EDGE}" y="{base + 16}" text-anchor="end">{high}</text>'
    f'<text x="{_EDGE - 4}" y="{_EDGE}" text-anchor="end">{top}</text></svg>'
  )


def _head(record: dict[str, Any]) -> str:
  counts, settings = record["clips"], record["settings"]
  rows = "".join(
    f"<tr><td>{_text(v['name'])}<td>{_text(v['kind'])}<td class=n>{v['captions']}"
    f"<td class=n>{v['never_given']}<td class=n>{v['labels']}"
    f"<td>{'yes' if v['merged'] else 'excluded'}"
    for v in record["vocabularies"]
  )
  return (
    f"<h1>Labels</h1><p>{counts['in']} clips in, {counts['good']} labelled, {counts['bad']} left "
    f"out. Encoder {_text(record['encoder'])}; {settings['candidates']} candidates, seed "
    f"{settings['seed']}.</p><table><tr><th>vocabulary<th>kind<th>captions<th>never given"
    f"<th>labels<th>in the manifest{rows}</table>"
  )


def _scores(scores: dict[str, list[float]]) -> str:
  figures = (histogram(some, title=f"{name}: cosine of labels") for name, some in scores.items())
  return "<h2>Scores</h2>" + "".join(figures)


def _frequency_lines(out: Path) -> dict[str, list[dict[str, Any]]]:
  lines = defaultdict(list)
  for _, line in json_lines(out / FREQUENCIES):
    lines[line["vocabulary"]].append(line)
  return lines


def _frequencies(lines: dict[str, list[dict[str, Any]]]) -> str:
  figures = []
  for name, some in lines.items():
    before, after = ([line[k] for line in some] for k in ("candidate_of", "label_of"))
    curves = [("candidates, before", "#c63", before), ("labels, after", "#47a", after)]
    figures.append(rank_frequency(curves, title=f"{name}: clips a caption, by rank"))
    rows = "".join(
      f"<tr><td class=n>{line['candidate_of']}<td class=n>{line['label_of']}"
      f"<td>{_text(line['text'])}"
      for line in some[:10]
    )
    figures.append(f"<table><tr><th>candidate of<th>label of<th>{_text(name)}{rows}</table>")
  return "<h2>How often a caption comes up</h2>" + "".join(figures)


def _twice(duplicates: Sequence[Duplicate], *, compared: int, folder: Path) -> str:
  heading = f"<h2>Recordings that are there twice, among {compared}</h2>"
  if not duplicates:
    return f"{heading}<p>None found.</p>"
  rows = "".join(
    f"<tr><td>{_text(d.first)}<br>{_player(d.first_path, folder)}"
    f"<td>{_text(d.second)}<br>{_player(d.second_path, folder)}"
    f"<td class=n>{d.cosine:.3f}<td class=n>{d.correlation:.3f}<td class=n>{d.offset_seconds:g}"
    for d in duplicates
  )
  return (
    f"{heading}<p>{len(duplicates)} pairs</p><table><tr><th>first<th>second"
    f"<th>cosine<th>correlation<th>offset, s{rows}</table>"
  )


def _clip(clip: Clip, labels: list[dict[str, Any]], *, run: Path, folder: Path) -> str:
  rows = "".join(
    f"<tr><td>{_text(label['vocabulary'])}<td class=n>{_number(label['rank'])}"
    f"<td class=n>{label['score']:.4f}<td class=n>{_number(label['margin'])}"
    f"<td class=n>{label['frequency']}<td>{_text(label['text'])}"
    for label in labels
  )
  other = "; ".join(c.text for c in clip.captions if not c.source.startswith("label:"))
  return (
    f"<section class=clip><b>{_text(clip.id)}</b> <span class=quiet>{clip.duration:.1f} s, "
    f"{_text(clip.license or 'licence unknown')}. {_text(other)}</span>"
    f"{_player(clip.audio_path(run), folder)}<table><tr><th>vocabulary<th>rank<th>score<th>margin"
    f"<th>frequency<th>label{rows}</table></section>"
  )


def _dead(path: Path) -> str:
  lines = [line for _, line in json_lines(path)]
  rows = "".join(
    f"<tr><td>{_text(line['id'] or line['path'])}<td>{_text(line['reason'])}"
    for line in lines[:200]
  )
  return f"<h2>Left out: {len(lines)}</h2><table>{rows}</table>"


def _player(audio: str | os.PathLike, folder: Path) -> str:
  link = Path(os.path.relpath(audio, folder)).as_posix()
  return f'<audio controls preload=none src="{_text(quote(link))}"></audio>'


def _number(value: float | None) -> str:
  return "-" if value is None else f"{value:.4g}"


def _text(value: str) -> str:
  return html.escape(str(value))
