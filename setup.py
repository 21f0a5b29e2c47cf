"""Packaging. Lower bounds live here; the tested versions are in requirements.lock."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "noise2music/__init__.py").read_text())[1]

CORE = [
  "jax>=0.10",
  "flax>=0.12",
  "optax>=0.2.8",
  "orbax-checkpoint>=0.12.8",
  "gin-config>=0.5",
  "numpy>=2.0",
  "soundfile>=0.13",
  "soxr>=0.5",
  "sentencepiece>=0.2",
  "safetensors>=0.5",
  "msgpack>=1.1",
  "rich>=13",
  "tensorboardX>=2.6",
  "jaxtyping>=0.3",
  "tensorstore>=0.1.70",  # reads T5X checkpoints; comes with orbax as well
]
EXTRAS = {
  # Shards written by the TFDS builder, read without TensorFlow.
  "shards": ["array_record>=0.8", "tensorflow-datasets>=4.9.9"],
  # The embedded score corpus (pretty_midi brings the sound font) and the report.
  "demo": ["music21>=9.9", "pretty_midi>=0.2.10", "matplotlib>=3.9"],
  # seqio Tasks and Mixtures, building shards; VGGish's own checkpoint and TRILL.
  # sentencepiece 0.2.3 carries protobuf 7 code, which seqio imports and Beam (protobuf 6) refuses.
  "tf": ["tensorflow>=2.20", "seqio>=0.0.20", "sentencepiece<0.2.3"],
  "beam": ["apache-beam>=2.70"],
  # The TPU compiler, which needs no TPU to say what a program costs on one.
  "tpu": ["jax[tpu]>=0.10"],
  "dev": ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.9", "beartype>=0.21"],
}
EXTRAS["tf"] += EXTRAS["shards"]
# Not the TPU compiler: with it installed, jax looks for a TPU whenever it starts.
EXTRAS["all"] = sorted({need for name, extra in EXTRAS.items() if name != "tpu" for need in extra})

setup(
  name="noise2music",
  version=VERSION,
  description="Text-to-music diffusion cascades in JAX: train, run and judge them.",
  long_description=(HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  python_requires=">=3.11,<3.14",
  packages=find_packages(include=["noise2music*", "data_pipelines*", "launch*", "configs*"]),
  package_data={"configs": ["**/*.gin"]},
  install_requires=CORE,
  extras_require=EXTRAS,
  entry_points={"console_scripts": ["n2m = noise2music.cli:main"]},
)
