"""Fixtures for tests of any room."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def light_compilation() -> Iterator[None]:
  """For networks that are tiny and run once: compiling them is the cost, so it is kept light."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)
