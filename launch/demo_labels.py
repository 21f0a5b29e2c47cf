"""The demo's labels: half of its music loses its captions, and a joint embedding gives it others.

That embedding is trained on the other half, whose captions are the vocabulary. What the lost
captions knew is kept aside, to count how often the labels are right.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.captions.caption_list import write_list
from data_pipelines.captions.refine import Raw, Rules
from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.datasets.score_corpus.arrange import TEMPOS
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
    Raw(place=f"{clip.id}", text=caption.text)
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
  labels: Sequence[tuple[str, str]], truth: dict[str, Clip], *, vocabulary: Sequence[str], seed: int
) -> dict[str, Any]:
  """{fact: {"labels": ..., "random": ...}}: of the labels that tell the fact, how many are right.

  random: captions drawn from the vocabulary in place of the labels.
  """
  rng = np.random.default_rng(seed)
  drawn = [(clip, vocabulary[rng.integers(len(vocabulary))]) for clip, _ in labels]
  kinds = {
    "instrument": _instruments(truth.values()),
    "tempo": {word: t.word for t in TEMPOS for word in (t.word, *t.synonyms)},
    "genre": {clip.extra["genre"]: clip.extra["genre"] for clip in truth.values()},
  }
  keys = {"instrument": "instrument", "tempo": "tempo_word", "genre": "genre"}
  return {
    fact: {
      name: _share_right(pairs, truth, words=words, key=keys[fact], seed=seed)
      for name, pairs in {"labels": labels, "random": drawn}.items()
    }
    for fact, words in kinds.items()
  }


def _instruments(clips) -> dict[str, str]:
  return {clip.extra["instrument"]: clip.extra["instrument"] for clip in clips}


def _share_right(
  pairs: Sequence[tuple[str, str]], truth: dict[str, Clip], *, words: dict[str, str], key: str,
  seed: int,
) -> dict[str, Any]:  # fmt: skip
  """words: as texts have them -> the fact. Clips are drawn anew for the interval, not labels."""
  by_clip: dict[str, list[bool]] = {}
  for clip, text in pairs:
    if told := _told(text, words):
      by_clip.setdefault(clip, []).append(told == {truth[clip].extra[key]})
  right = list(by_clip.values())
  share = lambda rows: float(np.concatenate([right[k] for k in rows]).mean())  # noqa: E731
  interval = bootstrap(share, count=len(right), seed=seed)
  everything = share(range(len(right)))
  return {"value": everything, "interval_95": interval, "n_labels": sum(map(len, right))}


def _told(text: str, words: dict[str, str]) -> set[str]:
  said = "".join(c if c.isalnum() or c == "-" else " " for c in f" {text} ".lower())
  told = {fact for word, fact in words.items() if f" {word} " in said}
  return {fact for fact in told if not any(fact != other and fact in other for other in told)}
