"""The 1-D Efficient U-Net (Noise2Music, Figures 1 and 5, appendix B).

Entry convolution to the base width; at each depth a strided down-sampling and blocks of one width;
the mirror image going up, where the output of each down half is added; exit convolution. No block
runs at full length.

What the paper leaves open is read so: down- and up-sampling kernels equal their stride; attentions
are pre-normalised; a group norm and swish precede the exit convolution, which starts at zero, so a
fresh network predicts zero; the skip from the entry joins after the last up-sampling (Figure 1).
"""

import functools
import itertools
import math
import operator
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from noise2music.errors import UserError
from noise2music.nn import axes, conv
from noise2music.nn.blocks import Block, BlockInputs, FullyConnected, Residual, TextInput
from noise2music.nn.conv import EntryConv1D, ExitConv1D, dense, downsample, upsample
from noise2music.nn.embeddings import TimeEmbedding
from noise2music.nn.norms import GroupNormSwish
from noise2music.nn.pieces import best_count, cut, reach, recut
from noise2music.nn.stacking import Auto, Stack, Stacking
from noise2music.typing import Array, Level, Mask, PyTree, Signal, TextEmbedding

EDGE_KERNEL = 3  # of the entry and the exit convolution
IN_FLOAT32 = {"time_embedding", "embedding_entry", "combine", "exit"}  # layers, whatever the dtype


