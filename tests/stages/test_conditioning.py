import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from noise2music.stages.conditioning import Combine, Text, network_inputs

ROWS = np.array([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]], [[5.0, 6.0], [9.0, 9.0], [9.0, 9.0]]])
MASK = np.array([[True, True, False], [True, False, False]])


def _text(keep: list[bool]) -> Text:
  return Text(embedding=jnp.asarray(ROWS, jnp.float32), mask=MASK, keep=jnp.array(keep))


def test_pooled_text_is_the_mean_over_real_tokens() -> None:
  np.testing.assert_allclose(_text([True, True]).pooled(), [[2, 3], [5, 6]])


def test_dropped_text_pools_to_zero() -> None:
  np.testing.assert_allclose(_text([True, False]).pooled(), [[2, 3], [0, 0]])


def test_combined_text_steers_the_network_and_dropped_text_does_not() -> None:
  conditions = {"text": tiny.text(), "text_pooled": Combine()}
  network = tiny.network(combine=True, cross_attention=(False, True))
  objective = tiny.objective("waveform_generator", network=network, conditions=conditions)
  x_t, t = jnp.ones((2, 64, 1)), jnp.full((2,), 0.5)

  def output(params, text: Text) -> np.ndarray:
    inputs, entries = network_inputs(
      x_t, conditions=objective.stage.conditions, signals={}, text=text
    )
    return network.apply(params, inputs, t, **entries)

  inputs, entries = network_inputs(x_t, conditions=conditions, signals={}, text=_text([True, True]))
  assert entries["embedding"].shape == (2, 2)
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), inputs, t, **entries))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.3, s.dtype), shapes)
  heard = output(params, _text([True, True]))
  assert np.abs(heard[0] - heard[1]).max() > 1e-3, "the rows differ in nothing but their text"
  dropped = output(params, _text([False, False]))
  np.testing.assert_allclose(dropped[0], dropped[1], atol=1e-5)


def test_combine_needs_the_text_beside_it() -> None:
  stage = tiny.objective("super_resolution").stage
  with pytest.raises(ValueError, match="beside it"):
    dataclasses.replace(
      stage,
      network=tiny.network(combine=True),
      conditions={**stage.conditions, "text_pooled": Combine()},
    )
