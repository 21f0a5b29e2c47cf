"""Which of a clip's candidates become its labels.

Section 3.5: of the K nearest captions K' are drawn without replacement, with probability inverse to
how often a caption is a candidate over all clips, so that what fits everything does not crowd out
the rest. Here each candidate gets a key E / w, with w = 1 / frequency and E exponential, and the K'
smallest keys win, which is the same law (Efraimidis and Spirakis, 2006). E is a function of (seed,
clip, vocabulary, caption), so a label does not depend on who computes it, when, or in which order.
"""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

Scored = tuple[str, float]  # a caption and its cosine with the clip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """What the search gave a clip in one vocabulary.

  candidates: the K nearest, best first, without what is banned or rejected. beyond: the score of
  the next one, None where there is none. accepted: by decision, whether near or not.
  """

  candidates: tuple[Scored, ...]
  beyond: float | None = None
  accepted: tuple[Scored, ...] = ()

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, record: Mapping[str, Any]) -> "Found":
    def scored(name: str) -> tuple[Scored, ...]:
      return tuple((text, score) for text, score in record[name])

    candidates, accepted = scored("candidates"), scored("accepted")
    return cls(candidates=candidates, beyond=record["beyond"], accepted=accepted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
  """Of a vocabulary: its name and kind, and how many labels a clip gets from it."""

  name: str
  kind: str
  labels: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Label:
  """A line of labels.jsonl.

  rank: from 1, among the candidates; None for one that a decision gave and the search did not.
  score: cosine. margin: score minus that of the best caption that is no candidate, so how far from
  being none; None where every caption is one. frequency: clips whose candidate it is.
  encoder: fingerprint. given_by: draw or decision.
  """

  clip: str
  text: str
  kind: str
  vocabulary: str
  rank: int | None
  score: float
  margin: float | None
  frequency: int
  encoder: str
  given_by: str = "draw"

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


def frequencies(found: Iterable[Found]) -> Counter[str]:
  """In how many clips each caption is a candidate."""
  return Counter(text for one in found for text, _ in one.candidates)


def draw_labels(
  clip: str,
  found: Mapping[str, Found],
  frequency: Mapping[str, Mapping[str, int]],
  *,
  wanted: Iterable[Wanted],
  seed: int,
  encoder: str,
) -> list[Label]:
  """The labels of a clip, vocabulary by vocabulary.

  found, frequency: by vocabulary. encoder: fingerprint. All accepted labels are given, then drawn
  ones until there are as many as wanted; accepted ones come first, then the others by rank.
  """
  out = []
  for one in wanted:
    mine, often = found[one.name], frequency[one.name]
    accepted = dict(mine.accepted)
    keys = sorted(
      (key(seed, clip, one.name, text) * max(1, often.get(text, 0)), text)
      for text, _ in mine.candidates
      if text not in accepted
    )
    drawn = {text for _, text in keys[: max(0, one.labels - len(accepted))]}
    ranks = {text: rank for rank, (text, _) in enumerate(mine.candidates, start=1)}
    given = [*mine.accepted, *(pair for pair in mine.candidates if pair[0] in drawn)]
    out += [
      Label(
        clip=clip,
        text=text,
        kind=one.kind,
        vocabulary=one.name,
        rank=ranks.get(text),
        score=score,
        margin=None if mine.beyond is None else round(score - mine.beyond, 6),
        frequency=often.get(text, 0),
        encoder=encoder,
        given_by="decision" if text in accepted else "draw",
      )
      for text, score in given
    ]
  return out


def key(seed: int, clip: str, vocabulary: str, text: str) -> float:
  """An exponential variable (mean 1) that belongs to these names."""
  name = json.dumps([seed, clip, vocabulary, text]).encode()
  number = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
  # 53 bits: half a step from both ends, so neither log(0) nor exactly 0 comes up.
  return -math.log(((number >> 11) + 0.5) / 2**53)
