"""The same work in JAX and in torch, side by side: `--peers` of train_step.py and sample_step.py.

  ours       a U-Net of 8 M parameters on 8 clips of 384 frames of 80 mel bands, the project's own
             update and sampler (the "audio" being the frames, the text a table of embeddings)
  twin       the same network in torch, eager (torch_unet.py), with as many parameters
  a-unet     UNetV0 of audio-diffusion-pytorch, with about as many
  diffusers  its UNet1DModel, likewise; it reads no text

A training step draws times and noise, and clips the gradient, updates (Adam, fused in torch) and
averages (foreach in torch). A sampling step guides four clips and clips the signal dynamically.
Each worker is a process of its own, so that thread pools do not mix; they take turns in rounds, and
medians count, and matrix products in the same rounds say what the processor could do. On a machine
with other work use --cores=1 and the CPU time: threads of torch that wait for one another spin.
"""

import dataclasses
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import measure
from noise2music.errors import UserError
from noise2music.nn.unet1d import UNet1D

CLIPS, FRAMES, BANDS = 8, 384, 80
TOKENS, TEXT_WIDTH, VOCABULARY = 64, 256, 384
SAMPLED, STEPS, GUIDANCE, PERCENTILE = 4, 5, 5.0, 99.5
WORKERS = ("ours", "twin", "a-unet", "diffusers")
OURS = UNet1D(
  out_channels=BANDS,
  base_width=80,
  kernel_size=5,
  strides=(4, 3, 2),
  width_multipliers=(1, 2, 3),
  blocks=2,
  self_attention=(False, False, True),
  cross_attention=(False, False, True),
  text_width=TEXT_WIDTH,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
  """call: does `steps` steps."""

  call: Callable[[], Any]
  steps: int
  parameters: int
  gflop_per_step: float
  product: Callable[[], Any]  # a matrix product of 1024 x 1024


def shape_of(net: UNet1D) -> dict[str, Any]:
  """What `torch_unet.UNet` takes."""
  names = ("out_channels", "base_width", "kernel_size", "strides", "width_multipliers", "heads")
  return {name: getattr(net, name) for name in names} | {
    "blocks": net.blocks[0],
    "attention": net.cross_attention,
    "text_width": net.text_width,
  }


def table_of_text() -> np.ndarray:
  return np.random.default_rng(0).normal(size=(VOCABULARY, TEXT_WIDTH)).astype(np.float32)


def ours(kind: str) -> Work:
  import jax
  import jax.numpy as jnp

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
  from noise2music.training.setup import prepare

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

  stage = Stage(
    name="peer",
    target=Frames(),
    conditions={"text": CrossAttention(token_length=TOKENS)},
    network=OURS,
    noise_schedule=CosineSchedule(),
    sampling=Sampling(
      time_steps=UniformSteps(count=STEPS),
      sampler=DDIM(),
      guidance_scale=GUIDANCE,
      clip_percentile=PERCENTILE,
    ),
  )
  spec = BatchSpec(
    batch_size=CLIPS, seconds=FRAMES / 100, sample_rate_hz=100 * BANDS, token_length=TOKENS
  )
  objective = DenoisingObjective(
    stage=stage, text_conditioner=TextTable(table_of_text()), sample_rate_hz=spec.sample_rate_hz
  )
  training = Training(
    model_dir="unset",
    objective=objective,
    batches=None,
    total_steps=1000,
    optimizer=Optimizer(warmup_steps=0),
  )
  setup = prepare(training, spec.shapes())
  state = setup.fresh()
  params = state.params["network"]
  product, _ = measure.matrix_product(jnp.float32)
  known = {
    "parameters": measure.parameters_of(params),
    "product": lambda: product().block_until_ready(),
  }
  if kind == "sample":
    whole = jnp.ones((SAMPLED, TOKENS), bool)
    embedding = jnp.asarray(table_of_text()[:TOKENS])
    text = Text(
      embedding=jnp.broadcast_to(embedding, (SAMPLED, *embedding.shape)),
      mask=whole,
      keep=whole[:, 0],
    )
    keys = clip_keys(range(SAMPLED), stage_name=stage.name)
    draw = lambda p: sample(stage, p, keys=keys, steps=FRAMES, text=text)  # noqa: E731
    flops = count_flops(draw, params) / STEPS
    return Work(
      call=lambda: draw(params).block_until_ready(),
      steps=STEPS,
      gflop_per_step=flops / 1e9,
      **known,
    )
  flops = count_flops(setup.step, state, setup.batch, jax.ShapeDtypeStruct((), "int32"))
  program = setup.compile()
  batch = setup.put(noise(spec, vocabulary=VOCABULARY))

  def step():
    nonlocal state
    state, metrics = program(state, batch)
    jax.block_until_ready(metrics)

  return Work(call=step, steps=1, gflop_per_step=flops / 1e9, **known)


def torch_work(name: str, kind: str) -> Work:
  import torch
  from torch.utils.flop_counter import FlopCounterMode

  torch.manual_seed(0)
  net = torch_network(name)
  step, steps = (_torch_training(net), 1) if kind == "train" else (_torch_sampling(net), STEPS)
  step()
  with FlopCounterMode(display=False) as counter:
    step()
  square = torch.randn(1024, 1024)
  return Work(
    call=step,
    steps=steps,
    parameters=sum(p.numel() for p in net.parameters()),
    gflop_per_step=counter.get_total_flops() / steps / 1e9,
    product=lambda: square @ square,
  )


def torch_network(name: str):
  """A module called as net(x [batch, bands, frames], t [batch], text, keep)."""
  import torch

  if name == "twin":
    from benchmarks.torch_unet import UNet

    return UNet(**shape_of(OURS))
  if name == "a-unet":
    from audio_diffusion_pytorch import UNetV0

    depths = len(OURS.strides)
    bottom = [0] * (depths - 1) + [1]
    net = UNetV0(
      dim=1,
      in_channels=BANDS,
      channels=[96, 192, 320],
      factors=list(OURS.strides),
      items=[2] * depths,
      attentions=bottom,
      cross_attentions=bottom,
      attention_heads=OURS.heads,
      attention_features=32,
      embedding_features=TEXT_WIDTH,
      modulation_features=304,
    )
    run = lambda x, t, text, keep: net(x, t, embedding=text * keep[:, None, None])  # noqa: E731
  else:
    from diffusers import UNet1DModel

    net = UNet1DModel(
      sample_size=FRAMES,
      in_channels=BANDS,
      out_channels=BANDS,
      extra_in_channels=2 * 64,  # the embedded time, beside the signal
      block_out_channels=(64, 128, 216),
      layers_per_block=2,
    )
    run = lambda x, t, text, keep: net(x, 1000 * t).sample  # noqa: E731

  class Called(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.net = net

    def forward(self, x, t, text, keep):
      return run(x, t, text, keep)

  return Called()


def _levels(t):
  """alpha and sigma of the cosine schedule."""
  import torch

  return torch.cos(t * torch.pi / 2)[:, None, None], torch.sin(t * torch.pi / 2)[:, None, None]


def _torch_training(net) -> Callable[[], Any]:
  import torch

  params = list(net.parameters())
  average = [p.detach().clone() for p in params]
  adam = torch.optim.Adam(params, lr=1e-4, fused=True)
  x = torch.randn(CLIPS, BANDS, FRAMES)
  table, tokens = torch.tensor(table_of_text()), torch.randint(VOCABULARY, (CLIPS, TOKENS))

  def step():
    t, noise, keep = torch.rand(CLIPS), torch.randn_like(x), torch.rand(CLIPS) > 0.1
    alpha, sigma = _levels(t)
    output = net(alpha * x + sigma * noise, t, table[tokens], keep)
    loss = (output - noise).square().mean(dim=(1, 2)).mean()
    adam.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
    adam.step()
    torch._foreach_lerp_(average, params, 1e-4)

  return step


def _torch_sampling(net) -> Callable[[], Any]:
  import torch

  table = torch.tensor(table_of_text())[:TOKENS]
  text = table.expand(2 * SAMPLED, -1, -1)
  keep = torch.arange(2 * SAMPLED) < SAMPLED
  times = torch.linspace(1 - 1e-4, 1e-4, STEPS + 1)

  @torch.inference_mode()
  def sample():
    x_t = torch.randn(SAMPLED, BANDS, FRAMES)
    for t, s in itertools.pairwise(times):
      t, s = t.expand(SAMPLED), s.expand(SAMPLED)
      # Both halves of guidance as one batch, as is usual there.
      cond, uncond = net(torch.cat([x_t, x_t]), t.repeat(2), text, keep).chunk(2)
      eps = GUIDANCE * cond + (1 - GUIDANCE) * uncond
      (alpha, sigma), (alpha_s, sigma_s) = _levels(t), _levels(s)
      x = (x_t - sigma * eps) / alpha
      size = torch.quantile(x.abs().flatten(1), PERCENTILE / 100, dim=1)
      size = size.clamp(min=1.0)[:, None, None]
      clipped = x.clamp(-size, size) / size
      x_t = alpha_s * clipped + sigma_s * (eps + alpha / sigma * (x - clipped))
    return x_t

  return sample


def work(name: str, kind: str) -> None:
  """In a worker's process: facts, then the figures of one round for each line that comes in."""
  began = time.perf_counter()
  this = ours(kind) if name == "ours" else torch_work(name, kind)
  this.call()
  start = time.perf_counter() - began
  this.call()
  this.product()
  facts = {"parameters": this.parameters, "gflop_per_step": this.gflop_per_step, "start_s": start}
  print(json.dumps(facts), flush=True)
  for _ in sys.stdin:
    wall, processor = _timed(this.call, least_s=1.0)
    product, _ = _timed(this.product, least_s=0.2)
    figures = {"wall": wall / this.steps, "cpu": processor / this.steps, "gemm": product}
    print(json.dumps(figures), flush=True)


def _timed(call: Callable[[], Any], *, least_s: float) -> tuple[float, float]:
  """Seconds of one call by the clock and on all cores."""
  times, wall, processor = 0, time.perf_counter(), time.process_time()
  while time.perf_counter() - wall < least_s:
    call()
    times += 1
  return (time.perf_counter() - wall) / times, (time.process_time() - processor) / times


def race(kind: str, *, rounds: int, cores: int | None, as_json: bool) -> int:
  """kind: "train" or "sample". cores: of the processor, for each worker in turn; None: all."""
  modules = ("torch", "audio_diffusion_pytorch", "diffusers")
  if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
    raise UserError(
      f"{' and '.join(missing)} not installed: pip install -r benchmarks/requirements.txt"
    )
  if cores is not None:
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:cores]))  # the workers inherit it
  processes, facts = {}, {}
  try:
    for name in WORKERS:
      processes[name] = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers", name, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
      )
      facts[name] = _answer(name, processes[name])
    if facts["twin"]["parameters"] != facts["ours"]["parameters"]:
      raise AssertionError(f"the twin is another network: {facts}")
    figures = {name: [] for name in WORKERS}
    for _ in range(rounds):
      for name, process in processes.items():
        process.stdin.write("go\n")
        process.stdin.flush()
        figures[name].append(_answer(name, process))
  finally:
    for process in processes.values():
      process.kill()
      process.wait()
  rows = [_row(name, facts[name], figures[name], figures["ours"]) for name in WORKERS]
  print(
    json.dumps({"kind": kind, "rounds": rounds, "rows": rows}) if as_json else _shown(kind, rows)
  )
  return 0


