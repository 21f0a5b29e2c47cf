"""noise2music: train, run and judge text-to-music diffusion cascades in JAX."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Pipeline"]


def __getattr__(name: str) -> Any:
  # On first use, so that importing the package costs nothing.
  if name == "Pipeline":
    from noise2music.pipeline import Pipeline

    return Pipeline
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
