"""The page of an evaluation, and whether what was made repeats what was trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio.wav_io import read_audio
from noise2music.errors import UserError
from noise2music.evaluation.alignment import Aligner
from noise2music.evaluation.embeddings import Encoder, File, Say, embed_files
from noise2music.evaluation.evaluation_page import (
  AlignedPair,
  EvaluationPage,
  MemorisationSection,
  Outliers,
  Song,
  write_evaluation_page,
)
from noise2music.evaluation.evaluation_plots import SweepPlot, TradeOffPlot
from noise2music.evaluation.memorisation import ClipSet, Memorisation, check_memorisation
from noise2music.evaluation.report import Player
from noise2music.evaluation.scores import LOWER_IS_BETTER

SHOWN = 8  # songs
ENDS = 3  # of these the best and the worst, so many each
SHOWN_VARIANTS = 4  # of a song
SHOWN_FAILURES = 20
SHOWN_PAIRS = 5  # of a generated clip and what it is like


def write_page(
  path: Path, record: Mapping[str, Any], *, memorisation: MemorisationSection | None = None
) -> None:
  """record: of scores.json. Raises as `write_evaluation_page`."""
  first, variants = record["variants"][0], record["variants"]
  swept = [variant for variant in variants if variant["x"] is not None]
  page = EvaluationPage(
    title="noise2music: an evaluation",
    summary=[f"{len(first['files'])} clips, {len(variants)} way(s) of sampling."],
    provenance={**record["provenance"], **_left_out(variants)},
    scores={variant["name"]: variant["scores"] for variant in variants},
    songs=_songs(record),
    outliers=_outliers(first),
    sweeps=_sweeps(swept) if len(swept) > 1 else [],
    trade_offs=_trade_offs(swept) if len(swept) > 1 else [],
    memorisation=memorisation,
  )
  write_evaluation_page(path, page)


def _left_out(variants: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Clips that could not be scored, the first of them with the reason."""
  failed = {name: why for variant in variants for name, why in variant["failed"].items()}
  told = dict(list(failed.items())[:SHOWN_FAILURES])
  return {"left_out": {"clips": len(failed), **told}} if failed else {}


def _songs(record: Mapping[str, Any]) -> list[Song]:
  """The best and the worst by the first metric that single clips have, and some others."""
  first = record["variants"][0]
  place = f"{first['name']}/"
  failed = {name.removeprefix(place) for name in first["failed"] if name.startswith(place)}
  ends = [name for some in _outliers(first)[:1] for side in some.ends() for name in side[:ENDS]]
  names = [n for n in dict.fromkeys([*ends, *first["files"]]) if n not in failed][:SHOWN]
  songs = []
  for name in names:
    players = [
      _player(variant["name"], variant["files"].get(name))
      for variant in record["variants"][:SHOWN_VARIANTS]
    ]
    players.append(_player("ground truth", record.get("truth", {}).get(name)))
    songs.append(
      Song(
        id=name,
        prompt=record.get("prompts", {}).get(name, ""),
        players=[player for player in players if player is not None],
        scores={m: values[name] for m, values in first["clips"].items() if name in values},
      )
    )
  return [song for song in songs if song.players]


def _player(label: str, path: str | None) -> Player | None:
  if path is None:
    return None
  try:
    audio, rate = read_audio(path)
  except UserError:
    return None  # it went away since it was scored
  return Player(label=label, audio=audio, sample_rate_hz=rate)


def _outliers(variant: Mapping[str, Any]) -> list[Outliers]:
  return [
    Outliers(metric=metric, scores=values, lower_is_better=metric.startswith(LOWER_IS_BETTER))
    for metric, values in variant["clips"].items()
    if values
  ]


def _sweeps(variants: Sequence[Mapping[str, Any]]) -> list[SweepPlot]:
  return [
    SweepPlot(
      parameter=variants[0]["axis"],
      series=_series(variants, metric),
      logarithmic=variants[0]["axis"] == "steps",
    )
    for metric in _metrics(variants)
  ]


