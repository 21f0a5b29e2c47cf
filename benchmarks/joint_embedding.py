"""Trains the small joint embedding on the score corpus, and judges it on works it never heard.

  python -m benchmarks.joint_embedding --out runs/joint > benchmarks/joint_embedding.json

Renders the music, makes a vocabulary of its captions, trains by `python -m launch.train` (minutes
on two cores, and goes on where it was stopped), then asks with a caption of each test clip for it.
Floor: captions of other clips, and towers that were not trained. Ceiling: one who knows of every
clip which of the facts that the caption tells are true of it, and no more.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks import measure
from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.datasets.score_corpus.arrange import TEMPOS
from data_pipelines.datasets.score_corpus.captions import says
from data_pipelines.datasets.score_corpus.corpus import ScoreCorpus
from data_pipelines.manifest import Clip, read_manifest
from noise2music.audio.wav_io import read_audio
from noise2music.batch import BatchSpec
from noise2music.evaluation.retrieval import as_facts_tell, retrieval_at, zero_shot
from noise2music.joint_embedding.embedder import Embedder
from noise2music.pipeline import load_embedder
from noise2music.sharding.rules import unbox

CORPUS = ScoreCorpus(
  collections=("ryansMammoth", "bachChorales"),
  instruments=(
    "piano", "harpsichord", "organ", "violin", "cello", "flute", "clarinet", "oboe", "trumpet",
    "trombone", "acoustic guitar", "harp", "marimba", "vibraphone",
  ),
  hours=6.0,
  clip_seconds=10.0,
  split_shares=(0.8, 0.05, 0.15),
)  # fmt: skip
RETRIEVED = (1, 10)


def main(argv: Sequence[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=Path, required=True, help="folder of music and run")
  parser.add_argument("--steps", type=int, default=300)
  args = parser.parse_args(argv)
  manifest = CORPUS.render(args.out / "corpus")
  vocabulary = args.out / "vocabulary.model"
  if not vocabulary.exists():
    train_vocabulary(manifest, vocabulary)
  began = time.monotonic()
  flags = {"MODEL_DIR": str(args.out / "run"), "DATA": str(manifest.parent)}
  flags["VOCABULARY"] = str(vocabulary)
  command = [sys.executable, "-m", "launch.train"]
  command += ["--gin_file=configs/runs/joint_embedding/demo.gin", f"--gin.TRAIN_STEPS={args.steps}"]
  command += [f"--gin.{name}={json.dumps(value)}" for name, value in flags.items()]
  subprocess.run(command, check=True, stdout=sys.stderr)
  minutes = (time.monotonic() - began) / 60
  clips = [clip for clip in read_manifest(manifest) if clip.split == "test"]
  found = judge(load_embedder(args.out / "run"), clips, manifest.parent)
  facts = {**found, "steps": args.steps, "training_minutes": minutes, **measure.where()}
  print(json.dumps(facts, indent=1))
  return 0


def judge(embedder: Embedder, clips: Sequence[Clip], folder: Path) -> dict:
  """Retrieval and zero-shot instruments of trained towers, beside floors and a ceiling."""
  rate = embedder.sample_rate_hz
  music = [read_audio(folder / clip.path, sample_rate_hz=rate)[0] for clip in clips]
  asked = [next(c.text for c in clip.captions if c.kind == "long") for clip in clips]
  names = sorted({clip.extra["instrument"] for clip in clips})
  right = np.array([names.index(clip.extra["instrument"]) for clip in clips])
  out = {"encoder": embedder.fingerprint, "clips": len(clips), "retrieval": {}, "zero_shot": {}}
  for name, towers in {"trained": embedder, "untrained": _untrained(embedder)}.items():
    began = time.monotonic()
    audio = towers.embed_audio(music)
    out[f"{name}_clips_per_second"] = len(music) / (time.monotonic() - began)
    similarity = towers.embed_texts(asked) @ audio.T
    labels = towers.embed_texts([f"{each.capitalize()} music." for each in names])
    out["zero_shot"][name] = _plain(zero_shot(audio, labels=labels, right=right))
    out["retrieval"][name] = _retrieval(similarity)
    if name == "trained":
      shuffled = np.random.default_rng(0).permutation(len(clips))
      out["retrieval"]["captions of other clips"] = _retrieval(similarity[shuffled])
  out["retrieval"]["all that the captions tell"] = _retrieval(as_facts_tell(_facts(asked, clips)))
  return out


def _retrieval(similarity: np.ndarray) -> Mapping[str, dict]:
  return {f"@{k}": _plain(retrieval_at(k, similarity=similarity)) for k in RETRIEVED}


def _plain(share) -> dict:
  return {**dataclasses.asdict(share), "times_chance": share.value / share.chance}


def _facts(texts: Sequence[str], clips: Sequence[Clip]) -> np.ndarray:
  """bool [texts, clips, facts]: which facts that a text tells are true of a clip."""
  known = [_known(clip) for clip in clips]
  every = sorted(set().union(*known))
  told = np.array([[says(text, fact) for fact in every] for text in texts])
  own = np.array([[fact in facts for fact in every] for facts in known])
  told &= own  # a word that means something else in this text tells nothing
  return told[:, None, :] & own[None, :, :]


def _known(clip: Clip) -> set[str]:
  """The words in which captions tell a clip's facts."""
  extra = clip.extra
  tempo = next(t for t in TEMPOS if t.word == extra["tempo_word"])
  words = {extra["instrument"], extra["genre"], extra["metre"], extra["style"], tempo.word}
  return words | set(tempo.synonyms) | {f"{extra['bpm']}", f"{extra['key']} {extra['mode']}"}


def _untrained(embedder: Embedder) -> Embedder:
  objective = embedder.objective
  spec = BatchSpec(
    batch_size=1, seconds=objective.window_seconds, sample_rate_hz=objective.sample_rate_hz,
    token_length=objective.token_length,
  )  # fmt: skip
  params = jax.jit(lambda key: unbox(objective.init(key, spec.zeros())))(jax.random.key(0))
  return dataclasses.replace(embedder, params=params, weights="untrained")


if __name__ == "__main__":
  sys.exit(main())
