"""Equal blocks in a row, scanned or unrolled, with one and the same parameter tree.

The parameters of `count` blocks are stacked along a leading axis (`axes.LAYERS`). Scanned, a
program holds one block, without which a full-size network does not compile in minutes; unrolled,
XLA on a CPU computes gradients eleven times faster. So which it is follows the platform and the
depth, and a checkpoint does not know.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from noise2music.nn.axes import LAYERS
from noise2music.nn.platform import platform
from noise2music.nn.remat import POLICY
from noise2music.typing import PyTree, Signal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scanned:
  """One `lax.scan` over the blocks. remat: the gradient keeps what `remat.keep` marks, no more."""

  remat: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unrolled:
  """One block after the other. remat: as for `Scanned`."""

  remat: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Auto:
  """`on_cpu` in programs for a CPU. In those for accelerators `first` at a network's first depth,
  where most of the work is and the copies that a scan makes of long signals would add a fifth to
  it, and `elsewhere` at the others.
  """

  on_cpu: Unrolled | Scanned = Unrolled()
  first: Unrolled | Scanned = Unrolled(remat=True)
  elsewhere: Unrolled | Scanned = Scanned()

  def at(self, depth: int) -> Unrolled | Scanned:
    """depth: of the network, from 1."""
    if platform() == "cpu":
      return self.on_cpu
    return self.first if depth == 1 else self.elsewhere


Stacking: TypeAlias = Auto | Scanned | Unrolled


class Stack(nn.Module):
  """`count` blocks, each made by `block(name=...)` and called as `block(x, inputs) -> x`."""

  block: Callable[..., nn.Module]
  count: int
  stacking: Scanned | Unrolled

  @nn.compact
  def __call__(self, x: Signal, inputs: PyTree) -> Signal:
    # A scan makes the parameters in either case, so both start from the same numbers.
    if isinstance(self.stacking, Scanned) or self.is_initializing():
      return self._scanned(x, inputs, remat=self.stacking.remat)
    return self._unrolled(x, inputs, remat=self.stacking.remat)

  def _scanned(self, x: Signal, inputs: PyTree, *, remat: bool) -> Signal:
    def step(block: nn.Module, x: Signal, inputs: PyTree):
      return block(x, inputs), None

    if remat:
      step = nn.remat(step, prevent_cse=False, policy=POLICY)
    scan = nn.scan(
      step,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=self.count,
      metadata_params={nn.PARTITION_NAME: LAYERS},
    )
    x, _ = scan(self.block(name="blocks"), x, inputs)
    return x

  def _unrolled(self, x: Signal, inputs: PyTree, *, remat: bool) -> Signal:
    block = self.block(parent=None, name=None)
    step = lambda params, x: block.apply({"params": params}, x, inputs)  # noqa: E731
    if remat:
      step = jax.checkpoint(step, policy=POLICY)
    stacked, tree = jax.tree.flatten(nn.meta.unbox(self.variables["params"]["blocks"]))
    # unstack, for its gradient is one concatenation; that of indexing pads and adds every slice.
    for k, leaves in enumerate(zip(*map(jnp.unstack, stacked), strict=True)):
      with jax.named_scope(f"block_{k}"):
        x = step(tree.unflatten(leaves), x)
    return x