def _trade_offs(variants: Sequence[Mapping[str, Any]]) -> list[TradeOffPlot]:
  """Each distance against the similarity to the text, as the paper's Figure 2."""
  metrics = _metrics(variants)
  if "similarity_text" not in metrics:
    return []
  found = []
  for metric in (m for m in metrics if m.startswith(LOWER_IS_BETTER)):
    sides = [_series(variants, m) for m in ("similarity_text", metric)]
    series = {
      line: [(f"{x:g}", a, b) for (x, a), (_, b) in zip(points, sides[1][line], strict=True)]
      for line, points in sides[0].items()
    }
    found.append(TradeOffPlot(series=series))
  return found


def _metrics(variants: Sequence[Mapping[str, Any]]) -> list[str]:
  """Those that all variants have."""
  of_each = [[score["metric"] for score in variant["scores"]] for variant in variants]
  return [metric for metric in of_each[0] if all(metric in some for some in of_each)]


def _series(
  variants: Sequence[Mapping[str, Any]], metric: str
) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
  series: dict[str, list] = {}
  for variant in sorted(variants, key=lambda v: v["x"]):
    score = next(score for score in variant["scores"] if score["metric"] == metric)
    series.setdefault(variant["series"], []).append((variant["x"], score))
  return series


def memorisation_of(
  generated: Sequence[File],
  *,
  held_out: Sequence[File],
  training: Sequence[File],
  encoder: Encoder,
  folder: Path,
  false_alarm_rate: float = 0.01,
  say: Say = lambda clips: None,
) -> tuple[Memorisation, dict[str, str]]:
  """The release check, and why clips were left out of it. A clip's vector is the mean of its rows.

  Raises UserError as `check_memorisation`, and where a side holds no clip that can be aligned.
  """
  sets = {"generated": generated, "held_out": held_out, "training": training}
  aligner = Aligner()
  clip_sets, left_out = {}, {}
  for name, files in sets.items():
    embedded = embed_files(encoder, files, folder=folder / encoder.name, say=say)
    long = embedded.embeddings.seconds >= aligner.window_seconds
    found = embedded.embeddings.take(np.flatnonzero(long))
    left_out |= {f"{name}/{clip}": why for clip, why in embedded.failed.items()}
    short = np.flatnonzero(~long)
    left_out |= {
      f"{name}/{embedded.embeddings.ids[k]}": f"shorter than {aligner.window_seconds:g} s"
      for k in short
    }
    if not len(found):
      raise UserError(
        f"no {name.replace('_', '-')} clip can be read and is {aligner.window_seconds:g} s long:"
        " check their paths, or ask for longer ones"
      )
    paths = {file.id: file.path for file in files}

    def load(clip: str, paths: Mapping[str, str] = paths) -> np.ndarray:
      return read_audio(paths[clip], sample_rate_hz=aligner.log_mel.sample_rate_hz)[0]

    vectors = np.stack([rows.mean(0) for rows in found.clips])
    clip_sets[name] = ClipSet(ids=found.ids, vectors=vectors, load=load)
  result = check_memorisation(**clip_sets, aligner=aligner, false_alarm_rate=false_alarm_rate)
  return result, left_out


def memorisation_section(
  result: Memorisation, *, generated: Sequence[File], training: Sequence[File]
) -> MemorisationSection:
  """With the clips to hear that are most like one of the training set."""
  paths = [{file.id: file.path for file in files} for files in (generated, training)]
  pairs = []
  for finding in result.findings[:SHOWN_PAIRS]:
    players = [
      _player(label, side[name])
      for label, side, name in (
        ("generated", paths[0], finding.clip),
        ("training", paths[1], finding.training),
      )
    ]
    if None not in players:
      pairs.append(AlignedPair(finding=finding, generated=players[0], training=players[1]))
  return MemorisationSection(result=result, pairs=pairs)
