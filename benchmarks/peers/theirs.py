"""The workers in torch, eager."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.task import (
  BANDS,
  CLIPS,
  FRAMES,
  GUIDANCE,
  OURS,
  PERCENTILE,
  SAMPLED,
  STEPS,
  TEXT_WIDTH,
  TOKENS,
  VOCABULARY,
  Work,
  table_of_text,
)
from benchmarks.peers.twin import UNet, shape_of


def work(name: str, kind: str) -> Work:
  """name: of a worker. kind: "train" or "sample"."""
  torch.manual_seed(0)
  net = network(name)
  step, steps = (_training(net), 1) if kind == "train" else (_sampling(net), STEPS)
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


def network(name: str):
  """A module called as net(x [batch, bands, frames], t [batch], text, keep)."""
  if name == "twin":
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
  return torch.cos(t * torch.pi / 2)[:, None, None], torch.sin(t * torch.pi / 2)[:, None, None]


def _training(net) -> Callable[[], Any]:
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


def _sampling(net) -> Callable[[], Any]:
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
