"""Logical axis names: what every dimension of every parameter and activation is called.

Modules name axes; a table in the configuration maps names to mesh axes (`sharding/`). Parameters
come out of `init` boxed with their names: `flax.linen.get_partition_spec(variables)` reads them,
`flax.linen.meta.unbox(variables)` gives the bare arrays, and `apply` takes either.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from noise2music.typing import Array

# Activations.
BATCH = "batch"
TIME = "time"
# Activations, and parameters that hold one number a channel (biases, norm scales).
CHANNELS = "channels"
# Parameters. Input and output channels differ in name, so that either can be sharded alone.
TAPS = "taps"  # positions of a convolution kernel
CHANNELS_IN = "channels_in"
CHANNELS_OUT = "channels_out"
EMBEDDING = "embedding"  # diffusion time, positional or after its linear layer
TEXT_WIDTH = "text_width"
HEADS = "heads"
HEAD_WIDTH = "head_width"
HIDDEN = "hidden"  # of the residual layer after an attention
LAYERS = "layers"  # the leading axis of stacked blocks
PARAMETERS = "parameters"  # whichever axis of a parameter is split among devices besides

Initializer = Callable[..., jax.Array]

kernel_init = nn.initializers.lecun_normal()
zeros_init = nn.initializers.zeros_init()
ones_init = nn.initializers.ones_init()


def identity_init(key: jax.Array, shape: tuple[int, int], dtype=jnp.float32) -> jax.Array:
  """The identity matrix, for a layer that should pass its input on at first."""
  del key
  return jnp.eye(*shape, dtype=dtype)


class Named(nn.LogicallyPartitioned):
  """A parameter with its axis names, which constrain nothing when it is read.

  Flax's own box pins a value to the mesh on reading; DenseGeneral reads its kernel flattened, in a
  rank that the names do not fit. `sharding/` places parameters, so nothing is lost.
  """

  def unbox(self, apply_constraint: bool = True) -> Any:
    del apply_constraint
    return self.value


def named(init: Initializer, *names: str) -> Initializer:
  """`init`, its result boxed with one logical name for each dimension."""

  def boxed(*args, **kwargs) -> Named:
    return Named(init(*args, **kwargs), names)

  return boxed


def shards(name: str) -> int:
  """Among how many devices the rules in force split an axis; 1 without rules or a mesh."""
  axes = dict(nn.get_logical_axis_rules()).get(name) or ()
  sizes = jax.sharding.get_abstract_mesh().shape
  return math.prod(sizes.get(axis, 1) for axis in ((axes,) if isinstance(axes, str) else axes))


def constrain(x: jax.Array) -> jax.Array:
  """Pins an activation [batch, time, channels] to its logical axes; nothing without a mesh."""
  time = TIME if x.shape[1] % shards(TIME) == 0 else None
  return nn.with_logical_constraint(x, (BATCH, time, CHANNELS))


def gathered(weights: Array) -> Array:
  """Weights that the rules split among devices, whole on each of them for this one use.

  Left to itself the compiler may split signals as the weights are, and move those. Within a scan
  only one block's weights are whole at a time. Where their gradient lies is left to the update.
  """
  return _whole(weights) if shards(PARAMETERS) > 1 else weights


@jax.custom_vjp
def _whole(weights: Array) -> jax.Array:
  return jax.lax.with_sharding_constraint(weights, PartitionSpec())


_whole.defvjp(lambda weights: (_whole(weights), None), lambda _, gradient: (gradient,))
