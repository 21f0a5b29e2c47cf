"""Pictures of an evaluation: a score over a parameter, two scores against one another, thresholds.

A point is drawn with its 95 % interval, where it has one. Series differ in colour and in marker, so
that they can be told apart without colours.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from noise2music.errors import UserError
from noise2music.evaluation.report import figure_uri, pyplot

ScoreRecord = Mapping[str, Any]  # as a metric gives it: "metric", "value", "interval_95" and more
# Okabe and Ito (2008): told apart by readers with any colour vision.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_MARKERS = "osD^vPX"


def check_score(score: ScoreRecord) -> None:
  """Raises UserError for what is no score of a metric. A value may be None: nothing to count."""
  value, interval = score.get("value"), score.get("interval_95")
  good = isinstance(score.get("metric"), str) and "value" in score
  good = good and (value is None or _is_number(value))
  if interval is not None:
    good = good and len(interval) == 2 and all(map(_is_number, interval))
  if not good:
    raise UserError(
      f"{dict(score)} is no score: give metric, value and interval_95 as n2m evaluate writes them"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepPlot:
  """A metric over a parameter: {name of the line: [(value of the parameter, score), ...]}.

  logarithmic: of the parameter's axis.
  """

  parameter: str
  series: Mapping[str, Sequence[tuple[float, ScoreRecord]]]
  logarithmic: bool = False

  def __post_init__(self):
    _check_series(self.series, f"a sweep over {self.parameter}")
    scores = [score for points in self.series.values() for _, score in points]
    _one_metric(scores)
    if self.logarithmic and any(x <= 0 for points in self.series.values() for x, _ in points):
      raise UserError(f"{self.parameter} has values that have no logarithm: use a linear axis")

  @property
  def metric(self) -> str:
    return next(score for points in self.series.values() for _, score in points)["metric"]

  @property
  def title(self) -> str:
    return f"{self.metric} over {self.parameter}"

  def rows(self) -> list[list[str]]:
    """[series, parameter, value, n] of each point."""
    return [
      [name, f"{x:g}", figure_of(score), count_of(score)]
      for name, points in self.series.items()
      for x, score in sorted(points, key=lambda point: point[0])
    ]

  def picture(self) -> str:
    """A data URI."""
    figure, axes = _axes(self.parameter, self.metric)
    for k, (name, points) in enumerate(self.series.items()):
      points = sorted(points, key=lambda point: point[0])
      xs, scores = [x for x, _ in points], [score for _, score in points]
      style = _style(k)
      axes.plot(xs, [s["value"] for s in scores], label=name, linewidth=1.5, **style)
      if all(s.get("interval_95") for s in scores):
        low, high = zip(*(s["interval_95"] for s in scores), strict=True)
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if self.logarithmic:
      # Labelled where there are points: powers of ten alone would leave a short axis bare.
      values = sorted({x for points in self.series.values() for x, _ in points})
      axes.set_xscale("log")
      axes.set_xticks(values, [f"{x:g}" for x in values])
      axes.minorticks_off()
    return _finish(figure, axes, legend=len(self.series) > 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TradeOffPlot:
  """Two metrics against one another, a point a setting, as figure 2 of the paper.

  series: {name: [(label of the setting, score along x, score along y), ...]}, joined in this order.
  """

  series: Mapping[str, Sequence[tuple[str, ScoreRecord, ScoreRecord]]]

  def __post_init__(self):
    _check_series(self.series, "a plot of two metrics")
    for side in (1, 2):
      _one_metric([point[side] for points in self.series.values() for point in points])

  @property
  def metrics(self) -> tuple[str, str]:
    _, x, y = next(point for points in self.series.values() for point in points)
    return x["metric"], y["metric"]

  @property
  def title(self) -> str:
    return f"{self.metrics[1]} against {self.metrics[0]}"

  def rows(self) -> list[list[str]]:
    """[series, setting, x, y] of each point."""
    return [
      [name, label, figure_of(x), figure_of(y)]
      for name, points in self.series.items()
      for label, x, y in points
    ]

  def picture(self) -> str:
    """A data URI."""
    figure, axes = _axes(*self.metrics)
    for k, (name, points) in enumerate(self.series.items()):
      style = _style(k)
      xs, ys = [x["value"] for _, x, _ in points], [y["value"] for _, _, y in points]
      axes.plot(xs, ys, label=name, linewidth=0.8, alpha=0.9, **style)
      for label, x, y in points:
        axes.errorbar(
          x["value"], y["value"], xerr=_error(x), yerr=_error(y),
          color=style["color"], linewidth=0.8, alpha=0.6,
        )  # fmt: skip
        at = (x["value"], y["value"])
        axes.annotate(label, at, xytext=(5, 4), textcoords="offset points", fontsize=7)
    return _finish(figure, axes, legend=len(self.series) > 1)


def histogram(groups: Mapping[str, Sequence[float]], *, threshold: float, title: str) -> str:
  """Shares of each group in common bins, with the threshold as a line; a data URI."""
  values = [value for some in groups.values() for value in some]
  low, high = min(*values, threshold), max(*values, threshold)
  margin = 0.02 * (high - low) or 0.01
  figure, axes = _axes(title, "share of clips")
  for k, (name, some) in enumerate(groups.items()):
    axes.hist(
      some, bins=30, range=(low - margin, high + margin), weights=[1 / len(some)] * len(some),
      histtype="stepfilled", alpha=0.35, color=_COLOURS[k], edgecolor=_COLOURS[k],
      label=f"{name} (n = {len(some)})",
    )  # fmt: skip
  axes.axvline(threshold, color="#000", linestyle="--", linewidth=1, label="threshold")
  return _finish(figure, axes, legend=True)


def number(value: float | None) -> str:
  """Three digits, more where there are more before the point; a dash for none."""
  if value is None or not math.isfinite(value):
    return "-"
  return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def figure_of(score: ScoreRecord | float | None) -> str:
  """The value, and its interval where there is one."""
  if score is None or _is_number(score):
    return number(score)
  low, high = score.get("interval_95") or (None, None)
  value = number(score.get("value"))
  return value if low is None else f"{value} ({number(low)} to {number(high)})"


def count_of(score: ScoreRecord) -> str:
  return "-" if score.get("n") is None else f"{score['n']:,}"


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_series(series: Mapping[str, Sequence[Any]], what: str) -> None:
  empty = [name for name, points in series.items() if not points]
  if empty or not series:
    raise UserError(f"{what} has a line without points{''.join(f': {n}' for n in empty)}: add some")


def _one_metric(scores: Sequence[ScoreRecord]) -> None:
  for score in scores:
    check_score(score)
    if not _is_number(score["value"]):
      raise UserError(f"{score['metric']} has no value that could be drawn: leave its point out")
  names = sorted({score["metric"] for score in scores})
  if len(names) > 1:
    raise UserError(f"{' and '.join(names)} share no axis: make a plot for each")


def _style(k: int) -> dict[str, Any]:
  return {"color": _COLOURS[k % len(_COLOURS)], "marker": _MARKERS[k % len(_MARKERS)], "ms": 5}


def _error(score: ScoreRecord) -> list[list[float]] | None:
  """Both distances from the value to its interval, which need not hold the value."""
  if not score.get("interval_95"):
    return None
  low, high = score["interval_95"]
  return [[max(0.0, score["value"] - low)], [max(0.0, high - score["value"])]]


def _axes(x: str, y: str) -> tuple[Any, Any]:
  figure, axes = pyplot().subplots(figsize=(5.4, 3.2))
  # A $ in a name is no formula.
  axes.set_xlabel(x.replace("$", r"\$"), fontsize=9)
  axes.set_ylabel(y.replace("$", r"\$"), fontsize=9)
  axes.tick_params(labelsize=8)
  axes.grid(alpha=0.25, linewidth=0.6)
  axes.spines[["top", "right"]].set_visible(False)
  return figure, axes


def _finish(figure: Any, axes: Any, *, legend: bool) -> str:
  if legend:
    axes.legend(fontsize=8, frameon=False)
  return figure_uri(figure)
