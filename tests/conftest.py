"""Fixtures for tests of any room; array shapes and types are checked in all of them."""

from jaxtyping import install_import_hook

# Before anything of it is imported: each annotated call then refuses an array of another shape.
install_import_hook("noise2music", "type_checks.check")

import subprocess  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def unchecked() -> Iterator[None]:
  """For settings of a wrong type, as gin files may hold them: the package itself refuses them."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def light_compilation() -> Iterator[None]:
  """For networks that are tiny and run once: compiling them is the cost, so it is kept light."""
  before = jax.config.read("jax_disable_most_optimizations")
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
  """A file system of two megabytes, where one may be mounted."""
  disk = tmp_path / "disk"
  disk.mkdir()
  mounted = subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True
  )
  if mounted.returncode:
    pytest.skip("only root may mount a small disk")
  yield disk
  subprocess.run(["umount", disk], check=True)
