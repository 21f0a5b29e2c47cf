"""Which clips are compared with which, and what counts as floor and ceiling."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from noise2music.evaluation.classifier import LinearDiscriminant
from noise2music.evaluation.embedders.log_mel_statistics import LogMelStatistics
from noise2music.evaluation.frechet import Gaussian, frechet_distance
from noise2music.evaluation.intervals import bootstrap, jackknife


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledAudio:
  """audio: float32 [clips, samples]; labels: what each clip is, or was asked to be."""

  audio: np.ndarray
  sample_rate_hz: int
  labels: Sequence[str]

  def __post_init__(self):
    if len(self.audio) != len(self.labels):
      raise ValueError(f"{len(self.audio)} clips have {len(self.labels)} labels")


def learned_and_listens(
  *,
  real_train: LabelledAudio,
  real_held_out: LabelledAudio,
  generated: LabelledAudio,
  untrained: LabelledAudio,
  embedder: LogMelStatistics | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """Did the cascade learn something, and does it make what the prompt asks for?

  All distances are from `real_train`, over equally many windows a side, since the Frechet distance
  depends on their number:
    floor: the untrained cascade; ceiling: real held-out clips.
  Agreement is the share of clips in which a linear classifier, fitted to `real_train`, hears the
  label that the prompt asked for:
    floor: the same clips against shuffled labels, and chance; ceiling: real held-out clips.

  Every figure comes with its 95 % interval over clips (jackknife for distances, bootstrap for
  shares) and the counts behind it.
  """
  embedder = embedder or LogMelStatistics()
  groups = {
    "generated": generated,
    "untrained": untrained,
    "real_held_out": real_held_out,
    "real_train": real_train,
  }
  clips = {
    name: embedder(group.audio, sample_rate_hz=group.sample_rate_hz)
    for name, group in groups.items()
  }
  classifier = LinearDiscriminant.fit(
    np.concatenate(clips["real_train"]),
    np.repeat(real_train.labels, clips["real_train"].shape[1]).tolist(),
  )
  rng = np.random.default_rng(seed)
  return {
    "protocol": "learned_and_listens",
    "encoder": f"log-mel mean, std and change, {embedder.width} wide,"
    f" windows of {embedder.window_seconds:g} s, floor {embedder.log_mel.floor_db:g} dB",
    "reference": f"{len(real_train.audio)} real training clips",
    "frechet_log_mel": _distances(clips, rng=rng),
    "agreement": _agreement(clips, groups, classifier, rng=rng, seed=seed),
  }


def _distances(clips: dict[str, np.ndarray], *, rng: np.random.Generator) -> dict[str, Any]:
  reference = np.concatenate(clips["real_train"])
  count = min(sum(map(len, group)) for group in clips.values())
  # One scale for each feature, from the reference, lest loud bands decide alone.
  scale = reference.std(0) + 1e-6
  reference = Gaussian.fit(rng.permutation(reference)[:count] / scale)
  out: dict[str, Any] = {"n_windows": count}
  for name in ("generated", "untrained", "real_held_out"):
    group = rng.permutation(clips[name]) / scale

    def distance(indices: np.ndarray, group: np.ndarray = group) -> float:
      return frechet_distance(Gaussian.fit(np.concatenate(group[indices])[:count]), reference)

    low, high = jackknife(distance, count=len(group))
    out[name] = {
      "value": distance(np.arange(len(group))),
      "interval_95": [low, high],
      "n_clips": len(group),
    }
  out["ratio_to_untrained"] = out["generated"]["value"] / out["untrained"]["value"]
  return out


def _agreement(
  clips: dict[str, np.ndarray],
  groups: dict[str, LabelledAudio],
  classifier: LinearDiscriminant,
  *,
  rng: np.random.Generator,
  seed: int,
) -> dict[str, Any]:
  chance = 1 / len(classifier.labels)
  out: dict[str, Any] = {"labels": list(classifier.labels), "chance": chance}
  for name in ("generated", "untrained", "real_held_out"):
    heard = np.asarray(classifier.predict(clips[name]))
    wanted = np.asarray(groups[name].labels)
    out[name] = _share(heard == wanted, seed=seed)
    if name == "generated":
      out["shuffled_prompts"] = _share(heard == rng.permutation(wanted), seed=seed)
      out["heard_by_label"] = {
        str(label): _counts(heard[wanted == label]) for label in sorted(set(wanted))
      }
  out["times_chance"] = out["generated"]["value"] / chance
  return out


def _share(hits: np.ndarray, *, seed: int) -> dict[str, Any]:
  low, high = bootstrap(lambda indices: float(hits[indices].mean()), count=len(hits), seed=seed)
  return {"value": float(hits.mean()), "interval_95": [low, high], "n_clips": len(hits)}


def _counts(heard: np.ndarray) -> dict[str, int]:
  return {
    str(label): int(count)
    for label, count in zip(*np.unique(heard, return_counts=True), strict=True)
  }
