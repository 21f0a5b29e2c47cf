"""What may be asked of given audio: in-painting, continuation, audio-to-audio, loops.

An edit is a value that knows nothing of stages. Each stage of a cascade is told the same in its own
terms (`Edited`): the audio as its target represents it, and which of its steps are known. The math
is in `diffusion.editing`.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Num

from noise2music import typing as n2m
from noise2music.audio.framing import fit
from noise2music.audio.recording import Recording
from noise2music.diffusion.editing import known_outside
from noise2music.errors import UserError
from noise2music.stages.conditioning import Text
from noise2music.stages.representations import Representation

FADE_SECONDS = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edited:
  """What edits come to for one stage.

  given: the audio as the stage's target represents it. keep: how much of each step of it is kept;
  None where nothing is. strength: the time at which sampling starts from it, 1 where it starts from
  noise. circular: whether the end meets the beginning.
  """

  given: n2m.Signal | None = None
  keep: Float[n2m.Array, "time"] | None = None
  strength: float = 1.0
  circular: bool = False


jax.tree_util.register_dataclass(Edited, ["given", "keep"], ["strength", "circular"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blended:
  """Another text, and its weight: from start to end, linearly over the seconds of a clip."""

  text: Text
  start: Num[n2m.Array, ""] | float
  end: Num[n2m.Array, ""] | float
  seconds: Num[n2m.Array, ""] | float

  def along(self, steps: int, *, rate_hz: int) -> Float[jax.Array, "time"]:
    share = jnp.clip((jnp.arange(steps) + 0.5) / rate_hz / self.seconds, 0.0, 1.0)
    return self.start + share * (self.end - self.start)


jax.tree_util.register_dataclass(Blended, ["text", "start", "end", "seconds"], [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blend:
  """The music is led by two prompts at once: by this one with `weight`, by the other with the rest.

  weight: in [0, 1], or (at the start, at the end) of the clip. Raises UserError, when built.
  """

  prompt: str
  weight: float | tuple[float, float] = 0.5

  def __post_init__(self):
    if not self.prompt.strip():
      raise UserError("the prompt to blend in is empty: say what it should be")
    if not all(0 <= weight <= 1 for weight in self.weights):
      raise UserError(f"the weight of a blend must lie in [0, 1], got {self.weight}")

  @property
  def weights(self) -> tuple[float, float]:
    """At the start and at the end."""
    return tuple(self.weight) if isinstance(self.weight, Sequence) else (self.weight, self.weight)


@runtime_checkable
class Edit(Protocol):
  """One thing to be done with given audio, or with a clip as such."""

  @property
  def takes_audio(self) -> bool: ...

  def clip_seconds(self, *, given: float, asked: float | None, trained: float) -> float | None:
    """How long the clip becomes; None where the edit leaves that open.

    given: seconds of the audio, 0 where there is none. asked: the duration, if any. trained: what
    the first stage was trained on. Raises UserError where it cannot be done.
    """

  def apply(self, edited: Edited, *, given: float, steps: int, rate_hz: int) -> Edited:
    """`edited` with this edit in it. steps: of the clip, `rate_hz` of them a second."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InPaint:
  """Makes the seconds from start to end anew and keeps the rest.

  fade_seconds: of what is kept beside the gap, how much fades over into what is made.
  """

  start_seconds: float
  end_seconds: float
  fade_seconds: float = FADE_SECONDS
  takes_audio = True

  def __post_init__(self):
    if not 0 <= self.start_seconds < self.end_seconds < math.inf:
      raise UserError(
        "what is made anew must start at 0 s or later and end after that, got"
        f" {self.start_seconds:g} to {self.end_seconds:g} s"
      )
    _check_fade(self.fade_seconds)

  def clip_seconds(self, *, given: float, asked: float | None, trained: float) -> float:
    if self.start_seconds >= given:
      raise UserError(
        f"the audio ends at {given:.4g} s, before {self.start_seconds:g} s, where it should be made"
        " anew: start earlier, or continue it"
      )
    return _within_given(given, asked)

  def apply(self, edited: Edited, *, given: float, steps: int, rate_hz: int) -> Edited:
    span = {"start": self.start_seconds, "end": self.end_seconds}
    keep = known_outside(**span, fade_seconds=self.fade_seconds, steps=steps, rate_hz=rate_hz)
    return dataclasses.replace(edited, keep=keep)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continue:
  """Keeps the front of the audio and makes what follows; the duration is that of what follows.

  seconds: of the audio, how much is kept; all of it where None. fade_seconds: as in `InPaint`.
  """

  seconds: float | None = None
  fade_seconds: float = FADE_SECONDS
  takes_audio = True

  def __post_init__(self):
    if self.seconds is not None and not 0 < self.seconds < math.inf:
      raise UserError(f"more than 0 s must be kept to be continued, got {self.seconds:g}")
    _check_fade(self.fade_seconds)

  def clip_seconds(self, *, given: float, asked: float | None, trained: float) -> float:
    kept = self._kept(given)
    if kept > given:
      raise UserError(
        f"the audio is {given:.4g} s long, and {kept:g} s of it should be kept: keep less"
      )
    if kept <= self.fade_seconds:
      raise UserError(
        f"{kept:.3g} s is too short to be continued: keep more than the {self.fade_seconds:g} s"
        " that fade over"
      )
    return kept + (trained if asked is None else asked)

  def apply(self, edited: Edited, *, given: float, steps: int, rate_hz: int) -> Edited:
    span = {"start": self._kept(given), "end": math.inf}
    keep = known_outside(**span, fade_seconds=self.fade_seconds, steps=steps, rate_hz=rate_hz)
    return dataclasses.replace(edited, keep=keep)

  def _kept(self, given: float) -> float:
    return given if self.seconds is None else self.seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromAudio:
  """Starts from the audio with noise in it instead of noise alone.

  strength: the diffusion time to start from, in (0, 1]. The smaller, the nearer the clip stays to
  the audio, and the fewer the steps; with 1 nothing of it is left.
  """

  strength: float = 0.6
  takes_audio = True

  def __post_init__(self):
    if not 0 < self.strength <= 1:
      raise UserError(
        f"the strength must be above 0 (the audio as it is) and at most 1, got {self.strength:g}"
      )

  def clip_seconds(self, *, given: float, asked: float | None, trained: float) -> float:
    return _within_given(given, asked)

  def apply(self, edited: Edited, *, given: float, steps: int, rate_hz: int) -> Edited:
    return dataclasses.replace(edited, strength=float(self.strength))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
  """Makes a clip whose end goes on into its beginning."""

  takes_audio = False

  def clip_seconds(self, *, given: float, asked: float | None, trained: float) -> float | None:
    return None

  def apply(self, edited: Edited, *, given: float, steps: int, rate_hz: int) -> Edited:
    return dataclasses.replace(edited, circular=True)


