"""From the vectors of clips to scores, each with its interval, its floor and its ceiling.

An interval is over the evaluated clips, the reference held as it is. That of FAD is a bootstrap
moved to its value: clips that are drawn twice narrow a cloud, which lifts every resample's distance
alike, and only the spread tells something.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from noise2music.errors import UserError
from noise2music.evaluation.divergence import Divergence
from noise2music.evaluation.embedders.stored import Stored
from noise2music.evaluation.embeddings import RESAMPLER, Embeddings, Encoder
from noise2music.evaluation.frechet import (
  ByClips,
  Gaussian,
  Infinity,
  Moments,
  expected_bias,
  frechet_distance,
)
from noise2music.evaluation.intervals import bootstrap
from noise2music.evaluation.kernel import Kernels, median_distance
from noise2music.evaluation.scores import Estimate, Score
from noise2music.evaluation.similarity import cosines, derangement

KAD_ROWS = 2_000  # a side: kernels are tables of all pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
  """What all scores of one run share.

  protocol: as in `Score`. rounds: of the bootstrap. infinity: how FAD is extrapolated.
  """

  encoder: Encoder
  protocol: str
  seed: int = 0
  rounds: int = 200
  infinity: Infinity = ByClips()

  def __post_init__(self):
    if self.rounds < 2:
      raise UserError(f"{self.rounds} rounds of the bootstrap give no interval: give at least 2")

  def score(
    self,
    metric: str,
    estimate: Estimate,
    evaluated: Embeddings,
    *,
    reference: str,
    n_reference: int,
    rows: tuple[int, int],
    **more: Any,
  ) -> Score:
    encoder = {name: getattr(self.encoder, name, None) for name in _TOLD}
    stored = isinstance(self.encoder, Stored)
    return Score(
      metric=metric,
      estimate=estimate,
      encoder=encoder,
      protocol=self.protocol,
      resampler="as stored" if stored else RESAMPLER,
      reference=reference,
      n_reference=n_reference,
      rows=rows,
      seed=self.seed,
      seconds=float(evaluated.seconds.sum()),
      **more,
    )

  def spread(
    self, statistic: Callable[[np.ndarray], float], *, count: int, value: float
  ) -> tuple[float, float]:
    """The bootstrap's interval of statistic(times each clip is drawn), moved to the value."""

    rng = np.random.default_rng(self.seed)
    values = []
    while len(values) < self.rounds:
      times = np.bincount(rng.integers(0, count, count), minlength=count)
      if np.count_nonzero(times) > 1:  # copies of one clip are no cloud
        values.append(statistic(times))
    low, high = np.quantile(values, [0.025, 0.975]) - np.mean(values)
    return float(value + low), float(value + high)


_TOLD = ("name", "protocol", "fingerprint", "width", "sample_rate_hz")


def frechet(
  evaluated: Embeddings,
  reference: Embeddings,
  setting: Setting,
  *,
  name: str,
  noise: Embeddings | None = None,
) -> Score:
  """FAD. name: of the reference. noise: clips of white noise, for the floor.

  Raises UserError where a side has no more rows than they are wide: its covariance would have no
  full rank, and the distance say more about the count than about the music.
  """
  gaussians = [_moments(some).compute() for some in _enough(evaluated, reference)]
  value = frechet_distance(*gaussians)

  def resampled(times: np.ndarray) -> float:
    weights = evaluated.repeats(times)
    return frechet_distance(Gaussian.fit(evaluated.vectors, weights=weights), gaussians[1])

  interval = setting.spread(resampled, count=len(evaluated), value=value)
  rows = (gaussians[0].count, gaussians[1].count)
  details: dict[str, Any] = {"expected_bias": expected_bias(gaussians[1], *rows)}
  rng = np.random.default_rng(setting.seed)
  far = setting.infinity(evaluated.clips, gaussians[1], rng=rng)
  if far is not None:
    details["fad_infinity"] = {**dataclasses.asdict(far), "drawn": str(setting.infinity)}
  warnings = []
  if details["expected_bias"] > value / 4:
    instead = "" if far is None else ", or read its extrapolation"
    warnings.append(
      f"of this value {details['expected_bias']:.3g} or more come from the number of embeddings"
      f" alone: score more clips{instead}"
    )
  return setting.score(
    f"fad_{setting.encoder.name}",
    Estimate(value=value, n=len(evaluated), interval_95=interval),
    evaluated,
    reference=name,
    n_reference=len(reference),
    rows=rows,
    floor=_noise_floor(noise, gaussians[1]),
    ceiling=_halves(reference, seed=setting.seed),
    details=details,
    warnings=tuple(warnings),
  )


