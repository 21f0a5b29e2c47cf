"""The Gaussian process q(x_t | x) = N(alpha x, sigma^2), and what a network may predict of it.

alpha and sigma are [batch], one level a clip, and are broadcast over the trailing axes.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from noise2music.typing import Array, Level, Signal


def expand(level: Array, like: Array) -> jax.Array:
  """[batch] -> [batch, 1, ..., 1] with as many axes as `like`."""
  level = jnp.asarray(level)
  return level.reshape(level.shape + (1,) * (like.ndim - level.ndim))


def diffuse(x: Signal, eps: Signal, *, alpha: Level, sigma: Level) -> Signal:
  """x_t = alpha x + sigma eps."""
  return expand(alpha, x) * x + expand(sigma, x) * eps


def predict_x(x_t: Signal, eps: Signal, *, alpha: Level, sigma: Level) -> Signal:
  """x = (x_t - sigma eps) / alpha, the clean signal that a predicted noise implies."""
  return (x_t - expand(sigma, x_t) * eps) / expand(alpha, x_t)


@runtime_checkable
class Prediction(Protocol):
  """What the output of the network means."""

  def target(self, x: Signal, eps: Signal, *, alpha: Level, sigma: Level) -> Signal:
    """What the output should be for x_t = alpha x + sigma eps."""

  def to_eps(self, output: Signal, x_t: Signal, *, alpha: Level, sigma: Level) -> Signal:
    """The noise that an output implies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpsPrediction:
  """The network predicts the noise eps, as the paper's does."""

  def target(self, x: Signal, eps: Signal, *, alpha: Level, sigma: Level) -> Signal:
    return eps

  def to_eps(self, output: Signal, x_t: Signal, *, alpha: Level, sigma: Level) -> Signal:
    return output


@dataclasses.dataclass(frozen=True, kw_only=True)
class XPrediction:
  """The network predicts the clean signal x: what few-step students of a distillation do best.

  An error d in x is an error d alpha / sigma in eps: at equal weight, x counts clean times
  sigma^2 / alpha^2 as much.
  """

  def target(self, x: Signal, eps: Signal, *, alpha: Level, sigma: Level) -> Signal:
    return x

  def to_eps(self, output: Signal, x_t: Signal, *, alpha: Level, sigma: Level) -> Signal:
    return (x_t - expand(alpha, x_t) * output) / expand(sigma, x_t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPrediction:
  """The network predicts v = alpha eps - sigma x (Salimans and Ho, 2022, appendix D).

  Then eps = alpha v + sigma x_t and x = alpha x_t - sigma v, with no division at either end; a
  small network learns it faster, as near t = 1 it need not copy its input. An error d in v is an
  error alpha d in eps, so at equal weight v counts noisy times 1 / alpha^2 as much.
  """

  def target(self, x: Signal, eps: Signal, *, alpha: Level, sigma: Level) -> Signal:
    return expand(alpha, x) * eps - expand(sigma, x) * x

  def to_eps(self, output: Signal, x_t: Signal, *, alpha: Level, sigma: Level) -> Signal:
    return expand(alpha, x_t) * output + expand(sigma, x_t) * x_t
