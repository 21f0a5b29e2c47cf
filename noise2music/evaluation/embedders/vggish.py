"""VGGish (Hershey et al., 2017, arXiv 1609.09430), whose vectors FAD was defined with.

Front-end and network are those of tensorflow/models `research/audioset/vggish`: magnitudes of
25 ms windows every 10 ms, 64 mel bands, ln(mel + 0.01), patches of 96 frames, a convolutional
network. How clips are levelled and cut differs between implementations and moves the score, so
that is a value: `TFHUB` or `GOOGLE`.

The front-end runs in numpy on the host, in float64 as the released code: it costs a few seconds an
hour of audio, and what it gives for a clip cannot depend on other clips.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from noise2music.audio.log_mel import hz_to_mel
from noise2music.errors import UserError
from noise2music.evaluation.embedders.encoder import checked
from noise2music.sharding.rows import in_batches, on_every_device
from noise2music.typing import Array, PyTree

SAMPLE_RATE_HZ = 16_000
WINDOW, HOP, FFT_SIZE = 400, 160, 512  # samples: 25 ms, 10 ms
BANDS, MIN_HZ, MAX_HZ = 64, 125.0, 7_500.0
LOG_OFFSET = 0.01
PATCH_FRAMES = 96
WIDTH = 128
_FRAMES_AT_ONCE = 8_192  # bounds the memory that a long clip takes

# Shapes of the kernels, [height, width, in, out] or [in, out], in the order of the layers.
LAYERS: Mapping[str, tuple[int, ...]] = MappingProxyType(
  {
    "conv1": (3, 3, 1, 64),
    "conv2": (3, 3, 64, 128),
    "conv3_1": (3, 3, 128, 256),
    "conv3_2": (3, 3, 256, 256),
    "conv4_1": (3, 3, 256, 512),
    "conv4_2": (3, 3, 512, 512),
    "fc1_1": (6 * 4 * 512, 4096),
    "fc1_2": (4096, 4096),
    "fc2": (4096, WIDTH),
  }
)
_POOLED = ("conv1", "conv2", "conv3_2", "conv4_2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class VGGishProtocol:
  """How a clip becomes patches, and which layer is read.

  name: as a user types it. window_samples: a patch is made of the first 96 frames of so many
  samples, all of which must be there. step_samples: from one window to the next, whole hops.
  least_peak: the clip is divided by its highest sample, but by no less than this (full scale is 1);
  None leaves the level alone. final_relu: read the last layer after a ReLU, as torchvggish and the
  release of 2017 did.
  """

  name: str
  window_samples: int
  step_samples: int
  least_peak: float | None = None
  final_relu: bool = False

  def __post_init__(self):
    if self.window_samples < _SHORTEST or self.step_samples < HOP or self.step_samples % HOP:
      raise UserError(
        f"VGGish needs windows of at least {_SHORTEST} samples and steps in multiples of {HOP}, not"
        f" {self.window_samples} and {self.step_samples}"
      )
    if self.least_peak is not None and not self.least_peak > 0:
      raise UserError(f"VGGish divides by a least peak above 0, not by {self.least_peak}")

  def __str__(self) -> str:
    rate = SAMPLE_RATE_HZ
    level = "level as it is"
    if self.least_peak is not None:
      level = f"divided by the highest sample (at least {self.least_peak:.3g})"
    return (
      f"{self.name}: {rate} Hz, {level}, windows of {self.window_samples / rate:g} s every"
      f" {self.step_samples / rate:g} s, patches of {PATCH_FRAMES * HOP / rate:g} s, fc2"
      f" {'after' if self.final_relu else 'before'} its ReLU"
    )

  def patches(self, clip: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "patches 96 64"]:
    """float32; none for a clip shorter than the window."""
    count = 1 + (len(clip) - self.window_samples) // self.step_samples
    if count < 1:
      return np.zeros((0, PATCH_FRAMES, BANDS), np.float32)
    if self.least_peak is not None:
      # The highest, not the largest by magnitude: so the original has it.
      clip = clip / max(self.least_peak, float(clip.max()))
    # A step is whole hops, so the frames of a window are frames of the clip.
    frames = log_mel(clip)
    starts = np.arange(count) * (self.step_samples // HOP)
    return frames[starts[:, None] + np.arange(PATCH_FRAMES)]


_SHORTEST = WINDOW + (PATCH_FRAMES - 1) * HOP
# tfhub.dev/google/vggish/1, which fadtk and others agree with: patches that do not overlap.
TFHUB = VGGishProtocol(name="tfhub", window_samples=_SHORTEST, step_samples=PATCH_FRAMES * HOP)
# google-research/frechet_audio_distance, with its step of 0.5 s. It reads wav files of 16 bit
# without scaling them, so its least divisor of 0.1 is a tenth of one step of 32,768.
GOOGLE = VGGishProtocol(
  name="google", window_samples=16_000, step_samples=8_000, least_peak=0.1 / 32_768
)
PROTOCOLS: Mapping[str, VGGishProtocol] = MappingProxyType({p.name: p for p in (TFHUB, GOOGLE)})


def log_mel(clip: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "frames 64"]:
  """float32 [1 + (samples - 400) // 160, 64] of 16 kHz audio: ln(mel + 0.01).

  Frame i is the magnitude spectrum of samples [160 i, 160 i + 400) under a periodic Hann window;
  what does not fill a frame is dropped.
  """
  clip = np.asarray(clip, np.float64)
  count = max(0, 1 + (len(clip) - WINDOW) // HOP)
  out = np.empty((count, BANDS), np.float32)
  if count:
    framed = np.lib.stride_tricks.sliding_window_view(clip, WINDOW)[::HOP]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    for start in range(0, count, _FRAMES_AT_ONCE):
      part = slice(start, min(count, start + _FRAMES_AT_ONCE))
      magnitude = np.abs(np.fft.rfft(framed[part] * hann, FFT_SIZE))
      out[part] = np.log(magnitude @ mel_matrix() + LOG_OFFSET)
  return out


@functools.cache
def mel_matrix() -> Float[np.ndarray, "257 64"]:
  """Triangles of height 1, linear in mel; the row of 0 Hz is zero."""
  edges = np.linspace(hz_to_mel(MIN_HZ), hz_to_mel(MAX_HZ), BANDS + 2)
  bins = hz_to_mel(np.linspace(0, SAMPLE_RATE_HZ / 2, FFT_SIZE // 2 + 1))[:, None]
  rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
  out = np.maximum(0.0, np.minimum(rising, falling))
  out[0] = 0
  out.flags.writeable = False
  return out


class VGGishNetwork(nn.Module):
  """Log-mel patches [n, 96, 64] -> [n, 128], float32 throughout.

  Configuration A of VGG with four stages: 3 x 3 convolutions with ReLU, maxima over 2 x 2, then
  three dense layers on what is flattened as [time, band, channel].
  """

  final_relu: bool = False

  @nn.compact
  def __call__(self, log_mel: Float[Array, "n 96 64"]) -> Float[Array, "n 128"]:
    x = log_mel[..., None]
    # Accelerators would multiply in fewer bits, which moves the vectors by more than a thousandth.
    highest = jax.lax.Precision.HIGHEST
    for name, shape in LAYERS.items():
      if name.startswith("conv"):
        x = nn.Conv(shape[-1], (3, 3), padding="SAME", precision=highest, name=name)(x)
      else:
        x = x.reshape(len(x), shape[0])
        x = nn.Dense(shape[-1], precision=highest, name=name)(x)
      if name != "fc2" or self.final_relu:
        x = nn.relu(x)
      if name in _POOLED:
        x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
    return x


def canonical(params: PyTree) -> Iterator[tuple[str, np.ndarray]]:
  """(`conv1/kernel`, float32) and so on, in the order of the layers, kernel before bias."""
  for layer in LAYERS:
    for name in ("kernel", "bias"):
      yield f"{layer}/{name}", np.ascontiguousarray(params[layer][name], np.float32)


def weights_fingerprint(params: PyTree) -> str:
  """12 hexadecimal digits of the sha256 of all names, shapes and values: the same for the same
  weights, whichever file they came from."""
  digest = hashlib.sha256()
  for name, array in canonical(params):
    digest.update(f"{name} {list(array.shape)}\n".encode())
    digest.update(array.astype("<f4", copy=False).data)
  return digest.hexdigest()[:12]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VGGish:
  """An `AudioEncoder`. params: as `vggish_weights.load_vggish` gives them. variant: of how clips
  are cut. batch_size: patches at once; the last batch of a call is filled up, so give many clips.
  """

  params: PyTree
  variant: VGGishProtocol = TFHUB
  batch_size: int = 32
  name: str = "vggish"

  width: ClassVar[int] = WIDTH
  sample_rate_hz: ClassVar[int] = SAMPLE_RATE_HZ

  def __post_init__(self):
    if self.batch_size < 1:
      raise UserError(f"VGGish needs at least one patch at once, not {self.batch_size}")

  @property
  def protocol(self) -> str:
    return str(self.variant)

  @property
  def shortest_seconds(self) -> float:
    return self.variant.window_samples / SAMPLE_RATE_HZ

  @functools.cached_property
  def fingerprint(self) -> str:
    return weights_fingerprint(self.params)

  def embed(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    patches = [self.variant.patches(clip) for clip in checked(clips, self)]
    if not patches:
      return []
    batches = in_batches(np.concatenate(patches), size=self.batch_size)
    # One shape for all: a patch then gets the same vector, to the bit, whatever it lies beside.
    relu = self.variant.final_relu
    rows = np.concatenate([np.asarray(_run(self._params, *part, relu)) for part in batches])
    ends = np.cumsum([len(of_clip) for of_clip in patches])
    return np.split(rows[: ends[-1]], ends[:-1])

  @functools.cached_property
  def _params(self) -> PyTree:
    return on_every_device(self.params)


@functools.partial(jax.jit, static_argnums=2)
def _run(params: PyTree, patches: jax.Array, final_relu: bool) -> jax.Array:
  return VGGishNetwork(final_relu=final_relu).apply({"params": params}, patches)
