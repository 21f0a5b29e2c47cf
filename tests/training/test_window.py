"""Folding steps into a row: means of scalars, sums over counts, never a mean of means."""

import jax.numpy as jnp

from noise2music.training.window import Window


def test_pairs_are_added_before_they_are_divided():
  window = Window()
  window.add({"loss": jnp.float32(1.0), "loss/t_0.1": (jnp.float32(6.0), jnp.float32(3.0))})
  window.add({"loss": jnp.float32(3.0), "loss/t_0.1": (jnp.float32(10.0), jnp.float32(1.0))})
  # The mean of the means would be (2 + 10) / 2.
  assert window.flush() == {"loss": 2.0, "loss/t_0.1": 4.0}


def test_a_pair_that_counted_nothing_has_no_figure():
  window = Window()
  window.add({"loss": jnp.float32(1.0), "loss/t_0.9": (jnp.float32(0.0), jnp.float32(0.0))})
  assert window.flush() == {"loss": 1.0}


def test_flush_begins_a_new_window():
  window = Window()
  window.add({"loss": jnp.float32(1.0)})
  window.flush()
  window.add({"loss": jnp.float32(5.0)})
  assert len(window) == 1
  assert window.flush() == {"loss": 5.0}
