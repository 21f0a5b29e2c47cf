"""What the gradient of a block keeps of its forward pass, where it does not keep everything."""

import jax
from jax.ad_checkpoint import checkpoint_name

from noise2music.typing import Array

_KEPT = "kept"


def keep(x: Array) -> jax.Array:
  """x, marked as dear to compute again."""
  return checkpoint_name(x, _KEPT)


POLICY = jax.checkpoint_policies.save_only_these_names(_KEPT)
