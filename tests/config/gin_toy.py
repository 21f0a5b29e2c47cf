"""Constructors that the gin tests bind: a dataclass, linen modules, a function handed on."""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn

from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
  size: int = 3
  tags: Sequence[str] = ()

  def __post_init__(self):
    if self.size < 1:
      raise UserError(f"size is {self.size}: give at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Root:
  model_dir: str
  inner: Inner
  other: Inner | None = None
  rate: float = 0.5
  network: nn.Module | None = None
  callback: Callable | None = None


def scale(x, *, factor=2):
  return x * factor


class Block(nn.Module):
  width: int
  strides: Sequence[int] = (1,)

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.width, name="dense")(x)


class Network(nn.Module):
  block: nn.Module
  width: int = 4

  @nn.compact
  def __call__(self, x):
    x = self.block(nn.Dense(self.width, name="first")(x))
    return self.block.clone(parent=self, name="again")(x)
