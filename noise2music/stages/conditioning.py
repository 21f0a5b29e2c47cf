"""How a stage listens: each condition names its source and the entry of the network it takes.

  CrossAttention  a text sequence, hidden for a share of each training batch
  Stacked         a signal, up-sampled to the target's rate, as extra input channels
  Aligned         a signal at the rate of the bottom of the U, added there
  Combine         a vector a clip (the mean of the text embedding), added to the time embedding

`network_inputs` is the one place where conditions become keyword arguments of the network.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from noise2music import typing as n2m
from noise2music.audio import blur
from noise2music.audio.framing import fit
from noise2music.audio.resample import resample
from noise2music.diffusion.noise_augment import NoiseAugment  # noqa: F401  (an augmentation)
from noise2music.stages.representations import Representation

# An augmentation corrupts a conditioning signal in training: (signal, keys [batch]) -> signal.
Augmentation = Callable[[n2m.Signal, n2m.Keys], n2m.Signal]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossAttention:
  """Text. dropout: the share of clips trained without it, which guidance needs (paper, 4.1)."""

  token_length: int = 64
  dropout: float = 0.1

  def __post_init__(self):
    if not 0 <= self.dropout < 1 or self.token_length < 2:
      raise ValueError(f"dropout must lie in [0, 1) and token_length be at least 2, got {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stacked:
  """A signal brought to the target's rate by FFT and given as extra input channels."""

  source: Representation
  augmentations: tuple[Augmentation, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Aligned:
  """A signal whose rate is the target's divided by the network's strides: added at the bottom."""

  source: Representation
  augmentations: tuple[Augmentation, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Combine:
  """The mean of the text embedding over its tokens, added to the time embedding."""


Condition = CrossAttention | Stacked | Aligned | Combine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blur1D:
  """Gaussian blur along time, with a standard deviation (in steps) drawn for each clip."""

  size: int = 10
  std_min: float = 0.1
  std_max: float = 5.0

  def __call__(self, x: n2m.Signal, keys: n2m.Keys) -> n2m.Signal:
    return blur.gaussian_blur_1d(x, _draw_std(keys, self.std_min, self.std_max), size=self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blur2D:
  """Gaussian blur along time and mel band, with a standard deviation drawn for each clip."""

  size: int = 5
  std_min: float = 0.2
  std_max: float = 1.0

  def __call__(self, x: n2m.Signal, keys: n2m.Keys) -> n2m.Signal:
    return blur.gaussian_blur_2d(x, _draw_std(keys, self.std_min, self.std_max), size=self.size)


def _draw_std(keys: n2m.Keys, low: float, high: float) -> n2m.Level:
  return jax.vmap(lambda key: jax.random.uniform(key, (), minval=low, maxval=high))(keys)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
  """A batch of embedded texts. keep: False where a row is to be treated as having no text."""

  embedding: n2m.TextEmbedding
  mask: n2m.Mask
  keep: Bool[n2m.Array, "batch"]

  def pooled(self) -> Float[jax.Array, "batch width"]:
    """The mean over real tokens; zero where the text is dropped."""
    weight = (self.mask & self.keep[:, None]).astype(self.embedding.dtype)[..., None]
    return jnp.sum(self.embedding * weight, 1) / jnp.maximum(jnp.sum(weight, 1), 1)


def _text_of(_, leaves) -> Text:
  """jax also makes trees of other things than arrays, such as what a program says of its arguments:
  they pass the constructor by."""
  text = object.__new__(Text)
  for field, leaf in zip(dataclasses.fields(Text), leaves, strict=True):
    object.__setattr__(text, field.name, leaf)
  return text


jax.tree_util.register_pytree_with_keys(
  Text,
  lambda text: (
    [(jax.tree_util.GetAttrKey(f.name), getattr(text, f.name)) for f in dataclasses.fields(text)],
    None,
  ),
  _text_of,
)


def align_signal(
  signal: n2m.Signal,
  *,
  condition: Condition,
  target: Representation,
  steps: int,
  stride: int,
  resampling: Callable[..., jax.Array] = resample,
) -> Float[n2m.Array, "batch _ channels"]:
  """Brings a conditioning signal to the length at which the network takes it.

  signal: [batch, time, channels] at the condition's own rate. steps: the padded length of the
  target. resampling: `audio.resample.resample`, or another of its form. Returns [batch, steps,
  channels] for Stacked, [batch, steps // stride, channels] for Aligned.
  """
  match condition:
    case Stacked(source=source):
      if source.rate_hz != target.rate_hz:
        along_time = jnp.swapaxes(signal, 1, 2)
        along_time = resampling(along_time, from_hz=source.rate_hz, to_hz=target.rate_hz)
        signal = jnp.swapaxes(along_time, 1, 2)
      return fit(signal, steps, axis=1)
    case Aligned():
      return fit(signal, steps // stride, axis=1)
  raise TypeError(f"{condition} takes no signal")


def augment(
  signals: Mapping[str, n2m.OtherSignal], *, conditions: Mapping[str, Condition], keys: n2m.Keys
) -> dict[str, n2m.OtherSignal]:
  """Training only: applies each condition's augmentations, keyed by clip, name and order."""
  out = {}
  for source_index, (name, signal) in enumerate(sorted(signals.items())):
    for index, corrupt in enumerate(conditions[name].augmentations):
      signal = corrupt(signal, fold_each(keys, 16 * source_index + index))
    out[name] = signal
  return out


def fold_each(keys: n2m.Keys, data: int | jax.Array) -> n2m.Keys:
  """Folds one number into each of a batch of keys."""
  return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def network_inputs(
  x_t: n2m.Signal,
  *,
  conditions: Mapping[str, Condition],
  signals: Mapping[str, n2m.OtherSignal],
  text: Text | None,
) -> tuple[Float[n2m.Array, "batch time _"], dict[str, n2m.Array]]:
  """The noisy signal with its stacked channels, and the network's other entries by keyword."""
  stacked, entries = [x_t], {}
  for name, condition in sorted(conditions.items()):
    match condition:
      case Stacked():
        stacked.append(signals[name])
      case Aligned():
        entries["aligned"] = signals[name]
      case CrossAttention():
        entries |= {"text": text.embedding, "text_mask": text.mask, "text_keep": text.keep}
      case Combine():
        entries["embedding"] = text.pooled()
  return jnp.concatenate(stacked, axis=-1), entries
