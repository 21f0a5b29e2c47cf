"""What encoders of clips cost: seconds, by the clock and of the processors, for an hour of audio.

  python -m benchmarks.encoders --json > benchmarks/encoders.json
  python -m benchmarks.encoders --joint=runs/joint/run --encoder=trill:FOLDER

VGGish with random weights by either protocol, the statistics of the log-mel, and, where they are
given, a trained joint embedding and any other encoder by its name. Clips are noise of the length of
a clip of the paper's evaluation; encoders take turns, compiled before the clock starts, and medians
over rounds count. Reading and resampling of files are not in it.
"""

import json
import platform
import statistics
import time
from collections.abc import Sequence

import numpy as np

from benchmarks import measure
from data_pipelines.parallel import default_workers
from noise2music.errors import Parser
from noise2music.evaluation.embedders.encoder import AudioEncoder
from noise2music.evaluation.embedders.joint import JointAudio
from noise2music.evaluation.embedders.load import load_audio_encoder
from noise2music.evaluation.embedders.vggish import LAYERS, PROTOCOLS, VGGish


def random_vggish() -> dict:
  """float32 parameters that keep the scale of what passes through them."""
  rng = np.random.default_rng(0)
  draw = lambda shape: rng.standard_normal(shape, np.float32)  # noqa: E731
  return {
    layer: {
      "kernel": draw(shape) * np.float32(np.sqrt(2 / np.prod(shape[:-1]))),
      "bias": np.zeros(shape[-1], np.float32),
    }
    for layer, shape in LAYERS.items()
  }


def encoders_of(names: Sequence[str], joint: str | None) -> dict[str, AudioEncoder]:
  params = random_vggish()
  found = {f"vggish {n}": VGGish(params=params, variant=v) for n, v in PROTOCOLS.items()}
  found["log_mel"] = load_audio_encoder("log_mel")
  if joint:
    from noise2music.pipeline import load_embedder

    found["joint"] = JointAudio(encoder=load_embedder(joint))
  return found | {name: load_audio_encoder(name) for name in names}


def measured(
  encoders: dict[str, AudioEncoder], *, clips: int, seconds: float, rounds: int
) -> dict[str, dict]:
  rng = np.random.default_rng(1)
  noise = {
    name: list(0.1 * rng.standard_normal((clips, round(seconds * e.sample_rate_hz)), np.float32))
    for name, e in encoders.items()
  }
  hours = clips * seconds / 3600
  taken: dict[str, list[tuple[float, float]]] = {name: [] for name in encoders}
  for _ in range(rounds + 1):  # the first one, which also compiles, does not count
    for name, encoder in encoders.items():
      began, cpu = time.perf_counter(), time.process_time()
      rows = encoder.embed(noise[name])
      taken[name].append((time.perf_counter() - began, time.process_time() - cpu))
      assert all(np.isfinite(of_clip).all() for of_clip in rows)
  return {
    name: {
      "seconds_per_hour": statistics.median(clock for clock, _ in each[1:]) / hours,
      "seconds_per_hour_least": min(clock for clock, _ in each[1:]) / hours,
      "seconds_per_hour_most": max(clock for clock, _ in each[1:]) / hours,
      "cpu_seconds_per_hour": statistics.median(cpu for _, cpu in each[1:]) / hours,
      "width": encoders[name].width,
      "protocol": encoders[name].protocol,
    }
    for name, each in taken.items()
  }


def main(argv: Sequence[str]) -> int:
  parser = Parser(prog="python -m benchmarks.encoders", allow_abbrev=False)
  parser.add_argument("--clips", type=measure.count, default=12)
  parser.add_argument("--seconds", type=measure.duration, default=10.0, help="of a clip")
  parser.add_argument("--rounds", type=measure.count, default=3)
  parser.add_argument("--joint", help="folder of a run that trained a joint embedding")
  parser.add_argument("--encoder", action="append", default=[], help="one more, by its name")
  parser.add_argument("--json", action="store_true")
  flags = parser.parse_args(argv)
  shape = {"clips": flags.clips, "seconds": flags.seconds, "rounds": flags.rounds}
  facts = {"command": " ".join(["python -m benchmarks.encoders", *argv]), **measure.where()}
  facts |= {
    "machine": platform.machine(),
    "cores": default_workers(),
    "numpy": np.__version__,
    **shape,
  }
  figures = measured(encoders_of(flags.encoder, flags.joint), **shape)
  if flags.json:
    print(json.dumps({**facts, "encoders": figures}, indent=1))
    return 0
  print(", ".join(f"{name} {value}" for name, value in facts.items()))
  rows = [{"encoder": name, **each} for name, each in figures.items()]
  print(measure.table([{k: v for k, v in row.items() if k != "protocol"} for row in rows]))
  return 0


if __name__ == "__main__":
  measure.main(main)
