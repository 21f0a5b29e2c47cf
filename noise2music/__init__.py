"""noise2music: train, run and judge text-to-music diffusion cascades in JAX."""

__version__ = "0.1.0"
