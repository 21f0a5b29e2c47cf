"""Scores as HTML: warnings, a table of values with their anchors, and what each hangs on.

A score is a record as `scores.Score.to_json` gives it; what it does not hold is a dash.
"""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from noise2music.evaluation.evaluation_plots import ScoreRecord, count_of, figure_of, number
from noise2music.evaluation.report import Table, table_html


def by_variant(
  scores: Sequence[ScoreRecord] | Mapping[str, Sequence[ScoreRecord]],
) -> list[tuple[str, ScoreRecord]]:
  """(variant, score), those of one metric in a row, so that variants can be compared."""
  of_each = scores if isinstance(scores, Mapping) else {"": scores}
  found = [(variant, score) for variant, some in of_each.items() for score in some]
  metrics = list(dict.fromkeys(score.get("metric") for _, score in found))
  return sorted(found, key=lambda it: metrics.index(it[1].get("metric")))


def scores_html(scores: Sequence[tuple[str, ScoreRecord]]) -> str:
  """Of what `by_variant` gave: a row for each, with the variant where there are several."""
  several = len({variant for variant, _ in scores}) > 1

  def named(variant: str, score: ScoreRecord) -> list[str]:
    return [score["metric"], *([variant] if several else [])]

  names = ["metric", *(["sampled as"] if several else [])]
  table = Table(
    title="Scores",
    header=[
      *names, "value (95 % interval)", "n", "n reference", "floor", "ceiling", "encoder", "details",
    ],
    rows=[
      [
        *named(variant, score),
        figure_of(score),
        count_of(score),
        count_of({"n": score.get("n_reference")}),
        _anchor(score.get("floor")),
        _anchor(score.get("ceiling")),
        _encoder(score.get("encoder")),
        _flat(score.get("details") or {}),
      ]
      for variant, score in scores
    ],
    note="Floor and ceiling: the same metric for what knows nothing, and for real music."
    " A dash: not computed.",
  )  # fmt: skip
  hangs_on = ("protocol", "reference", "resampler", "seed", "seconds")
  return (
    _warnings(scores)
    + table_html(table)
    + details_html(
      "How each was computed",
      [*names, "embeddings, of the clips and of the reference", *hangs_on],
      [
        [*named(variant, s), _rows(s.get("rows")), *(plain(s.get(key)) for key in hangs_on)]
        for variant, s in scores
      ],
    )
  )


def _warnings(scores: Sequence[tuple[str, ScoreRecord]]) -> str:
  """Each sentence once, with what it is about; variants are named where some are not concerned."""
  variants: dict[str, list[str]] = {}
  warned: dict[str, dict[str, list[str]]] = {}
  for variant, score in scores:
    name = _named(score)
    variants.setdefault(name, []).append(variant)
    for line in score.get("warnings") or ():
      warned.setdefault(line, {}).setdefault(name, []).append(variant)
  items = []
  for line, names in warned.items():
    about = [
      name if some == variants[name] or not any(some) else f"{name} ({', '.join(some)})"
      for name, some in names.items()
    ]
    items.append(f"<li><b>{_text(', '.join(about))}</b>: {_text(line)}</li>")
  return f"<h2>Warnings</h2><ul>{''.join(items)}</ul>" if items else ""


def _named(score: ScoreRecord) -> str:
  """The metric; with its encoder where the metric does not name it."""
  encoder = score.get("encoder")
  name = encoder.get("name") if isinstance(encoder, Mapping) else encoder
  return said_once(f"{score['metric']} {name}") if name else score["metric"]


def _anchor(score: ScoreRecord | float | None) -> str:
  """A floor or ceiling, with what it was computed from."""
  what = score.get("what") if isinstance(score, Mapping) else ""
  return f"{figure_of(score)}, {what}" if what else figure_of(score)


def _flat(details: Mapping[str, Any]) -> str:
  told = (
    f"{name} ({_flat(value)})" if isinstance(value, Mapping) else f"{name} {plain(value)}"
    for name, value in details.items()
  )
  return ", ".join(told) or "-"


def _rows(rows: Sequence[int] | None) -> str:
  return "-" if rows is None else " and ".join(f"{count:,}" for count in rows)


def said_once(name: str) -> str:
  """`fad_vggish vggish`, a clip's metric and its encoder, without what is said twice."""
  metric, _, encoder = name.partition(" ")
  return metric if metric.endswith(f"_{encoder}") else name


def _encoder(encoder: Any) -> str:
  if not isinstance(encoder, Mapping):
    return plain(encoder)
  fingerprint = str(encoder.get("fingerprint", ""))
  return " ".join(filter(None, (str(encoder.get("name", "")), fingerprint[:12]))) or "-"


def plain(value: Any) -> str:
  """As text: numbers with three digits, lists and mappings as JSON."""
  if value is None:
    return "-"
  if isinstance(value, float):
    return number(value)
  if isinstance(value, Mapping | list | tuple):
    return json.dumps(value, ensure_ascii=False, default=str)
  return str(value)


def details_html(summary: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  """A table behind a line that opens it."""
  head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
  body = "".join("<tr>" + "".join(f"<td>{_text(c)}</td>" for c in row) + "</tr>" for row in rows)
  return (
    f"<details><summary>{_text(summary)}</summary><table><tr>{head}</tr>{body}</table></details>"
  )


def _text(value: Any) -> str:
  return html.escape(str(value))
