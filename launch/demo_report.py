"""The page that the demo ends with."""

import json
from pathlib import Path
from typing import Any

from noise2music.evaluation.report import Player, Row, Table, write_report


def write_demo_report(out: Path, *, demo: Any, judged: Any, metrics: dict[str, Any]) -> None:
  """Writes `out`/report.html, and the generated clips as wav files beside it."""
  (out / "clips").mkdir(exist_ok=True)
  judged.generated.save(out / "clips" / "generated.wav")
  first = next(iter(judged.generated.signals))
  rows = []
  for index, prompt in enumerate(judged.prompts[: demo.shown]):
    clips = {
      f"generated, seed {judged.generated.seeds[index]}": judged.generated.audio[index],
      "the same cascade, untrained": judged.untrained.audio[index],
      f"a real held-out clip of {prompt.instrument}": judged.real[index],
    }
    rate = judged.generated.sample_rate_hz
    rows.append(
      Row(
        heading=prompt.text,
        players=[Player(label=k, audio=v, sample_rate_hz=rate) for k, v in clips.items()],
      )
    )
  write_report(
    out / "report.html",
    title="noise2music: what this cascade learnt",
    summary=[
      f"{len(metrics['stages'])} stages, trained on {demo.corpus.hours:g} hours of rendered scores,"
      f" {metrics['minutes']:.1f} minutes from the first note to this page. None of the prompts"
      " below was in training: their pairs of instrument and tempo were held out.",
      f"The first stage is {first.replace('_', ' ')}; every clip went through all stages to"
      f" {judged.generated.sample_rate_hz / 1000:g} kHz.",
    ],
    tables=[
      _learned(metrics),
      _listens(metrics),
      _labels(metrics),
      _sound(metrics),
      _stages(metrics),
    ],
    rows=rows,
    curves={name: loss_curve(out / name / "metrics.jsonl") for name in metrics["stages"]},
  )


def loss_curve(path: Path) -> list[tuple[int, float]]:
  """(step, loss) of a run's log."""
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  return [(row["step"], row["loss"]) for row in rows if "loss" in row]


def _figure(entry: dict[str, Any], form: str) -> str:
  low, high = entry["interval_95"]
  return f"{entry['value']:{form}}  ({low:{form}} to {high:{form}})"


def _learned(metrics: dict[str, Any]) -> Table:
  figures = metrics["frechet_log_mel"]
  names = {
    "untrained": "untrained cascade (floor)",
    "generated": "generated",
    "real_held_out": "real held-out clips (ceiling)",
  }
  return Table(
    title="Did it learn? Frechet distance to real training clips",
    header=["clips", "distance (95 % interval)", "n"],
    rows=[[label, _figure(figures[n], ".1f"), figures[n]["n_clips"]] for n, label in names.items()],
    note=f"Statistics of log-mel spectrograms, {figures['n_windows']} windows a side; lower is"
    f" closer. Generated clips are at {figures['ratio_to_untrained']:.3f} of the floor.",
  )


def _labels(metrics: dict[str, Any]) -> Table:
  names = {"random": "captions drawn at random (floor)", "labels": "labels"}
  return Table(
    title="Are the labels right? Half of the music was trained on them",
    header=["labels", "what they tell", "right (95 % interval)", "n"],
    rows=[
      [label, fact, _figure(figures[name], ".0%"), figures[name]["n_labels"]]
      for fact, figures in metrics["labels"].items()
      for name, label in names.items()
    ],
    note="Those of half of the works, whose captions were hidden; the other half trained what gave"
    " them. Counted against the hidden captions; a label that does not tell the fact is left out.",
  )


def _listens(metrics: dict[str, Any]) -> Table:
  figures = metrics["agreement"]
  names = {
    "shuffled_prompts": "generated, against shuffled prompts (floor)",
    "untrained": "untrained cascade (floor)",
    "generated": "generated",
    "real_held_out": "real held-out clips (ceiling)",
  }
  return Table(
    title="Does it listen? A classifier of real clips hears the instrument that was asked for",
    header=["clips", "agreement (95 % interval)", "n"],
    rows=[[label, _figure(figures[n], ".0%"), figures[n]["n_clips"]] for n, label in names.items()],
    note=f"Chance among {len(figures['labels'])} instruments is {figures['chance']:.0%}; generated"
    f" clips agree {figures['times_chance']:.1f} times as often.",
  )


def _sound(metrics: dict[str, Any]) -> Table:
  rows = [
    [
      name.replace("_", " "),
      f"{entry['rms_db']:.1f} dB",
      f"{entry['flatness']:.3f}",
      *(
        f"{entry[f'{kind}_clips']} of {entry['n_clips']}" for kind in ("silent", "clipped", "noise")
      ),
    ]
    for name, entry in metrics["sound"].items()
  ]
  return Table(
    title="Is it sound at all?",
    header=["clips", "level", "flatness", "silent", "clipped", "noise"],
    rows=rows,
    note="Medians over clips. Flatness: near 0 for tones, 0.56 for white noise.",
  )


def _stages(metrics: dict[str, Any]) -> Table:
  return Table(
    title="The stages",
    header=["stage", "parameters", "steps", "steps/s"],
    rows=[
      [name, f"{e['parameters']:,}", e["steps"], f"{e['probed_steps_per_second']:.2f}"]
      for name, e in metrics["stages"].items()
    ],
  )