def frechet_of_clips(evaluated: Embeddings, reference: Embeddings) -> dict[str, float]:
  """The distance of each clip's own rows from the reference: to find outliers by, no more.

  Clips of a single row are left out.
  """
  whole = _moments(reference).compute()
  return {
    name: frechet_distance(Gaussian.fit(rows), whole)
    for name, rows in zip(evaluated.ids, evaluated.clips, strict=True)
    if len(rows) > 1
  }


def kernel(
  evaluated: Embeddings,
  reference: Embeddings,
  setting: Setting,
  *,
  name: str,
  noise: Embeddings | None = None,
) -> Score:
  """KAD, its bandwidth the reference's; of at most 2,000 vectors a side, drawn from all."""
  _two_clips(evaluated, reference)
  rng = np.random.default_rng(setting.seed)
  ours, theirs = _Drawn.of(evaluated, rng), _Drawn.of(reference, rng)
  bandwidth = median_distance(theirs.vectors)

  def kernels(a: _Drawn, b: _Drawn) -> Kernels:
    return Kernels.of(a.vectors, b.vectors, bandwidth=bandwidth, owners=(a.owners, b.owners))

  whole = kernels(ours, theirs)
  value = whole.distance()
  interval = setting.spread(
    lambda times: whole.distance(times[ours.owners]), count=len(evaluated), value=value
  )
  floor = ceiling = None
  if noise is not None:
    apart = kernels(_Drawn.of(noise, rng), theirs).distance()
    floor = Estimate(value=apart, n=len(noise), what="white noise")
  if len(reference) >= 4:
    halves = [_Drawn.of(half, rng) for half in _dealt(reference, seed=setting.seed)]
    ceiling = Estimate(
      value=kernels(*halves).distance(), n=len(reference), what="the reference's halves"
    )
  return setting.score(
    f"kad_{setting.encoder.name}",
    Estimate(value=value, n=len(evaluated), interval_95=interval),
    evaluated,
    reference=name,
    n_reference=len(reference),
    rows=(len(ours.vectors), len(theirs.vectors)),
    floor=floor,
    ceiling=ceiling,
    details={"bandwidth": bandwidth, "bandwidth_of": "reference"},
  )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
  """Some rows of a set. owners: the clip of each."""

  vectors: np.ndarray
  owners: np.ndarray

  @classmethod
  def of(cls, some: Embeddings, rng: np.random.Generator) -> "_Drawn":
    rows = np.sort(rng.permutation(len(some.vectors))[:KAD_ROWS])
    return cls(
      vectors=some.vectors[rows], owners=np.repeat(np.arange(len(some)), some.counts)[rows]
    )


def similarity_to_text(
  evaluated: Embeddings,
  texts: Mapping[str, np.ndarray],
  setting: Setting,
  *,
  truth: Embeddings | None = None,
) -> Score:
  """Mean cosine of clips and their prompts. texts: id -> [width], of length 1.

  truth: the real clips of the same prompts, for the ceiling, which good models may pass.
  """
  floor, value = _pairs(evaluated, texts, setting)
  ceiling = None
  if truth is not None:
    ceiling = dataclasses.replace(_pairs(truth, texts, setting)[1], what="ground truth")
  return setting.score(
    "similarity_text",
    value,
    evaluated,
    reference=f"prompts {_fingerprint(texts, evaluated.ids)}",
    n_reference=value.n,
    rows=(value.n, value.n),
    floor=floor,
    ceiling=ceiling,
  )


def similarity_to_audio(
  evaluated: Embeddings, truth: Embeddings, setting: Setting, *, name: str
) -> Score:
  """Mean cosine of clips and the real clips of their prompts; ground truth itself has 1."""
  floor, value = _pairs(evaluated, dict(zip(truth.ids, truth.vectors, strict=True)), setting)
  return setting.score(
    "similarity_audio",
    value,
    evaluated,
    reference=name,
    n_reference=len(truth),
    rows=(len(evaluated), len(truth)),
    floor=floor,
    ceiling=Estimate(value=1.0, n=len(truth), what="ground truth"),
  )