def _answer(name: str, process: subprocess.Popen) -> dict[str, float]:
  line = process.stdout.readline()
  if not line:
    raise UserError(f"the worker {name} ended (status {process.wait()}): its own words are above")
  return json.loads(line)


def _row(name: str, facts: dict, figures: Sequence[dict], ours: Sequence[dict]) -> dict[str, Any]:
  middle = {key: statistics.median(each[key] for each in figures) for key in figures[0]}
  against = lambda key: statistics.median(  # noqa: E731
    theirs[key] / mine[key] for theirs, mine in zip(figures, ours, strict=True)
  )
  rate = facts["gflop_per_step"] / middle["wall"]
  gemm = 2 * 1.024**3 / middle["gemm"]
  return {
    "worker": name,
    "M_params": facts["parameters"] / 1e6,
    "start_s": facts["start_s"],
    "GFLOP": facts["gflop_per_step"],
    "ms": 1e3 * middle["wall"],
    "CPU_ms": 1e3 * middle["cpu"],
    "GFLOP/s": rate,
    "own_GEMM": gemm,
    "%_of_GEMM": 100 * rate / gemm,
    "x_ours": against("wall"),
    "x_ours_CPU": against("cpu"),
  }


def _shown(kind: str, rows: Sequence[dict]) -> str:
  step = "training step" if kind == "train" else f"guided sampling step of {SAMPLED} clips"
  ratios = ("x_ours", "x_ours_CPU")
  shown = [{**row, **{name: f"{row[name]:.2f}" for name in ratios}} for row in rows]
  return f"{step}; x ours: its time over ours in the same round\n{measure.table(shown)}"


if __name__ == "__main__":
  from launch import gin_main

  gin_main.set_up()
  work(*sys.argv[1:])
