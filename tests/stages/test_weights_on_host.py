"""Weights that lie on the host: on the device only while their stage runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cascade import WAVEFORM, cascade

pytestmark = pytest.mark.usefixtures("light_compilation")

PROMPTS = ["a tune", "a song", "a jig"]


def _on_device(params: list) -> set[str]:
  """Names of the stages one of whose kernels is among the arrays that jax holds."""
  kernels = [max(jax.tree.leaves(tree["network"]), key=np.size) for tree in params]
  return {
    name
    for name, kernel in zip(WAVEFORM, kernels, strict=True)
    for array in jax.live_arrays()
    if array.shape == kernel.shape and np.array_equal(array, kernel)
  }


def test_weights_of_a_stage_are_freed_before_the_next() -> None:
  stages, params = cascade(WAVEFORM)
  seen = []

  def look(name: str, first: int, clips: int) -> None:
    seen.append((name, first, _on_device(params)))

  stages.generate(params, PROMPTS, seeds=[1, 2, 3], seconds=0.3, batch_size=2, on_stage=look)
  assert seen == [(name, first, {name}) for name in WAVEFORM for first in (0, 2)]
  assert _on_device(params) == set(), "the last one's too"


def test_weights_on_the_host_and_on_the_device_give_the_same_clips() -> None:
  stages, params = cascade(WAVEFORM)
  asked = {"seeds": [1, 2, 3], "seconds": 0.3, "batch_size": 2}
  on_host = stages.generate(params, PROMPTS, **asked)
  placed = [jax.tree.map(jnp.asarray, tree) for tree in params]
  on_device = stages.generate(placed, PROMPTS, **asked)
  for name in WAVEFORM:
    np.testing.assert_array_equal(on_host[name], on_device[name])
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(placed)), "what was there stays"
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(params))
