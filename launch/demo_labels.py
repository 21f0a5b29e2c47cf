"""The demo's labels: half of its music loses its captions, and a joint embedding gives it others.

That embedding is trained on the other half, whose captions are the vocabulary. What the lost
captions knew is kept aside, to count how often the labels are right.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.captions.caption_list import write_list
from data_pipelines.captions.refine import Raw, Rules
from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.datasets.score_corpus.arrange import TEMPOS
from data_pipelines.datasets.score_corpus.captions import says
from data_pipelines.index_order import draw_below
from data_pipelines.manifest import LONG, Clip, json_lines, read_manifest, write_manifest
from data_pipelines.pseudo_label.job import LABELS, LabelJob
from data_pipelines.pseudo_label.run import label_dataset
from launch.label import load_encoder
from noise2music.evaluation.intervals import bootstrap

PAIRED, HIDDEN, MIXED = "paired.jsonl", "hidden.jsonl", "mixed.jsonl"  # beside the manifest
TOWERS, LABELLED, CAPTIONS = "joint_embedding", "labelled", "captions.txt"  # in the demo's folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelling:
  """config: run file of the towers. steps: of their training. labels: that a clip gets."""

  config: str
  steps: int
  labels: int
  seed: int


def hide_captions(manifest: Path, *, seed: int) -> None:
  """Writes two manifests of the clips that train: half of the works with captions, half without."""
  clips = [clip for clip in read_manifest(manifest) if clip.split == "train"]
  hidden = [bool(draw_below(2, seed, "hidden", clip.extra["work_key"])) for clip in clips]
  pairs = list(zip(clips, hidden, strict=True))
  write_manifest(manifest.with_name(PAIRED), [clip for clip, hide in pairs if not hide])
  write_manifest(
    manifest.with_name(HIDDEN), [dataclasses.replace(c, captions=()) for c, hide in pairs if hide]
  )


def label(
  labelling: Labelling, manifest: Path, *, out: Path, train: Callable[[str, list[str]], None]
) -> dict[str, Any]:
  """Labels the clips that have lost their captions; how often the labels are right.

  Writes the manifest of both halves, for training. train: called with the towers' config and what
  to bind in it, returns when they are trained. Done again, it finds what is done.
  """
  paired = manifest.with_name(PAIRED)
  texts = (
    Raw(place=clip.id, text=caption.text)
    for clip in read_manifest(paired)
    for caption in clip.captions
    if caption.kind == LONG
  )
  write_list(out / CAPTIONS, texts, rules=Rules(similarity=1.0), source="score")
  vocabulary = out / "captions.model"
  train_vocabulary(paired, vocabulary)
  values = {"MODEL_DIR": out / TOWERS, "DATA": paired, "VOCABULARY": vocabulary}
  train(
    labelling.config,
    [*(f'{k}="{v}"' for k, v in values.items()), f"TRAIN_STEPS={labelling.steps}"],
  )
  job = LabelJob(
    source=str(manifest.with_name(HIDDEN)),
    out_dir=str(out / LABELLED),
    encoder=str(out / TOWERS),
    vocabularies={str(out / CAPTIONS): labelling.labels},
    seed=labelling.seed,
  )
  labelled = label_dataset(job, load=load_encoder).manifest
  captions = {clip.id: clip.captions for clip in read_manifest(labelled)}
  mixed = [
    dataclasses.replace(clip, captions=captions.get(clip.id, clip.captions))
    for clip in read_manifest(manifest)
  ]
  write_manifest(manifest.with_name(MIXED), mixed)
  truth = {clip.id: clip for clip in read_manifest(manifest)}
  found = [(line["clip"], line["text"]) for _, line in json_lines(out / LABELLED / LABELS)]
  return precision(found, truth, vocabulary=(out / CAPTIONS).read_text().splitlines(), seed=1)


def precision(
  labels: Sequence[tuple[str, str]],
  truth: Mapping[str, Clip],
  *,
  vocabulary: Sequence[str],
  seed: int,
) -> dict[str, Any]:
  """{fact: {"labels": ..., "random": ...}}: of the labels that tell the fact, how many are right.

  labels: (clip's id, text). random: captions drawn from the vocabulary in place of the labels.
  """
  rng = np.random.default_rng(seed)
  drawn = [(clip, vocabulary[rng.integers(len(vocabulary))]) for clip, _ in labels]
  own = lambda key: {clip.extra[key]: clip.extra[key] for clip in truth.values()}  # noqa: E731
  tempos = {word: t.word for t in TEMPOS for word in (t.word, *t.synonyms)}
  facts = {
    "instrument": ("instrument", own("instrument")),
    "tempo": ("tempo_word", tempos),
    "genre": ("genre", own("genre")),
  }
  return {
    fact: {
      name: _share_right(pairs, truth, key=key, phrases=phrases, seed=seed)
      for name, pairs in {"labels": labels, "random": drawn}.items()
    }
    for fact, (key, phrases) in facts.items()
  }


def _share_right(
  pairs: Sequence[tuple[str, str]],
  truth: Mapping[str, Clip],
  *,
  key: str,
  phrases: Mapping[str, str],
  seed: int,
) -> dict[str, Any]:
  """key: of the fact in a clip. phrases: as texts tell it -> the fact.

  Clips are drawn anew for the interval, not labels.
  """
  right: dict[str, list[bool]] = collections.defaultdict(list)
  for clip, text in pairs:
    if told := _told(text, phrases):
      right[clip].append(told == {truth[clip].extra[key]})
  by_clip = list(right.values())
  share = lambda rows: float(np.concatenate([by_clip[k] for k in rows]).mean())  # noqa: E731
  return {
    "value": share(range(len(by_clip))),
    "interval_95": bootstrap(share, count=len(by_clip), seed=seed),
    "n_labels": sum(map(len, by_clip)),
  }


def _told(text: str, phrases: Mapping[str, str]) -> set[str]:
  """Of "slip jig" and "jig" the longer."""
  told = {fact for phrase, fact in phrases.items() if says(text, phrase)}
  return {fact for fact in told if not any(fact != other and fact in other for other in told)}
