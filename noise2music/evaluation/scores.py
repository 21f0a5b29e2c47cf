"""A score and everything it hangs on: without that it is a rumour."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluation.intervals import bootstrap

LOWER_IS_BETTER = ("fad", "kad", "kl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """interval_95: over clips; None where there is no sampling. n: clips."""

  value: float
  n: int
  interval_95: tuple[float, float] | None = None
  what: str = ""

  def __str__(self) -> str:
    if self.interval_95 is None:
      return f"{self.value:.4g}"
    low, high = self.interval_95
    return f"{self.value:.4g} ({low:.4g} to {high:.4g})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """One metric of one set of clips.

  metric: as `fad_vggish`. encoder: name, protocol, fingerprint, width and sample_rate_hz of what
  embedded the clips. protocol: the set and which seconds of a clip are scored. reference: name and
  fingerprint of what the clips are compared with. n_reference: its clips. rows: vectors behind the
  value, of the clips and of the reference. seconds: of audio that was scored. floor, ceiling: what
  the metric gives where nothing, and where everything, is right. details: of the metric itself.
  warnings: sentences that must be read with the value.
  """

  metric: str
  estimate: Estimate
  encoder: Mapping[str, Any]
  protocol: str
  resampler: str
  reference: str
  n_reference: int
  rows: tuple[int, int]
  seed: int
  seconds: float
  floor: Estimate | None = None
  ceiling: Estimate | None = None
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  warnings: tuple[str, ...] = ()

  @property
  def value(self) -> float:
    return self.estimate.value

  @property
  def lower_is_better(self) -> bool:
    return self.metric.startswith(LOWER_IS_BETTER)

  def to_json(self) -> dict[str, Any]:
    record = dataclasses.asdict(self)
    return {"metric": record.pop("metric"), **record.pop("estimate"), **record}

  @classmethod
  def from_json(cls, record: Mapping[str, Any]) -> "Score":
    """Raises UserError for what `to_json` does not give."""
    try:
      record = dict(record)
      own = {key: record.pop(key) for key in ("value", "n", "interval_95", "what")}
      anchors = {key: record.pop(key) for key in ("floor", "ceiling")}
      return cls(
        estimate=_estimate(own),
        **{key: None if it is None else _estimate(it) for key, it in anchors.items()},
        **record | {key: tuple(record[key]) for key in ("rows", "warnings")},
      )
    except (KeyError, TypeError, ValueError) as error:
      raise UserError(f"no score that was written here ({error}): score the clips again") from error


def _estimate(record: Mapping[str, Any]) -> Estimate:
  interval = record["interval_95"]
  return Estimate(**{**record, "interval_95": None if interval is None else tuple(interval)})


# What two scores must share, how it is called, and what to do where they do not.
_SHARED = {
  "metric": "metrics",
  "encoder": "encoders",
  "protocol": "protocols",
  "resampler": "resamplers",
  "reference": "references",
}


def check_comparable(a: Score, b: Score) -> None:
  """Raises UserError where two values do not mean the same thing.

  Those of a Frechet distance need equal numbers of rows besides, since it falls as they grow.
  """
  for name, many in _SHARED.items():
    ours, theirs = (getattr(score, name) for score in (a, b))
    if ours != theirs:
      raise UserError(
        f"scores of different {many} cannot be compared ({_told(ours)}, {_told(theirs)}): score"
        " both in one way"
      )
  if a.metric.startswith("fad") and a.rows != b.rows:
    raise UserError(
      f"{a.metric} of {a.rows[0]:,} and of {b.rows[0]:,} embeddings (reference {a.rows[1]:,} and"
      f" {b.rows[1]:,}) cannot be compared, it falls as they grow: score equally many"
    )


def compare(
  a: Score, b: Score, *, clips: tuple[Mapping[str, float], Mapping[str, float]] = ({}, {})
) -> dict[str, Any]:
  """b - a, and which is better where that is not chance. Raises UserError as `check_comparable`.

  clips: what single clips have. Where both have the very same clips, the difference is of pairs,
  and its interval decides; else two intervals that lie apart do, which takes a larger difference.
  """
  check_comparable(a, b)
  difference = b.value - a.value
  if clips[0] and clips[0].keys() == clips[1].keys():
    pairs = np.array([clips[1][name] - clips[0][name] for name in sorted(clips[0])])
    mean = lambda rows: float(pairs[rows].mean())  # noqa: E731
    low, high = bootstrap(mean, count=len(pairs), seed=a.seed, rounds=1_000)
    by, decided = "pairs", low > 0 or high < 0
    interval = [low, high]
  else:
    bounds = [score.estimate.interval_95 or (score.value,) * 2 for score in (a, b)]
    by, interval = "intervals apart", None
    decided = bounds[0][1] < bounds[1][0] or bounds[1][1] < bounds[0][0]
  better = "b" if (difference < 0) == a.lower_is_better else "a"
  return {
    "metric": a.metric,
    "a": a.value,
    "b": b.value,
    "difference": difference,
    "difference_95": interval,
    "decided_by": by,
    "better": better if decided else None,
  }


def _told(value: Any) -> str:
  if isinstance(value, Mapping):
    return ", ".join(f"{v}" for v in value.values())
  return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
