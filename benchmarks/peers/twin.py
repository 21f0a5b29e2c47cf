"""noise2music.nn.unet1d in torch: the same layers on [batch, channels, time], for comparison.

Only what the comparison uses: self- and cross-attention at the same depths, a text, no patch, no
aligned sequence, float32. `from_flax` copies weights over, so that both compute the same function.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noise2music.nn.norms import group_count
from noise2music.nn.unet1d import UNet1D


def shape_of(net: UNet1D) -> dict[str, Any]:
  """What `UNet` takes of ours."""
  names = ("out_channels", "base_width", "kernel_size", "strides", "width_multipliers", "heads")
  return {name: getattr(net, name) for name in names} | {
    "blocks": net.blocks[0],
    "attention": net.cross_attention,
    "text_width": net.text_width,
  }


class Dense(nn.Linear):
  """Over the channels of [batch, channels, time]."""

  def forward(self, x: Tensor) -> Tensor:
    return F.conv1d(x, self.weight[:, :, None], self.bias)


class GroupNormSwish(nn.GroupNorm):
  def __init__(self, channels: int):
    super().__init__(group_count(channels), channels)

  def forward(self, x: Tensor) -> Tensor:
    return F.silu(super().forward(x))


class Up(nn.Module):
  """[batch, c, time] -> [batch, channels, time * stride], a transposed convolution."""

  def __init__(self, given: int, channels: int, stride: int):
    super().__init__()
    self.stride = stride
    self.linear = Dense(given, channels * stride)

  def forward(self, x: Tensor) -> Tensor:
    x = self.linear(x).unflatten(1, (self.stride, -1))  # [batch, stride, channels, time]
    return x.permute(0, 2, 3, 1).flatten(2)


class Attention(nn.Module):
  """Attention and feed-forward layer, each pre-normalised beside a residual path."""

  def __init__(self, width: int, heads: int, context: int):
    super().__init__()
    self.heads = heads
    self.attention_norm = nn.LayerNorm(width, eps=1e-6)
    self.query = nn.Linear(width, width)
    self.key, self.value = nn.Linear(context, width), nn.Linear(context, width)
    self.out = nn.Linear(width, width)
    self.feed_forward_norm = nn.LayerNorm(width, eps=1e-6)
    self.hidden, self.feed_forward_out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

  def forward(self, x: Tensor, text: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
    """x: [batch, time, width]. text: what to attend to, x itself where None."""
    kept = lambda out: out if keep is None else torch.where(keep[:, None, None], out, 0)  # noqa: E731
    split = lambda y: y.unflatten(2, (self.heads, -1)).transpose(1, 2)  # noqa: E731
    h = self.attention_norm(x)
    context = h if text is None else text
    h = F.scaled_dot_product_attention(
      split(self.query(h)), split(self.key(context)), split(self.value(context))
    )
    x = x + kept(self.out(h.transpose(1, 2).flatten(2)))
    h = self.hidden(self.feed_forward_norm(x))
    return x + kept(self.feed_forward_out(F.silu(h)))


class Block(nn.Module):
  def __init__(self, width: int, *, base: int, kernel: int, heads: int, attends: bool, text: int):
    super().__init__()
    conv = lambda: nn.Conv1d(width, width, kernel, padding=kernel // 2)  # noqa: E731
    self.combine = nn.Linear(base, 2 * width)
    self.norm_1, self.conv_1 = GroupNormSwish(width), conv()
    self.norm_2, self.conv_2 = GroupNormSwish(width), conv()
    self.residual = Dense(width, width)
    self.self_attention = Attention(width, heads, width) if attends else None
    self.cross_attention = Attention(width, heads, text) if attends else None

  def forward(self, x: Tensor, level: Tensor, text: Tensor, keep: Tensor) -> Tensor:
    scale, bias = self.combine(level)[:, :, None].chunk(2, dim=1)
    x = x * (1 + scale) + bias
    h = self.conv_2(self.norm_2(self.conv_1(self.norm_1(x))))
    x = h + self.residual(x)
    if self.self_attention is not None:
      x = self.self_attention(x.transpose(1, 2))
      x = self.cross_attention(x, text, keep).transpose(1, 2)
    return x


class UNet(nn.Module):
  """forward(x [batch, channels, time], t [batch], text [batch, tokens, width], keep [batch])."""

  def __init__(
    self,
    *,
    out_channels: int,
    base_width: int,
    kernel_size: int,
    strides: Sequence[int],
    width_multipliers: Sequence[int],
    blocks: int,
    attention: Sequence[bool],
    heads: int,
    text_width: int,
  ):
    super().__init__()
    widths = [base_width * multiplier for multiplier in width_multipliers]
    self.base = base_width
    self.time_embedding = nn.Linear(base_width, base_width)
    self.entry = nn.Conv1d(out_channels, base_width, 3, padding=1)
    self.down, self.up = nn.ModuleList(), nn.ModuleList()
    self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
    above = base_width
    for width, stride, attends in zip(widths, strides, attention, strict=True):
      shape = {"base": base_width, "kernel": kernel_size, "heads": heads}
      stack = lambda w=width, s=shape, a=attends: nn.ModuleList(  # noqa: E731
        Block(w, **s, attends=a, text=text_width) for _ in range(blocks)
      )
      self.down.append(nn.Conv1d(above, width, stride, stride))
      self.up.append(Up(width, above, stride))
      self.down_blocks.append(stack())
      self.up_blocks.append(stack())
      above = width
    self.exit_norm = GroupNormSwish(base_width)
    self.exit = nn.Conv1d(base_width, out_channels, 3, padding=1)

  def forward(self, x: Tensor, t: Tensor, text: Tensor, keep: Tensor) -> Tensor:
    half = self.base // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10_000.0) / (half - 1)))
    angles = 1000.0 * t[:, None] * frequencies
    level = self.time_embedding(torch.cat([angles.sin(), angles.cos()], dim=1))
    x = self.entry(x)
    skips = []
    for down, blocks in zip(self.down, self.down_blocks, strict=True):
      skips.append(x)
      x = down(x)
      for block in blocks:
        x = block(x, level, text, keep)
    for up, blocks in zip(reversed(self.up), reversed(self.up_blocks), strict=True):
      for block in blocks:
        x = block(x, level, text, keep)
      x = up(x) + skips.pop()
    return self.exit(self.exit_norm(x))

  @torch.no_grad()
  def from_flax(self, params: Mapping) -> None:
    """params: of the same UNet1D, unboxed."""
    linear = lambda to, of: _fill(to, np.asarray(of["kernel"]).T, of["bias"])  # noqa: E731
    conv = lambda to, of: _fill(to, np.transpose(of["kernel"], (2, 1, 0)), of["bias"])  # noqa: E731
    norm = lambda to, of: _fill(to, of["scale"], of["bias"])  # noqa: E731

    def attention(to: Attention, of: Mapping) -> None:
      heads, width = of["attention"], to.out.out_features
      for name in ("query", "key", "value"):
        kernel = np.reshape(heads[name]["kernel"], (-1, width)).T
        _fill(getattr(to, name), kernel, np.reshape(heads[name]["bias"], -1))
      _fill(to.out, np.reshape(heads["out"]["kernel"], (width, width)).T, heads["out"]["bias"])
      norm(to.attention_norm, of["attention_norm"])
      norm(to.feed_forward_norm, of["feed_forward_norm"])
      linear(to.hidden, of["feed_forward"]["hidden"])
      linear(to.feed_forward_out, of["feed_forward"]["out"])

    def block(to: Block, of: Mapping) -> None:
      linear(to.combine, of["combine"]["linear"])
      linear(to.residual, of["residual"])
      for index in ("1", "2"):
        norm(getattr(to, f"norm_{index}"), of[f"norm_{index}"])
        conv(getattr(to, f"conv_{index}"), of[f"conv_{index}"])
      for name in ("self_attention", "cross_attention"):
        if name in of:
          attention(getattr(to, name), of[name])

    linear(self.time_embedding, params["time_embedding"]["linear"])
    for depth, (down, up) in enumerate(zip(self.down, self.up, strict=True), start=1):
      kernel = np.asarray(params[f"down_{depth}"]["kernel"])  # [stride * c, channels]
      kernel = kernel.reshape(down.stride[0], -1, kernel.shape[1])
      _fill(down, np.transpose(kernel, (2, 1, 0)), params[f"down_{depth}"]["bias"])
      linear(up.linear, params[f"up_{depth}"])
      for half, stack in (("down", self.down_blocks), ("up", self.up_blocks)):
        stacked = params[f"{half}_blocks_{depth}"]["blocks"]
        for index, one in enumerate(stack[depth - 1]):
          block(one, _at(stacked, index))
    norm(self.exit_norm, params["exit_norm"])
    conv(self.entry, params["entry"])
    conv(self.exit, params["exit"])


def _at(tree: Mapping, index: int) -> dict:
  return {k: _at(v, index) if isinstance(v, Mapping) else v[index] for k, v in tree.items()}


def _fill(module: nn.Module, weight, bias) -> None:
  module.weight.copy_(torch.tensor(np.asarray(weight)))
  module.bias.copy_(torch.tensor(np.asarray(bias)))
