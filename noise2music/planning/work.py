"""Floating-point operations of a traced function, loops multiplied out.

The compiler's own count takes the body of a loop once, and its networks are loops. Counted are
matrix products and convolutions, two operations for each multiply-add; everything else in these
models is a few per cent of them.
"""

import math
from collections.abc import Callable, Iterator

import jax
from jax.extend import core

from noise2music.typing import PyTree


def count_flops(function: Callable, *args: PyTree) -> float:
  """Of one call; args may be shapes. A `while` whose length is data counts once."""
  return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def residual_bytes(loss: Callable[..., jax.Array], params: PyTree, *args: PyTree) -> int:
  """What the gradient of `loss(params, *args)` keeps from its forward pass, params left out."""
  kept = jax.eval_shape(lambda p, a: jax.vjp(lambda q: loss(q, *a), p)[1], params, args)
  own = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params)}
  return sum(
    leaf.size * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(kept)
    if hasattr(leaf.dtype, "itemsize") and (leaf.shape, leaf.dtype) not in own
  )


def _flops(jaxpr) -> float:
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> float:
  match equation.primitive.name:
    case "dot_general":
      (contract, _), _ = equation.params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      return 2.0 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contract)
    case "conv_general_dilated":
      numbers = equation.params["dimension_numbers"]
      kernel = equation.invars[1].aval
      outputs = kernel.shape[numbers.rhs_spec[0]]
      # A dilated input is mostly zeros, which nobody multiplies.
      holes = math.prod(equation.params["lhs_dilation"])
      return 2.0 * equation.outvars[0].aval.size * kernel.size / outputs / holes
    case "scan":
      return equation.params["length"] * sum(map(_flops, _inner(equation)))
    case "shard_map":  # of which the shapes are those of one device
      return _parts(equation) * sum(map(_flops, _inner(equation)))
    case "cond":
      return max(map(_flops, _inner(equation)))
  return sum(map(_flops, _inner(equation)))


def _parts(equation) -> int:
  """Into how many its arguments are split; along other axes of the mesh all do the same."""
  specs, sizes = equation.params["in_specs"], equation.params["mesh"].shape
  named = {name for spec in specs for entry in spec for name in _names(entry)}
  return math.prod(sizes[name] for name in named)


def _names(entry) -> tuple[str, ...]:
  return (entry,) if isinstance(entry, str) else tuple(entry or ())


def _inner(equation) -> Iterator:
  for value in equation.params.values():
    for one in value if isinstance(value, list | tuple) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one