class UNet1D(nn.Module):
  """Maps a signal [batch, time, any channels] at diffusion time t to [batch, time, out_channels].

  Four entries: conditioning signals stacked as extra input channels; the diffusion time; a text,
  read by cross-attention; an aligned sequence of length time / stride, added at the bottom. A
  fifth, one embedding vector a clip, joins the diffusion time.

  Attributes:
    out_channels: channels of the target.
    base_width: channels after the entry convolution, and width of the time embedding.
    kernel_size: of the blocks' convolutions.
    strides, width_multipliers, blocks: of each depth; widths are base_width * multiplier. One
      number for `blocks` holds at every depth.
    self_attention, cross_attention: whether each depth's blocks have them; () is nowhere.
    heads: of each attention; must divide the width at every depth that attends.
    text_width: of the text embedding; None takes that of the text which `init` sees.
    aligned, combine: whether the network takes an aligned sequence, an embedding.
    patch: samples laid into channels before the entry and back after the exit (1: as the paper).
    groups: of the group norms, or as many as divide.
    residual: path around the convolutions of a block.
    dtype: of the computation; parameters, norms, softmax and output are float32.
    pieces: into which clips are cut along time (`nn.pieces`); None: as the platform likes it.
      It makes no difference to the result.
    stacking: whether equal blocks are scanned or unrolled; parameters are the same.

  Raises:
    UserError: from the constructor or a call, for any setting or input it could not honour.
  """

  out_channels: int
  base_width: int
  strides: Sequence[int]
  width_multipliers: Sequence[int]
  blocks: Sequence[int] | int
  kernel_size: int = 7
  self_attention: Sequence[bool] = ()
  cross_attention: Sequence[bool] = ()
  heads: int = 8
  text_width: int | None = None
  aligned: bool = False
  combine: bool = False
  patch: int = 1
  groups: int = 32
  residual: Residual = FullyConnected()
  dtype: DTypeLike = jnp.float32
  pieces: int | None = None
  stacking: Stacking = Auto()

  def __post_init__(self):
    if isinstance(self.blocks, int):
      self.blocks = (self.blocks,) * len(self.strides)
    _check_settings(self)
    super().__post_init__()

  @property
  def stride(self) -> int:
    """The input's length must be a multiple of it; an aligned sequence is so much shorter."""
    return self.patch * math.prod(self.strides)

  def rounded(self, params: PyTree) -> PyTree:
    """The parameters, those kernels in `dtype` that are rounded to it where they multiply.

    For a sampler, which would else read them at their full length and round them at every step.
    What the network computes is the same, bit for bit.
    """

    def one(path: tuple, leaf: Array) -> Array:
      names = set(jax.tree_util.keystr(path, simple=True, separator="/").split("/"))
      rounds = "kernel" in names and not names & IN_FLOAT32
      return leaf.astype(self.dtype) if rounds else leaf

    return jax.tree_util.tree_map_with_path(one, params)

  def weights_prevail(self, params: PyTree, *, steps: int) -> bool:
    """Whether a call on one clip of `steps` reads far more for the weights than for the signals.

    Two clips in one call then cost little more than one: on a TPU v4, by the compiler's estimate,
    guidance in one call takes 0.79 of the time of two for the paper's spectrogram generator. Where
    signals weigh more, two at once leave the fast memory that one fits into: 1.10 of the time for
    its cascader at 29.44 s. The ratio is 4 there, 30 and 1,100 in the paper's two generators.
    """
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    return weights > 8 * (steps // self.patch) * self.base_width

  @property
  def takes_text(self) -> bool:
    """Whether any depth has cross-attention."""
    return any(self.cross_attention)

  @nn.compact
  def __call__(
    self,
    x: Signal,
    t: Level,
    *,
    text: TextEmbedding | None = None,
    text_mask: Mask | None = None,
    text_keep: Bool[Array, "batch"] | None = None,
    aligned: Float[Array, "batch short_time aligned_channels"] | None = None,
    embedding: Float[Array, "batch embedding_width"] | None = None,
  ) -> Float[Array, "batch time out_channels"]:
    """Runs the network.

    Args:
      x: noisy signal, with any conditioning signal stacked behind its channels.
      t: diffusion time in [0, 1] of each row.
      text: embedded text; None drops it, as `text_keep` False in every row does, at less cost.
      text_mask: True where a token is real (default: all). Other tokens have no influence, and a
        row without a real token has its text dropped.
      text_keep: False drops a row's text: every cross-attention adds exactly zero there.
      aligned: sequence of length time / stride.
      embedding: one vector a row.

    Returns:
      float32 of the target's shape.
    """
    _check_inputs(self, x, text, text_mask, text_keep, aligned, embedding)
    inputs = BlockInputs(self._level(t, embedding), self._text_input(x, text, text_mask, text_keep))
    pieces = self._pieces(x)
    x = EntryConv1D(self.base_width, EDGE_KERNEL, dtype=self.dtype, pieces=pieces[0], name="entry")(
      conv.fold(x, self.patch)
    )
    widths = [self.base_width * multiplier for multiplier in self.width_multipliers]
    skips = []
    for depth, (width, stride) in enumerate(zip(widths, self.strides, strict=True), start=1):
      skips.append(x)
      x = recut(x, pieces[depth - 1], into=pieces[depth])
      x = downsample(x, channels=width, stride=stride, dtype=self.dtype, name=f"down_{depth}")
      x = self._stack(depth, pieces[depth], name=f"down_blocks_{depth}")(x, inputs)
    if self.aligned:
      low = dense(widths[-1], dtype=self.dtype, name="aligned_entry")(aligned.astype(self.dtype))
      x = x + cut(low, pieces[-1])
    for depth in reversed(range(1, len(widths) + 1)):
      x = self._stack(depth, pieces[depth], name=f"up_blocks_{depth}")(x, inputs)
      skip = skips.pop()
      stride = self.strides[depth - 1]
      x = upsample(x, channels=skip.shape[-1], stride=stride, dtype=self.dtype, name=f"up_{depth}")
      x = recut(x, pieces[depth], into=pieces[depth - 1]) + skip
    norm = GroupNormSwish(groups=self.groups, dtype=self.dtype, pieces=pieces[0], name="exit_norm")
    exit = ExitConv1D(
      self.out_channels * self.patch,
      EDGE_KERNEL,
      kernel_init=axes.zeros_init,
      pieces=pieces[0],
      name="exit",
    )
    return conv.unfold(exit(norm(x)), self.patch)

  def _level(self, t: Level, embedding) -> Float[Array, "batch width"]:
    """The embedded diffusion time, with the vector of COMBINE where there is one."""
    level = TimeEmbedding(self.base_width, name="time_embedding")(t)
    if not self.combine:
      return level
    kernel_axes = (axes.EMBEDDING, axes.CHANNELS_OUT)
    entry = dense(self.base_width, kernel_axes=kernel_axes, name="embedding_entry")
    return level + entry(embedding.astype(jnp.float32))

  def _pieces(self, x: Signal) -> list[int]:
    """Of the entry and each depth."""
    if self.pieces is not None:
      return [self.pieces] * (len(self.strides) + 1)
    steps = x.shape[1] // self.patch
    lengths = itertools.accumulate(self.strides, operator.floordiv, initial=steps)
    return [best_count(clips=len(x), length=n) for n in lengths]

  def _stack(self, depth: int, pieces: int, *, name: str) -> Stack:
    attends = lambda flags: bool(flags) and flags[depth - 1]  # noqa: E731
    block = functools.partial(
      Block,
      kernel_size=self.kernel_size,
      groups=self.groups,
      heads=self.heads,
      self_attention=attends(self.self_attention),
      cross_attention=attends(self.cross_attention),
      residual=self.residual,
      dtype=self.dtype,
      pieces=pieces,
    )
    stacking = self.stacking.at(depth) if isinstance(self.stacking, Auto) else self.stacking
    return Stack(block=block, count=self.blocks[depth - 1], stacking=stacking, name=name)

  def _text_input(self, x, text, mask, keep) -> TextInput | None:
    if not self.takes_text:
      return None
    if text is None:
      if not self.is_initializing():
        return None
      text = jnp.zeros((x.shape[0], 1, self.text_width))  # the layers must come into being
    if mask is None:
      mask = jnp.ones(text.shape[:2], jnp.bool_)
    seen = jnp.any(mask, axis=-1)
    # A weight of zero does not silence a NaN or an infinity in a padded token: zero it here.
    text = jnp.where(mask[:, :, None], text, 0).astype(self.dtype)
    return TextInput(text, mask, seen if keep is None else seen & keep)


def _check_settings(net: UNet1D) -> None:
  depths = len(net.strides)
  for name in ("width_multipliers", "blocks", "self_attention", "cross_attention"):
    values = getattr(net, name)
    if len(values) != depths and not (name.endswith("attention") and not values):
      raise UserError(
        f"UNet1D.{name} has {len(values)} entries and strides has {depths}: give one for each depth"
      )
  positive = {
    "out_channels": [net.out_channels], "base_width": [net.base_width],
    "kernel_size": [net.kernel_size], "heads": [net.heads], "patch": [net.patch],
    "groups": [net.groups], "strides": net.strides, "blocks": net.blocks,
    "width_multipliers": net.width_multipliers,
    "pieces": [1 if net.pieces is None else net.pieces],
  }  # fmt: skip
  for name, values in positive.items():
    if not values or any(value < 1 for value in values):
      raise UserError(f"UNet1D.{name} is {getattr(net, name)}: it must be at least 1")
  if net.out_channels * net.patch > net.base_width:
    raise UserError(
      f"UNet1D.base_width is {net.base_width} for {net.out_channels * net.patch} channels: a "
      "narrower network cannot pass its noisy input on, so make it at least as wide"
    )
  for depth in range(depths):
    width = net.base_width * net.width_multipliers[depth]
    attends = any(flags and flags[depth] for flags in (net.self_attention, net.cross_attention))
    if attends and width % net.heads:
      raise UserError(
        f"UNet1D.heads is {net.heads}, which does not divide the {width} channels at depth "
        f"{depth + 1}: choose a divisor"
      )
  if net.text_width is not None and not any(net.cross_attention):
    raise UserError("UNet1D.text_width is set but no depth has cross-attention: unset it")


def _check_inputs(net: UNet1D, x, text, text_mask, text_keep, aligned, embedding) -> None:
  if x.shape[1] % net.stride:
    raise UserError(
      f"the network's strides multiply to {net.stride}, which does not divide the signal's "
      f"{x.shape[1]} steps: pad it to a multiple"
    )
  shortest = x.shape[1] // net.stride / (net.pieces or 1)
  if net.pieces not in (None, 1) and (shortest % 1 or shortest < max(reach(net.kernel_size))):
    raise UserError(
      f"UNet1D.pieces is {net.pieces}, into which {x.shape[1]} steps do not divide at every depth "
      "with pieces as long as the kernels reach: leave it None"
    )
  if text is not None and not net.takes_text:
    raise UserError("the network has no cross-attention: leave out the text or turn it on")
  if text is None and (text_mask is not None or text_keep is not None):
    raise UserError("text_mask and text_keep say nothing without a text: give the text too")
  if text is None and net.takes_text and net.is_initializing() and net.text_width is None:
    raise UserError("UNet1D.text_width is None: set it or initialise the network with a text")
  if text is not None and net.text_width not in (None, text.shape[-1]):
    raise UserError(
      f"the text is {text.shape[-1]} wide and UNet1D.text_width is {net.text_width}: equate them"
    )
  _check_given("aligned", aligned, wanted=net.aligned)
  _check_given("embedding", embedding, wanted=net.combine, setting="combine")
  if aligned is not None and aligned.shape[1] * net.stride != x.shape[1]:
    raise UserError(
      f"the aligned sequence has {aligned.shape[1]} steps for {x.shape[1]} of the signal: "
      f"the strides need {x.shape[1] // net.stride}"
    )


def _check_given(name: str, value, *, wanted: bool, setting: str | None = None) -> None:
  setting = setting or name
  if wanted and value is None:
    raise UserError(f"the network was built with {setting}=True: call it with {name}=")
  if value is not None and not wanted:
    raise UserError(f"the network was built with {setting}=False: leave out {name}= or turn it on")