def check_edits(edits: Sequence[Edit], *, recording: Recording | None, blend: Blend | None) -> None:
  """Raises UserError where the edits, the audio and the blend do not go together."""
  kinds = [type(edit) for edit in edits]
  if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
    raise UserError(f"{twice.__name__} is asked for twice: ask once")
  taking = [kind.__name__ for edit, kind in zip(edits, kinds, strict=True) if edit.takes_audio]
  if taking and recording is None:
    raise UserError(f"{taking[0]} works on audio: give it as init_audio (--init-audio FILE)")
  if recording is not None and not taking:
    raise UserError(
      "nothing is to be done with the audio: continue it, make a part of it anew, or start from it"
      " (--continue, --replace, --strength)"
    )
  if {InPaint, Continue} <= set(kinds):
    raise UserError("audio is continued or a part of it made anew: ask for one, then for the other")
  moving = blend is not None and blend.weights[0] != blend.weights[1]
  if moving and Loop in kinds:
    raise UserError("a loop has no start and no end: blend with one weight")


def clip_seconds(
  edits: Sequence[Edit], *, given: float, asked: float | None, trained: float
) -> float:
  """How long an edited clip becomes. Raises UserError where the edits do not agree on that."""
  lengths = [edit.clip_seconds(given=given, asked=asked, trained=trained) for edit in edits]
  lengths = [length for length in lengths if length is not None]
  if not lengths:
    return trained if asked is None else asked
  if max(lengths) - min(lengths) > 1e-6:
    raise UserError(
      f"one edit makes a clip of {lengths[0]:.4g} s, another of {lengths[1]:.4g} s: make two clips"
      " in turn"
    )
  return lengths[0]


def whole_loop(seconds: float, *, rates_hz: Sequence[int]) -> float:
  """The seconds, down to what is a whole number of steps at every rate."""
  rate = functools.reduce(math.gcd, rates_hz)
  return max(1, math.floor(seconds * rate + 1e-6)) / rate


def edited_for(
  target: Representation,
  edits: Sequence[Edit],
  *,
  recording: Recording | None,
  steps: int,
  seconds: float,
) -> Edited:
  """What the edits come to for a stage that makes `target`."""
  edited, given = Edited(), 0.0
  if recording is not None:
    lasting = recording.lasting(seconds)
    signal = target.encode(lasting.audio, sample_rate_hz=lasting.sample_rate_hz)
    edited, given = Edited(given=fit(signal, steps, axis=1)), recording.seconds
  for edit in edits:
    edited = edit.apply(edited, given=given, steps=steps, rate_hz=target.rate_hz)
  return edited


def _within_given(given: float, asked: float | None) -> float:
  if asked is not None and asked > given + 1e-6:
    raise UserError(
      f"the audio is {given:.4g} s long and the clip should be {asked:g} s: ask for at most as"
      " much, or continue it"
    )
  return given if asked is None else asked


def _check_fade(seconds: float) -> None:
  if not 0 <= seconds < math.inf:
    raise UserError(f"the fade must be at least 0 s, got {seconds:g}")
