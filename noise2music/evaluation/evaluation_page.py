"""All that an evaluation found, as one HTML file: figures, plots, clips to hear, where it is from.

Scores come as `scores.Score.to_json` gives them, of which metric and value must be there: what a
score does not hold is a dash, or left out. Floor and ceiling are such records, numbers or None.
"""

import dataclasses
import html
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from noise2music.errors import UserError
from noise2music.evaluation.evaluation_plots import (
  ScoreRecord,
  SweepPlot,
  TradeOffPlot,
  check_score,
  histogram,
  number,
)
from noise2music.evaluation.memorisation import Finding, Memorisation
from noise2music.evaluation.proportions import Threshold
from noise2music.evaluation.report import (
  Player,
  Row,
  Table,
  page_html,
  row_html,
  table_html,
  write_whole,
)
from noise2music.evaluation.score_table import (
  by_variant,
  details_html,
  plain,
  said_once,
  scores_html,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Song:
  """players: the generated clip first, then what it is heard next to, as the real one.

  scores: of this song alone, {metric: value}.
  """

  id: str
  prompt: str
  players: Sequence[Player]
  scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outliers:
  """Which songs are best and worst by a score of theirs: `shown` of either end.

  Of all songs, not of those alone that the page plays. scores: {id: value}.
  """

  metric: str
  scores: Mapping[str, float]
  lower_is_better: bool
  shown: int = 5

  def __post_init__(self):
    bad = [name for name, value in self.scores.items() if not math.isfinite(value)]
    if bad or not self.scores or self.shown < 1:
      raise UserError(
        f"{self.metric} ranks no songs: give finite scores of some, and 1 or more to show"
        + (f" ({bad[0]} has none)" if bad else "")
      )

  def ends(self) -> tuple[list[str], list[str]]:
    """(the best, the best first; the worst, the worst first), no song in both."""
    sign = 1 if self.lower_is_better else -1
    order = sorted(self.scores, key=lambda name: (sign * self.scores[name], name))
    best = order[: min(self.shown, (len(order) + 1) // 2)]
    return best, order[len(best) :][::-1][: self.shown]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignedPair:
  """A generated clip and the training clip it resembles most, both whole; the page cuts them."""

  finding: Finding
  generated: Player
  training: Player


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemorisationSection:
  """pairs: those to hear, as the best aligned of `result.findings`."""

  result: Memorisation
  pairs: Sequence[AlignedPair] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPage:
  """What `write_evaluation_page` shows; whatever is empty is left out.

  summary: paragraphs. provenance: what made the numbers (command, versions, encoders' fingerprints,
  protocol, seeds, counts), with lists and mappings inside of it as they are. scores: of one set of
  clips; or {what the set is called, as the way it was sampled: its scores}.
  """

  title: str
  provenance: Mapping[str, Any]
  summary: Sequence[str] = ()
  scores: Sequence[ScoreRecord] | Mapping[str, Sequence[ScoreRecord]] = ()
  songs: Sequence[Song] = ()
  outliers: Sequence[Outliers] = ()
  sweeps: Sequence[SweepPlot] = ()
  trade_offs: Sequence[TradeOffPlot] = ()
  memorisation: MemorisationSection | None = None

  def __post_init__(self):
    for _, score in by_variant(self.scores):
      check_score(score)
    if len({song.id for song in self.songs}) != len(self.songs):
      raise UserError("a song is on the page twice: give each id once")
    if not self.provenance:
      raise UserError("a page of numbers says where they are from: give its provenance")


def write_evaluation_page(path: str | os.PathLike, page: EvaluationPage) -> None:
  """Writes the page, whole or not at all.

  Raises UserError where it cannot be written, or matplotlib is missing.
  """
  parts = [f"<h1>{_text(page.title)}</h1>"]
  parts += [f"<p>{_text(paragraph)}</p>" for paragraph in page.summary]
  if scores := by_variant(page.scores):
    parts.append(scores_html(scores))
  if page.sweeps or page.trade_offs:
    parts.append('<h2>Settings</h2><div class="plots">')
    parts += [_plot(s, ["line", s.parameter, s.metric, "n"]) for s in page.sweeps]
    parts += [_plot(t, ["line", "setting", *t.metrics]) for t in page.trade_offs]
    parts.append("</div>")
  anchors = {song.id: f"song-{k}" for k, song in enumerate(page.songs)}
  prompts = {song.id: song.prompt for song in page.songs}
  parts += [_outliers(outliers, anchors, prompts) for outliers in page.outliers]
  if page.memorisation:
    parts.append(_memorisation(page.memorisation))
  if page.songs:
    parts += ["<h2>Listen</h2>", *(_song(song, anchors[song.id]) for song in page.songs)]
  parts.append(_provenance(page.provenance))
  write_whole(path, page_html(title=page.title, body="\n".join(parts)))


def _plot(plot: SweepPlot | TradeOffPlot, header: Sequence[str]) -> str:
  title = _text(plot.title)
  return (
    f'<div class="plot"><h3>{title}</h3><img alt="{title}; numbers below" src="{plot.picture()}">'
    + details_html("Numbers", header, plot.rows())
    + "</div>"
  )


def _outliers(outliers: Outliers, anchors: Mapping[str, str], prompts: Mapping[str, str]) -> str:
  best, worst = outliers.ends()
  better = "lower" if outliers.lower_is_better else "higher"
  rows = [
    [end, name, number(outliers.scores[name]), prompts.get(name, "")]
    for end, names in (("best", best), ("worst", worst))
    for name in names
  ]
  body = "".join(
    "<tr>"
    + "".join(f"<td>{_link(c, anchors) if i == 1 else _text(c)}</td>" for i, c in enumerate(row))
    + "</tr>"
    for row in rows
  )
  head = "".join(f"<th>{_text(c)}</th>" for c in ("", "song", said_once(outliers.metric), "prompt"))
  return (
    f"<h2>Best and worst songs by {_text(said_once(outliers.metric))}</h2>"
    f"<table><tr>{head}</tr>{body}</table><p class=note>{better} is better;"
    f" of {len(outliers.scores):,} songs.</p>"
  )


def _link(name: str, anchors: Mapping[str, str]) -> str:
  return f'<a href="#{anchors[name]}">{_text(name)}</a>' if name in anchors else _text(name)


def _song(song: Song, anchor: str) -> str:
  scores = ", ".join(
    f"{said_once(metric)} {number(value)}" for metric, value in song.scores.items()
  )
  row = row_html(Row(heading=song.prompt or song.id, players=song.players))
  note = " · ".join(filter(None, (song.id, scores)))
  return f'<div id="{anchor}">{row}<p class=note>{_text(note)}</p></div>'


def _memorisation(section: MemorisationSection) -> str:
  result = section.result
  n = len(result.findings)
  counts = Table(
    title="Does it repeat its training set?",
    header=["generated clips", "above the threshold", "of", "threshold", "held-out above it"],
    rows=[
      [
        "near a training clip, by vectors",
        result.near,
        n,
        *_calibrated(result.similarity_threshold),
      ],
      [
        "match a training clip, by sound",
        result.matched,
        n,
        *_calibrated(result.alignment_threshold),
      ],
    ],
    note=f"Each clip was aligned with its {result.candidates} nearest of {result.n_training:,}"
    f" training clips, by windows of {result.window_seconds:g} s. In brackets: how often clips that"
    " nobody copied exceed the threshold, with 95 % confidence.",
  )
  groups = {
    "similarity to the nearest training clip": (
      result.held_out_similarity,
      [finding.similarity for finding in result.findings],
      result.similarity_threshold,
    ),
    "score of the best aligned window": (
      result.held_out_score,
      [finding.span.score for finding in result.findings],
      result.alignment_threshold,
    ),
  }
  parts = [table_html(counts), '<div class="plots">']
  for title, (held_out, generated, threshold) in groups.items():
    picture = histogram(
      {"held-out, real": held_out, "generated": generated}, threshold=threshold.value, title=title
    )
    parts.append(f'<img class="plot" alt="histogram: {title}" src="{picture}">')
  return "".join([*parts, "</div>", *map(_pair, section.pairs)])


def _calibrated(threshold: Threshold) -> list[str]:
  low, high = threshold.interval_95
  return [
    number(threshold.value),
    f"{threshold.above} of {threshold.n} ({low:.2%} to {high:.2%})",
  ]


def _pair(pair: AlignedPair) -> str:
  finding, span = pair.finding, pair.finding.span
  starts = (span.generated_start_seconds, span.training_start_seconds)
  names = (f"generated: {finding.clip}", f"training: {finding.training}")
  players = [
    _cut(player, start=start, seconds=span.length_seconds, name=name)
    for player, start, name in zip((pair.generated, pair.training), starts, names, strict=True)
  ]
  verdict = "above the threshold" if finding.matched else "below the threshold"
  note = (
    f"score {number(span.score)} ({verdict}), {number(span.span_score)} over"
    f" {span.length_seconds:g} s, offset {span.offset_seconds:+.2f} s;"
    f" similarity {number(finding.similarity)} to {finding.nearest}"
    + (", near" if finding.near else "")
  )
  row = row_html(Row(heading=f"{finding.clip} and {finding.training}", players=players))
  return f"{row}<p class=note>{_text(note)}</p>"


def _cut(player: Player, *, start: float, seconds: float, name: str) -> Player:
  rate = player.sample_rate_hz
  first = round(start * rate)
  audio = player.audio[first : first + round(seconds * rate)]
  if not len(audio):
    raise UserError(f"{name} ends before {start:g} s, where it matches: give the whole clip")
  label = f"{name}, {start:.2f} to {start + seconds:.2f} s"
  return Player(label=label, audio=audio, sample_rate_hz=rate)


def _provenance(provenance: Mapping[str, Any]) -> str:
  rows = "".join(
    f"<tr><th scope=row>{_text(name)}</th><td>{_value(value)}</td></tr>"
    for name, value in provenance.items()
  )
  return f'<h2>Where this is from</h2><table class="facts">{rows}</table>'


def _value(value: Any) -> str:
  if isinstance(value, Mapping):
    return "<br>".join(f"{_text(name)}: {_text(plain(some))}" for name, some in value.items())
  if isinstance(value, list | tuple):
    return "<br>".join(_text(plain(some)) for some in value)
  return _text(plain(value))


def _text(value: Any) -> str:
  return html.escape(str(value))
