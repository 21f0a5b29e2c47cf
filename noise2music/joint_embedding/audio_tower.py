"""From a log-mel spectrogram to one unit vector: a ResNet over it as a picture, or an AST.

MuLan's towers, with group norms in place of batch norms, so that a clip's vector does not depend on
its batch, and swish in place of ReLU, which our norm is fused with.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from noise2music.errors import UserError
from noise2music.nn import axes
from noise2music.nn.attention import SelfAttention
from noise2music.nn.axes import CHANNELS, CHANNELS_IN, CHANNELS_OUT, TAPS, named
from noise2music.nn.conv import dense
from noise2music.nn.norms import GroupNormSwish
from noise2music.typing import Array, LogMel

Pooled = Float[Array, "batch channels"]


class ResNet(nn.Module):
  """Bottleneck residual blocks over [frames, bands], averaged over both (He et al., 2016).

  blocks: of each stage; each but the first halves both axes. width: of the first stage's narrow
  convolutions, doubled at each stage; `expansion` times that leaves a block. The defaults are
  ResNet-50.
  """

  blocks: Sequence[int] = (3, 4, 6, 3)
  width: int = 64
  expansion: int = 4
  groups: int = 32
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, log_mel: LogMel) -> Pooled:
    x = log_mel[..., None].astype(self.dtype)
    x = self._norm(self._conv(x, self.width, 7, stride=2, name="stem"), "stem_norm")
    x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    for stage, count in enumerate(self.blocks):
      for block in range(count):
        stride = 2 if stage and not block else 1
        x = self._block(x, self.width << stage, stride, f"stage_{stage + 1}_block_{block + 1}")
    return jnp.mean(self._norm(x, "exit_norm").astype(jnp.float32), axis=(1, 2))

  def _block(self, x: Array, width: int, stride: int, name: str) -> Array:
    wide = width * self.expansion
    h = self._norm(x, f"{name}_norm_1")
    shortcut = x
    if stride > 1 or x.shape[-1] != wide:
      shortcut = self._conv(h, wide, 1, stride=stride, name=f"{name}_shortcut")
    h = self._conv(h, width, 1, name=f"{name}_conv_1")
    h = self._conv(self._norm(h, f"{name}_norm_2"), width, 3, stride=stride, name=f"{name}_conv_2")
    h = self._norm(h, f"{name}_norm_3")
    return shortcut + self._conv(h, wide, 1, name=f"{name}_conv_3", init=axes.zeros_init)

  def _conv(self, x, channels, size, *, name, stride=1, init=axes.kernel_init) -> Array:
    return nn.Conv(
      channels,
      (size, size),
      strides=(stride, stride),
      dtype=self.dtype,
      promote_dtype=_promote,
      kernel_init=named(init, TAPS, TAPS, CHANNELS_IN, CHANNELS_OUT),
      bias_init=named(axes.zeros_init, CHANNELS),
      name=name,
    )(x)

  def _norm(self, x: Array, name: str) -> Array:
    rows, frames, bands, channels = x.shape
    flat = x.reshape(rows, frames * bands, channels)
    norm = GroupNormSwish(groups=self.groups, dtype=self.dtype, name=name)
    return norm(flat).reshape(x.shape)


class AudioSpectrogramTransformer(nn.Module):
  """Overlapping square patches as tokens, of which a learnt first one is the result (Gong et al.,
  2021). The defaults are AST's. longest: frames for which positions are learnt.
  """

  patch: int = 16
  stride: int = 10
  width: int = 768
  layers: int = 12
  heads: int = 12
  longest: int = 1024
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, log_mel: LogMel) -> Pooled:
    frames, bands = log_mel.shape[1:]
    if frames > self.longest or min(frames, bands) < self.patch:
      raise UserError(
        f"a spectrogram of {frames} frames x {bands} bands does not suit this transformer: give"
        f" {self.patch} to {self.longest} frames, and {self.patch} bands or more"
      )
    x = nn.Conv(
      self.width,
      (self.patch, self.patch),
      strides=(self.stride, self.stride),
      padding="VALID",
      dtype=self.dtype,
      promote_dtype=_promote,
      kernel_init=named(axes.kernel_init, TAPS, TAPS, CHANNELS_IN, CHANNELS_OUT),
      bias_init=named(axes.zeros_init, CHANNELS),
      name="patches",
    )(log_mel[..., None].astype(self.dtype))
    small = nn.initializers.normal(0.02)
    rows = (self.longest - self.patch) // self.stride + 1
    position = self.param(
      "position", named(small, "frames", "bands", CHANNELS), (rows, x.shape[2], self.width)
    )
    x = x + position[: x.shape[1]].astype(self.dtype)
    first = self.param("first", named(small, CHANNELS), (self.width,)).astype(self.dtype)
    tokens = x.reshape(len(x), -1, self.width)
    first = jnp.broadcast_to(first, (len(x), 1, self.width))
    x = jnp.concatenate([first, tokens], axis=1)
    for k in range(self.layers):
      x = SelfAttention(heads=self.heads, expansion=4, dtype=self.dtype, name=f"layer_{k}")(x)
    return nn.LayerNorm(
      scale_init=named(axes.ones_init, CHANNELS),
      bias_init=named(axes.zeros_init, CHANNELS),
      name="exit_norm",
    )(x[:, 0].astype(jnp.float32))


class AudioTower(nn.Module):
  """backbone: from [batch, frames, bands] to [batch, channels]. width: of the embedding."""

  backbone: nn.Module
  width: int = 128

  @nn.compact
  def __call__(self, log_mel: LogMel) -> Float[Array, "batch width"]:
    return unit(dense(self.width, name="exit")(self.backbone(log_mel)))


def unit(x: Array) -> Array:
  """x / |x| along the last axis; zeros stay zeros, with a gradient of zero."""
  return x * jnp.reciprocal(jnp.sqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12)))


def _promote(x: Array, kernel: Array, bias: Array, *, dtype: DTypeLike, **kwargs):
  del kwargs
  return x.astype(dtype), axes.gathered(kernel).astype(dtype), bias.astype(dtype)
