"""What the demo's cascade gives by the noise that its sampling starts from, and by its guidance.

  python -m benchmarks.demo_sampling --model runs/demo

One row a setting: distance to real clips, agreement with the prompt, and the bed of noise, which is
the tenth percentile over time of the level of each mel band, averaged over bands and clips. --seed
chooses prompts and noise: the settings of configs/runs/demo were chosen with 0, the demo's figures
are of 1.
"""

import argparse
import dataclasses
import itertools
from pathlib import Path

import numpy as np

from data_pipelines.manifest import read_manifest
from launch import demo as demo_main
from launch import gin_main
from noise2music.audio.log_mel import LogMel, hz_to_mel, mel_to_hz
from noise2music.evaluation.learning import LabelledAudio, learned_and_listens
from noise2music.pipeline import Pipeline

# start_noise of generator and cascader, guidance scale of the generator
SETTINGS = (
  (1.0, 0.0, 4.0),
  (1.0, 1.0, 4.0),
  (0.9, 0.97, 4.0),
  (0.9, 0.97, 3.0),
  (0.9, 0.9, 4.0),
  (0.8, 0.97, 4.0),
)
EDGES_HZ = (0, 1_600, 5_000, 8_000)


def bed(audio: np.ndarray, *, sample_rate_hz: int) -> str:
  """Decibels between the edges, of float [clips, samples]."""
  log_mel = LogMel(sample_rate_hz=sample_rate_hz)
  whole = audio.shape[1] // log_mel.hop * log_mel.hop
  frames = (np.asarray(log_mel(audio[:, :whole])) + 1) / 2
  level = frames * (log_mel.ceiling_db - log_mel.floor_db) + log_mel.floor_db
  quiet = np.percentile(level, 10, axis=1).mean(axis=0)
  top = hz_to_mel(log_mel.top_hz)
  centres = mel_to_hz(np.arange(1, log_mel.bands + 1) * top / (log_mel.bands + 1))
  parts = itertools.pairwise(EDGES_HZ)
  return ", ".join(f"{quiet[(centres >= a) & (centres < b)].mean():.0f}" for a, b in parts)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--model", type=Path, default=Path("runs/demo"))
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args()
  gin_main.set_up()
  demo = demo_main.build(["configs/runs/demo/demo.gin"], [], demo_main.Demo)
  pipeline = Pipeline.from_pretrained(flags.model)
  prompts = demo.corpus.held_out_prompts(demo.judged, seed=flags.seed)
  folder = flags.model / "corpus"
  clips = list(read_manifest(folder / "manifest.jsonl"))
  split = lambda name, count: [c for c in clips if c.split == name][:count]  # noqa: E731
  generator, cascader, last = pipeline.cascade.stages
  rate = last.target.sample_rate_hz
  train, test = (
    demo_main.real_audio_of(chosen, folder, rate, demo.clip_seconds)
    for chosen in (split("train", demo.reference), split("test", demo.judged))
  )
  print(
    "| noise: generator, cascader | guidance | distance | agreement | bed, dB |\n|" + 5 * "---|"
  )
  for first, second, guidance in SETTINGS:
    change = dataclasses.replace
    signals = pipeline.cascade.generate(
      pipeline.params,
      [prompt.text for prompt in prompts],
      seeds=[flags.seed + index for index in range(demo.judged)],
      seconds=demo.clip_seconds,
      batch_size=16,
      sampling={
        generator.name: change(generator.sampling, start_noise=first, guidance_scale=guidance),
        cascader.name: change(cascader.sampling, start_noise=second),
      },
    )
    audio, _ = last.target.decode(signals[last.name])
    made = LabelledAudio(
      audio=np.clip(np.asarray(audio), -1, 1),
      sample_rate_hz=rate,
      labels=[prompt.instrument for prompt in prompts],
    )
    figures = learned_and_listens(
      real_train=train, real_held_out=test, generated=made, untrained=made, seed=flags.seed
    )
    distance = figures["frechet_log_mel"]["generated"]["value"]
    agreement = figures["agreement"]["generated"]["value"]
    quiet = bed(made.audio, sample_rate_hz=rate)
    print(
      f"| {first:g}, {second:g} | {guidance:g} | {distance:.0f} | {agreement:.0%} | {quiet} |",
      flush=True,
    )
  print(f"| real clips | | | | {bed(test.audio, sample_rate_hz=rate)} |")


if __name__ == "__main__":
  main()
