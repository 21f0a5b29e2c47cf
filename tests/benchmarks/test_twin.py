"""The network that our speed is compared with computes what ours computes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip(
  "torch", reason="compares with torch: pip install -r benchmarks/requirements.txt"
)

import torch

from benchmarks.peers import task
from benchmarks.peers.twin import UNet, shape_of


def test_the_twin_gives_the_same_numbers_for_the_same_weights(light_compilation) -> None:
  net = dataclasses.replace(task.OURS, base_width=80, width_multipliers=(1, 1, 1), blocks=2)
  keys = jax.random.split(jax.random.key(0), 4)
  x = jax.random.normal(keys[0], (3, 48, task.BANDS))
  text = jax.random.normal(keys[1], (3, 5, task.TEXT_WIDTH))
  t, keep = jnp.array([0.1, 0.5, 0.9]), jnp.array([True, False, True])
  params = nn.meta.unbox(jax.jit(net.init)(keys[2], x, t, text=text))["params"]
  # Fresh weights are zero or the identity in places, where a mistake would not show.
  leaves, tree = jax.tree.flatten(params)
  shake = zip(leaves, jax.random.split(keys[3], len(leaves)), strict=True)
  params = tree.unflatten([a + 0.1 * jax.random.normal(k, a.shape) for a, k in shake])

  twin = UNet(**shape_of(net))
  assert sum(p.numel() for p in twin.parameters()) == sum(a.size for a in jax.tree.leaves(params))
  twin.from_flax(params)
  as_torch = lambda a: torch.tensor(np.asarray(a))  # noqa: E731
  with torch.no_grad():
    theirs = twin(as_torch(x).transpose(1, 2), *map(as_torch, (t, text, keep))).transpose(1, 2)
  ours = jax.jit(net.apply)({"params": params}, x, t, text=text, text_keep=keep)
  assert float(jnp.std(ours)) > 0.1
  np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-3, atol=1e-3 * float(jnp.std(ours)))