def divergence(
  evaluated: Embeddings,
  truth: Embeddings,
  setting: Setting,
  *,
  name: str,
  measure: Divergence | None = None,
) -> Score:
  """Mean KL of pairs, from the logits that the encoder gives as vectors.

  A mean over all rows, as its pooling leaves them, and not over clips.
  """
  measure = measure or Divergence()
  own, real = (dict(zip(some.ids, some.clips, strict=True)) for some in (evaluated, truth))
  ids = _shared(own, real)
  parts = [measure(own[name], real[name]) for name in ids]
  order = derangement(len(ids), rng=np.random.default_rng(setting.seed))
  other = [measure(own[ids[k]], real[ids[j]]) for k, j in enumerate(order)]
  return dataclasses.replace(
    setting.score(
      f"kl_{setting.encoder.name}",
      _mean(parts, setting),
      evaluated,
      reference=name,
      n_reference=len(truth),
      rows=(sum(map(len, parts)),) * 2,
      floor=dataclasses.replace(_mean(other, setting), what="shuffled pairs"),
      ceiling=Estimate(value=0.0, n=len(truth), what="ground truth"),
    ),
    protocol=f"{setting.protocol}; {measure.protocol}",
  )


def _fingerprint(texts: Mapping[str, np.ndarray], ids: Sequence[str]) -> str:
  """Of the prompts of these clips."""
  digest = hashlib.sha256()
  for name in ids:
    if name in texts:
      digest.update(name.encode() + np.asarray(texts[name], np.float32).tobytes())
  return digest.hexdigest()[:12]


def _pairs(
  evaluated: Embeddings, others: Mapping[str, np.ndarray], setting: Setting
) -> tuple[Estimate, Estimate]:
  """(floor of shuffled pairs, mean cosine of the pairs)"""
  if len(evaluated.vectors) != len(evaluated):
    raise UserError(
      f"{setting.encoder.name} gives several vectors a clip: similarity needs one, as joint"
      " embeddings give it"
    )
  own = dict(zip(evaluated.ids, evaluated.vectors, strict=True))
  ids = _shared(own, others)
  a, b = (np.stack([side[name] for name in ids]) for side in (own, others))
  order = derangement(len(ids), rng=np.random.default_rng(setting.seed))
  shuffled = dataclasses.replace(_mean(cosines(a, b[order])[:, None], setting), what="shuffled")
  return shuffled, _mean(cosines(a, b)[:, None], setting)


def _shared(own: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
  ids = [name for name in own if name in others]
  if len(ids) < 2:
    raise UserError(
      f"{len(ids)} clips have a counterpart of the same name: give at least 2 such pairs"
    )
  return ids


def _mean(parts: Any, setting: Setting) -> Estimate:
  """Of all rows; clips are what is drawn anew."""
  sums, counts = np.array([np.sum(p) for p in parts]), np.array([len(p) for p in parts])
  share = lambda k: float(sums[k].sum() / counts[k].sum())  # noqa: E731
  interval = bootstrap(share, count=len(sums), seed=setting.seed, rounds=setting.rounds)
  return Estimate(value=share(np.arange(len(sums))), n=len(sums), interval_95=interval)


def _moments(some: Embeddings) -> Moments:
  return Moments.empty(some.width).add(some.vectors)


def _enough(*sides: Embeddings) -> tuple[Embeddings, ...]:
  _two_clips(*sides)
  for some in sides:
    if len(some.vectors) <= some.width:
      raise UserError(
        f"{len(some.vectors)} embeddings are no more than they are wide ({some.width}): give more"
        " clips, or read kad, which needs no covariance"
      )
  return sides


def _two_clips(*sides: Embeddings) -> None:
  for some in sides:
    if len(some) < 2:
      raise UserError(f"{len(some)} clip is too few to be scored: give at least 2 a side")


def _noise_floor(noise: Embeddings | None, reference: Gaussian) -> Estimate | None:
  if noise is None:
    return None
  gaussian = _moments(noise).compute()
  value = frechet_distance(gaussian, reference)
  return Estimate(value=value, n=len(noise), what=f"white noise, {gaussian.count:,} vectors")


def _halves(reference: Embeddings, *, seed: int) -> Estimate | None:
  """The reference against itself; None where a half has no more vectors than they are wide."""
  if len(reference) < 4:
    return None
  halves = [_moments(half).compute() for half in _dealt(reference, seed=seed)]
  counts = [half.count for half in halves]
  if min(counts) <= reference.width:
    return None
  bias = expected_bias(_moments(reference).compute(), *counts)
  return Estimate(
    value=frechet_distance(*halves),
    n=len(reference),
    what=f"the reference's halves, {counts[0]:,} and {counts[1]:,} vectors, which alone make"
    f" {bias:.3g} or more of it",
  )


def _dealt(some: Embeddings, *, seed: int) -> tuple[Embeddings, Embeddings]:
  """Its clips in two halves."""
  order = np.random.default_rng(seed).permutation(len(some))
  return some.take(order[: len(order) // 2]), some.take(order[len(order) // 2 :])
