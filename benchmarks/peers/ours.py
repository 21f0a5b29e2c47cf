"""Our worker: the project's own update and sampler, on clips that are frames already."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure
from benchmarks.peers import task
from benchmarks.peers.task import BANDS, CLIPS, FRAMES, SAMPLED, STEPS, TOKENS, VOCABULARY, Work
from benchmarks.train_step import noise
from noise2music import batch as batch_lib
from noise2music.batch import BatchSpec
from noise2music.diffusion.noise_schedules import CosineSchedule
from noise2music.diffusion.samplers import DDIM
from noise2music.diffusion.time_steps import UniformSteps
from noise2music.planning.work import count_flops
from noise2music.stages.conditioning import CrossAttention, Text
from noise2music.stages.generate import clip_keys, sample
from noise2music.stages.objective import DenoisingObjective
from noise2music.stages.spec import Sampling, Stage
from noise2music.training import Training
from noise2music.training.optimizer import Optimizer
from noise2music.training.setup import Setup, prepare
from noise2music.typing import PyTree

SPEC = BatchSpec(
  batch_size=CLIPS, seconds=FRAMES / 100, sample_rate_hz=100 * BANDS, token_length=TOKENS
)


@dataclasses.dataclass(frozen=True)
class Frames:
  """A representation for which audio is frames already."""

  channels: int = BANDS
  rate_hz: int = 100
  limit: float = 1.0

  def encode(self, audio, *, sample_rate_hz):
    return audio.reshape(len(audio), -1, BANDS)


@dataclasses.dataclass(frozen=True, eq=False)
class TextTable:
  """A text encoder that looks its tokens up."""

  table: np.ndarray
  trainable: bool = False

  def init(self, key, tokens):
    return {}

  def pretrained(self, params):
    return params

  def embed(self, params, tokens, mask):
    return jnp.asarray(self.table)[tokens]

  def text(self, params, tokens, mask, *, keep):
    return Text(embedding=self.embed(params, tokens, mask), mask=jnp.asarray(mask), keep=keep)

  def of_batch(self, params, batch, *, keep):
    return self.text(params, batch[batch_lib.TOKENS], batch[batch_lib.TOKEN_MASK], keep=keep)


STAGE = Stage(
  name="peer",
  target=Frames(),
  conditions={"text": CrossAttention(token_length=TOKENS)},
  network=task.OURS,
  noise_schedule=CosineSchedule(),
  sampling=Sampling(
    time_steps=UniformSteps(count=STEPS),
    sampler=DDIM(),
    guidance_scale=task.GUIDANCE,
    clip_percentile=task.PERCENTILE,
  ),
)


def work(kind: str) -> Work:
  """kind: "train" or "sample"."""
  objective = DenoisingObjective(
    stage=STAGE,
    text_conditioner=TextTable(task.table_of_text()),
    sample_rate_hz=SPEC.sample_rate_hz,
  )
  training = Training(
    model_dir="unset",
    objective=objective,
    batches=None,
    total_steps=1000,
    optimizer=Optimizer(warmup_steps=0),
  )
  setup = prepare(training, SPEC.shapes())
  state = setup.fresh()
  product, _ = measure.matrix_product(jnp.float32)
  known = {
    "parameters": measure.parameters_of(state.params["network"]),
    "product": lambda: product().block_until_ready(),
  }
  return _training(setup, state, known) if kind == "train" else _sampling(state.params, known)


def _training(setup: Setup, state: Any, known: dict[str, Any]) -> Work:
  flops = count_flops(setup.step, state, setup.batch, *setup.numbers)
  program = setup.compile()
  batch = setup.put(noise(SPEC, vocabulary=VOCABULARY))

  done = 0

  def step():
    nonlocal state, done
    state, metrics = program(state, batch, done)
    done += 1
    jax.block_until_ready(metrics)

  return Work(call=step, steps=1, gflop_per_step=flops / 1e9, **known)


def _sampling(params: PyTree, known: dict[str, Any]) -> Work:
  network = params["network"]
  whole = jnp.ones((SAMPLED, TOKENS), bool)
  embedding = jnp.asarray(task.table_of_text()[:TOKENS])
  text = Text(
    embedding=jnp.broadcast_to(embedding, (SAMPLED, *embedding.shape)), mask=whole, keep=whole[:, 0]
  )
  keys = clip_keys(range(SAMPLED), stage_name=STAGE.name)
  draw = lambda p: sample(STAGE, p, keys=keys, steps=FRAMES, text=text)  # noqa: E731
  return Work(
    call=lambda: draw(network).block_until_ready(),
    steps=STEPS,
    gflop_per_step=count_flops(draw, network) / STEPS / 1e9,
    **known,
  )
