"""These networks are tiny and run once: compiling them is the cost, so it is kept light."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _light_compilation():
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)
