"""What a sampling step of a stage costs on whatever jax runs on here.

  python -m benchmarks.sample_step --stage=spectrogram_generator --size=tiny
  python -m benchmarks.sample_step --stage=waveform_generator --size=paper --seconds=30   (a GPU)
  python -m benchmarks.sample_step --peers                      (against torch, on a CPU)

The program is the real one, guided and clipped as the stage is sampled, over --steps equal steps;
what it does once (aligning the conditions, the first noise) is shared out among them. Weights and
conditions are random; --gin.NAME=value sets what the run's gin files leave open.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from noise2music.batch import BatchSpec
from noise2music.diffusion.time_steps import UniformSteps
from noise2music.planning.work import count_flops
from noise2music.sharding.rules import unbox
from noise2music.stages.conditioning import Text
from noise2music.stages.generate import clip_keys, lower_sample, sample
from noise2music.stages.objective import DenoisingObjective
from noise2music.stages.spec import Stage
from noise2music.typing import PyTree


def random_params(objective: DenoisingObjective, spec: BatchSpec) -> PyTree:
  """Fresh ones, text encoder and network, made on the device in one program."""
  one = dataclasses.replace(spec, batch_size=1).zeros()
  return jax.jit(lambda key: unbox(objective.init(key, one)))(jax.random.key(0))


def request(objective: DenoisingObjective, *, clips: int, seconds: float) -> dict[str, Any]:
  """Arguments of `sample` besides stage and weights, with noise for conditions."""
  stage, rng = objective.stage, np.random.default_rng(0)
  normal = lambda *shape: jnp.asarray(rng.normal(size=(clips, *shape)), jnp.float32)  # noqa: E731
  out = {
    "keys": clip_keys(range(clips), stage_name=stage.name),
    "steps": max(1, round(seconds * stage.target.rate_hz)),
    "signals": {
      name: normal(round(seconds * condition.source.rate_hz), condition.source.channels)
      for name, condition in stage.signals.items()
    },
  }
  if stage.text is not None:
    tokens, width = stage.text.token_length, objective.text_conditioner.encoder.config.width
    whole = jnp.ones((clips, tokens), bool)
    out["text"] = Text(embedding=normal(tokens, width), mask=whole, keep=whole[:, 0])
  return out


def measured(stage: Stage, params: PyTree, asked: dict, *, steps: int, rounds: int) -> dict:
  """Speed, memory and compilation of `stage` sampled in `steps` steps; asked: from `request`."""
  sampling = dataclasses.replace(stage.sampling, time_steps=UniformSteps(count=steps))
  asked = {**asked, "sampling": sampling}
  program, compilation = measure.compile_twice(lambda: lower_sample(stage, params, **asked))
  arrays = {name: asked[name] for name in asked if name not in ("steps", "sampling")}
  flops = count_flops(
    lambda p, a: sample(stage, p, steps=asked["steps"], sampling=sampling, **a), params, arrays
  )
  dtype = jnp.dtype(stage.network.dtype)
  call = lambda: sample(stage, params, **asked)  # noqa: E731
  return {
    "dtype": str(dtype),
    "parameters": measure.parameters_of(params),
    "sampling_steps": steps,
    **measure.speed(call, flops=flops / steps, steps=steps, dtype=dtype, rounds=rounds),
    **compilation,
    **measure.memory_of(program),
  }


def main(argv: Sequence[str]) -> int:
  parser = measure.step_parser(__doc__.splitlines()[0])
  parser.add_argument("--batch", type=measure.count, default=4, help="clips at once; %(default)s")
  parser.add_argument(
    "--seconds", type=measure.duration, help="of each clip; as trained where left out"
  )
  parser.add_argument(
    "--steps", type=measure.count, default=5, help="in one measurement; %(default)s"
  )
  flags, bindings = measure.parse_arguments(parser, argv)
  if flags.peers:
    from benchmarks.peers import race

    return race.race("sample", rounds=flags.rounds, cores=flags.cores, as_json=flags.json)
  training = measure.training_of(flags.stage, flags.size, bindings)
  objective = training.objective
  seconds = flags.seconds or objective.stage.train_seconds
  params = random_params(objective, training.batches.local_spec)["network"]
  asked = request(objective, clips=flags.batch, seconds=seconds)
  facts = measured(objective.stage, params, asked, steps=flags.steps, rounds=flags.rounds)
  head = {"stage": flags.stage, "size": flags.size, **measure.where()}
  head |= {"clips": flags.batch, "seconds_a_clip": seconds}
  measure.report({**head, **facts}, as_json=flags.json)
  return 0


if __name__ == "__main__":
  measure.main(main)
