"""Array aliases with their shapes, and the protocols at which rooms meet.

Axis names used everywhere: `batch`, `samples` (audio samples), `frames` (spectrogram frames),
`bands` (mel bands), `time` (the length axis of a network, samples or frames), `channels`,
`tokens`, `width` (of a text embedding).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, SupportsIndex, TypeAlias, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, PRNGKeyArray, UInt
from jaxtyping import Key as TypedKey

Array: TypeAlias = jax.Array | np.ndarray
Key: TypeAlias = PRNGKeyArray
Keys: TypeAlias = TypedKey[Array, "batch"]  # one a clip
PyTree: TypeAlias = Any
Batch: TypeAlias = Mapping[str, Array]  # names, dtypes and shapes: noise2music/batch.py

Waveform: TypeAlias = Float[Array, "*batch samples"]  # mono, in [-1, 1]
LogMel: TypeAlias = Float[Array, "*batch frames bands"]  # in [-1, 1]
Signal: TypeAlias = Float[Array, "batch time channels"]  # what a network denoises
OtherSignal: TypeAlias = Float[Array, "batch _ _"]  # of another length or width than the Signal
Pieces: TypeAlias = Float[Array, "rows _ _"]  # a Signal cut along time, pieces of a clip in a row
Level: TypeAlias = Float[Array, "batch"]  # one diffusion time, alpha, sigma or log-SNR a clip
TextEmbedding: TypeAlias = Float[Array, "batch tokens width"]
Tokens: TypeAlias = Int[Array, "batch tokens"]
Mask: TypeAlias = Bool[Array, "batch tokens"]
ClipId: TypeAlias = UInt[Array, "batch 2"]

# eps(x_t, t): the noise in x_t at diffusion time t. Clipping maps EpsFn -> EpsFn; guidance makes
# one of the predictions with the condition and without.
EpsFn: TypeAlias = Callable[[Signal, Level], Signal]


@runtime_checkable
class NoiseSchedule(Protocol):
  """alpha(t), sigma(t), logsnr(t) for diffusion times t in [0, 1]; 0 is data, 1 is noise.

  q(x_t | x) = N(alpha x, sigma^2), alpha^2 + sigma^2 = 1, logsnr = ln(alpha^2 / sigma^2).
  Each takes and returns arrays of any one shape.
  """

  def alpha(self, t: Array) -> Array: ...

  def sigma(self, t: Array) -> Array: ...

  def logsnr(self, t: Array) -> Array: ...


@runtime_checkable
class Tokenizer(Protocol):
  """Text to token ids: 0 pads, 1 ends (the convention of T5)."""

  @property
  def vocab_size(self) -> int: ...

  def encode(self, text: str, *, limit: int | None = None) -> list[int]:
    """Ids of `text` without an end; at most `limit`, cut where a character ends."""

  def decode(self, ids: Iterable[SupportsIndex]) -> str: ...

  def fingerprint(self) -> str:
    """Differs where the same text gets other ids; stays when a file moves."""


@runtime_checkable
class Objective(Protocol):
  """What the training loop needs from anything it trains."""

  def init(self, key: Key, batch: Batch) -> PyTree:
    """Fresh parameters for batches shaped like `batch`."""

  def loss(self, params: PyTree, batch: Batch, key: Key) -> tuple[jax.Array, Mapping[str, Any]]:
    """Scalar float32 loss, and a mapping of name -> Array to log."""

  def trainable(self, params: PyTree) -> PyTree:
    """A tree of booleans like `params`: False where the optimizer must not touch."""


@runtime_checkable
class BatchSource(Protocol):
  """Batches as a pure function of the step: restarting at step k gives the k-th batch again."""

  def batches(self, start_step: int = 0) -> Iterator[Mapping[str, np.ndarray]]: ...
