"""What a training step of a stage costs on whatever jax runs on here.

  python -m benchmarks.train_step --stage=spectrogram_generator --size=tiny
  python -m benchmarks.train_step --stage=waveform_generator --size=paper --batch=32     (a GPU)
  python -m benchmarks.train_step --peers                       (against torch, on a CPU)

The step is the real one, audio and tokens in, averaged weights out, jitted with its state donated.
Data are noise, weights random; --gin.NAME=value sets what the run's gin files leave open.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from noise2music import batch as batch_lib
from noise2music.planning.work import count_flops
from noise2music.training import Training
from noise2music.training.setup import prepare


def noise(spec: batch_lib.BatchSpec, *, vocabulary: int) -> dict[str, np.ndarray]:
  """A batch of that shape."""
  rng = np.random.default_rng(0)
  rows = spec.batch_size
  return {
    **spec.zeros(),
    batch_lib.AUDIO: rng.integers(-8192, 8192, (rows, spec.samples), np.int16),
    batch_lib.TOKENS: rng.integers(2, vocabulary, (rows, spec.token_length), np.int32),
    batch_lib.TOKEN_MASK: np.ones((rows, spec.token_length), np.bool_),
    batch_lib.CLIP_ID: rng.integers(0, 2**32, (rows, 2), np.uint32),
  }


def measured(training: Training, *, rounds: int) -> dict:
  """Speed, memory and compilation of the run's step."""
  spec, text = training.batches.local_spec, training.objective.text_conditioner
  setup = prepare(training, spec.shapes())
  program, compilation = measure.compile_twice(setup.lower)
  plain = dataclasses.replace(
    training, objective=measure.without_remat(training.objective), accumulation=1
  )
  counted = prepare(plain, spec.shapes())
  with counted.activate():
    flops = count_flops(counted.step, counted.shapes, counted.batch, *counted.numbers)

  state = setup.fresh()
  parameters = measure.parameters_of(state.params["network"])
  batch = setup.put(noise(spec, vocabulary=text.encoder.config.vocab_size if text else 3))
  total_steps, turns = jnp.int32(training.total_steps), itertools.count()

  def step():
    nonlocal state
    state, metrics = program(state, batch, total_steps, jnp.int32(next(turns)))
    return metrics

  dtype = training.objective.stage.network.dtype
  rates = measure.speed(step, flops=flops, steps=1, dtype=jnp.dtype(dtype), rounds=rounds)
  return {
    "batch": spec.batch_size,
    "seconds_a_clip": spec.seconds,
    "dtype": str(jnp.dtype(dtype)),
    "parameters": parameters,
    **rates,
    **compilation,
    **measure.memory_of(program),
  }


def main(argv: Sequence[str]) -> int:
  parser = measure.step_parser(__doc__.splitlines()[0])
  parser.add_argument("--batch", type=measure.count, help="clips; as the size says where left out")
  parser.add_argument("--seconds", type=measure.duration, help="of each clip; as the size says")
  flags, bindings = measure.parse_arguments(parser, argv)
  if flags.peers:
    from benchmarks.peers import race

    return race.race("train", rounds=flags.rounds, cores=flags.cores, as_json=flags.json)
  asked = {"BATCH_SIZE": flags.batch, "TRAIN_SECONDS": flags.seconds}
  bindings += [f"{name} = {value}" for name, value in asked.items() if value is not None]
  training = measure.training_of(flags.stage, flags.size, bindings)
  facts = {"stage": flags.stage, "size": flags.size, **measure.where()}
  measure.report({**facts, **measured(training, rounds=flags.rounds)}, as_json=flags.json)
  return 0


if __name__ == "__main__":
  measure.main(main)
