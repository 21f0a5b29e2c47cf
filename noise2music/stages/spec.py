"""A stage is a value: what differs between the models of the cascade is data, not code."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from noise2music import typing as n2m
from noise2music.audio.framing import padded_length
from noise2music.diffusion.gaussian import EpsPrediction
from noise2music.diffusion.losses import SimplifiedWeight
from noise2music.diffusion.samplers import Ancestral, Sampler
from noise2music.diffusion.time_steps import UniformSteps
from noise2music.diffusion.windows import Windows
from noise2music.stages.conditioning import Aligned, Combine, Condition, CrossAttention, Stacked
from noise2music.stages.representations import Representation, Spectrogram, Waveform


@dataclasses.dataclass(frozen=True, kw_only=True)
class InWindows:
  """A clip that is longer than a window is denoised in windows, jointly (`diffusion.windows`).

  seconds: of a window, brought up to the network's stride; None is the length that the stage was
  trained on. overlap: of two neighbours at least, as a share of a window. at_once: windows in one
  call of the network, each of which takes memory.

  Raises ValueError, when built, on numbers that mean nothing.
  """

  seconds: float | None = None
  overlap: float = 0.25
  at_once: int = 1

  def __post_init__(self):
    if self.seconds is not None and not 0 < self.seconds < math.inf:
      raise ValueError(f"the seconds of a window must be above 0, got {self.seconds}")
    if not 0 <= self.overlap <= 0.5:
      raise ValueError(f"the overlap of windows must lie in [0, 0.5], got {self.overlap}")
    if self.at_once < 1:
      raise ValueError(f"at least one window must run at once, got {self.at_once}")

  def on(self, stage: "Stage", *, steps: int) -> Windows | None:
    """On a clip of `steps` of the stage's target; None where it is no longer than one window."""
    stride = stage.network.stride
    seconds = stage.train_seconds if self.seconds is None else self.seconds
    length = padded_length(round(seconds * stage.target.rate_hz), stride)
    if steps <= length:
      return None
    overlap = min(round(self.overlap * length), length - stride)
    return Windows(
      steps=padded_length(steps, stride),
      length=length,
      overlap=overlap,
      multiple=stride,
      at_once=self.at_once,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """How a stage is sampled (paper, Tables 3 and 7).

  time_steps: the grid from 1 to 0. sampler: the solver, with its gamma. guidance_scale: w of
  `w eps(x, text) + (1 - w) eps(x)`; 1 is no guidance. guidance_interval: (low, high) log-SNR where
  it guides; elsewhere the text alone speaks, at half the cost. guidance_rescale: in [0, 1], how
  much of the loudness that guidance adds is taken back. clip_percentile: of |x| in a clip, for
  dynamic clipping of the predicted signal; None leaves it alone. keep_low_band: every predicted
  waveform gets back the band that its low-fidelity condition holds, so that the stage adds to what
  it was given and cannot lose it. start_noise: standard deviation of the noise that sampling starts
  from; below 1 it draws nearer to the mean of what the condition allows, with less hiss. Both are
  not in the paper: they help cascaders that were trained too short. windows: how a long clip is
  made of parts; None makes it in one piece, whose memory grows with it.

  Raises ValueError, when built, on numbers that mean nothing.
  """

  time_steps: Any = UniformSteps(count=100)
  sampler: Sampler = Ancestral(gamma=0.0)
  guidance_scale: float = 1.0
  guidance_interval: tuple[float, float] | None = None
  guidance_rescale: float = 0.0
  clip_percentile: float | None = 99.5
  keep_low_band: bool = False
  start_noise: float = 1.0
  windows: InWindows | None = None

  def __post_init__(self):
    if not math.isfinite(self.guidance_scale):
      raise ValueError(f"guidance_scale must be a finite number, got {self.guidance_scale}")
    if self.guidance_interval is not None:
      object.__setattr__(self, "guidance_interval", tuple(self.guidance_interval))
      if (
        len(self.guidance_interval) != 2
        or not self.guidance_interval[0] < self.guidance_interval[1]
      ):
        raise ValueError(
          f"guidance_interval must be (low, high) log-SNR, got {self.guidance_interval}"
        )
    if not 0 <= self.guidance_rescale <= 1:
      raise ValueError(f"guidance_rescale must lie in [0, 1], got {self.guidance_rescale}")
    if self.guidance_scale == 1 and (self.guidance_interval or self.guidance_rescale):
      raise ValueError(
        "guidance_interval and guidance_rescale shape guidance, and a guidance_scale of 1 is none:"
        " raise the scale or leave them out"
      )
    if self.clip_percentile is not None and not 0 < self.clip_percentile <= 100:
      raise ValueError(
        f"clip_percentile must lie in (0, 100], or be None to leave the signal alone, got"
        f" {self.clip_percentile}"
      )
    if not 0 <= self.start_noise <= 1:
      raise ValueError(f"start_noise must lie in [0, 1], got {self.start_noise}")

  @property
  def calls(self) -> int:
    """How often the network is asked, the two of guidance counted once."""
    return self.sampler.calls(self.time_steps.count)

  def guided(self, scale: float) -> "Sampling":
    """The same with another guidance scale; with 1, what would shape guidance goes too."""
    if scale == 1:
      return dataclasses.replace(
        self, guidance_scale=1.0, guidance_interval=None, guidance_rescale=0.0
      )
    return dataclasses.replace(self, guidance_scale=scale)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Stage:
  """One diffusion model of a cascade.

  name: keys its noise and names its folder. target: what it makes. conditions: what it listens
  to, by name; `text` is the prompt, any other name is a signal made from the clip in training and
  taken from the stage before in generation. network: a module with the call and the methods of
  `nn.UNet1D`. train_seconds: length of the clips or snippets it trains on.

  Raises ValueError, when built, on settings that it could not honour.
  """

  name: str
  target: Representation
  network: Any
  noise_schedule: n2m.NoiseSchedule
  conditions: Mapping[str, Condition] = dataclasses.field(default_factory=dict)
  prediction: Any = EpsPrediction()
  loss_weight: Any = SimplifiedWeight()
  train_seconds: float = 29.44
  sampling: Sampling = Sampling()

  def __post_init__(self):
    text_kinds = {"text": CrossAttention, "text_pooled": Combine}
    for name, condition in self.conditions.items():
      if not isinstance(condition, text_kinds.get(name, Stacked | Aligned)):
        raise ValueError(
          f"stage {self.name!r}: condition {name!r} cannot be {type(condition).__name__}: text goes"
          " through CrossAttention (as 'text') or Combine (as 'text_pooled'), signals through"
          " Stacked or Aligned"
        )
    network = self.network
    problems = []
    for name, condition in self.conditions.items():
      if isinstance(condition, Aligned):
        problems.append(
          (
            self.target.rate_hz != condition.source.rate_hz * network.stride,
            f"the aligned {name!r} has {condition.source.rate_hz} steps/s, the bottom of the"
            f" network {self.target.rate_hz / network.stride:g}: the strides must multiply to"
            f" {self.target.rate_hz / condition.source.rate_hz:g}",
          )
        )
    problems += [
      (
        network.out_channels != self.target.channels,
        f"the network has {network.out_channels} output channels, its target {self.target.channels}"
        ": set UNet1D.out_channels to the latter",
      ),
      (
        network.takes_text != (self.text is not None),
        "cross-attention and a text condition go together: set UNet1D.cross_attention at some depth"
        " and conditions['text'], or neither",
      ),
      (
        network.aligned != self._has(Aligned),
        "UNet1D.aligned and an Aligned condition go together: set both or neither",
      ),
      (
        network.combine != self._has(Combine),
        "UNet1D.combine and a Combine condition go together: set both or neither",
      ),
      (
        self._has(Combine) and self.text is None,
        "the pooled text of a Combine condition needs a text condition beside it",
      ),
      (self.train_seconds <= 0, f"train_seconds must be positive, got {self.train_seconds}"),
    ]
    for made in (self.target, *(condition.source for condition in self.signals.values())):
      if isinstance(made, Spectrogram):
        log_mel = made.log_mel
        problems.append(
          (
            round(self.train_seconds * log_mel.sample_rate_hz) % log_mel.hop,
            f"train_seconds = {self.train_seconds} is no whole number of the spectrogram's frames:"
            f" give a multiple of {1 / made.rate_hz:g} s",
          )
        )
    for wrong, message in problems:
      if wrong:
        raise ValueError(f"stage {self.name!r}: {message}")
    self.check_sampling(self.sampling)

  def check_sampling(self, sampling: Sampling) -> None:
    """Raises ValueError where the stage cannot be sampled so."""
    problems = [
      (
        sampling.guidance_scale != 1 and self.text is None,
        "a guidance scale needs a text condition: add one, or set guidance_scale to 1",
      ),
      (
        sampling.keep_low_band and self.low_band is None,
        "keep_low_band needs a Stacked waveform of a lower rate than the target's",
      ),
    ]
    for wrong, message in problems:
      if wrong:
        raise ValueError(f"stage {self.name!r}: {message}")
    sampling.time_steps.times(self.noise_schedule)  # refuses a grid that leaves the schedule

  def _has(self, mechanism: type) -> bool:
    return any(isinstance(condition, mechanism) for condition in self.conditions.values())

  @property
  def text(self) -> CrossAttention | None:
    """The text condition, or None."""
    return self.conditions.get("text")

  @property
  def signals(self) -> dict[str, Stacked | Aligned]:
    """The conditions that are signals."""
    return {k: c for k, c in self.conditions.items() if isinstance(c, Stacked | Aligned)}

  @property
  def low_band(self) -> str | None:
    """The condition that is the target itself at a lower rate, or None."""
    if not isinstance(self.target, Waveform):
      return None
    lower = (
      name
      for name, condition in self.signals.items()
      if isinstance(condition, Stacked)
      and isinstance(condition.source, Waveform)
      and condition.source.rate_hz < self.target.rate_hz
    )
    return next(lower, None)
