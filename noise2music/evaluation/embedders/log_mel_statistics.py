"""Statistics of the log-mel spectrogram: an embedding that needs no weights.

Coarse beside a trained network: it hears level, timbre and how much moves, not melody. It is for
showing that something was learnt at all; published figures are made with VGGish and its like.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from noise2music.audio.log_mel import LogMel
from noise2music.audio.resample import resample
from noise2music.errors import UserError
from noise2music.evaluation.embedders.encoder import checked
from noise2music.sharding.rows import by_rows, in_batches


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMelStatistics:
  """Mean, standard deviation and mean absolute change over time of each mel band; an
  `AudioEncoder`.

  log_mel: its floor decides what counts. At -50 dB, a bed of noise that nobody hears beside the
  music weighs nothing; at the -80 dB of the models it would weigh as much as the instrument.
  window_seconds: length of the window behind one embedding; windows do not overlap. batch_size:
  windows at once.
  """

  log_mel: LogMel = LogMel(bands=40, floor_db=-50.0)
  window_seconds: float = 1.0
  batch_size: int = 64

  name: ClassVar[str] = "log_mel"

  def __post_init__(self):
    frames = self.window_seconds * self.log_mel.frames_per_second
    if abs(frames - round(frames)) > 1e-6 or frames < 2 or self.batch_size < 1:
      raise UserError(
        f"windows of {self.window_seconds:g} s, {self.batch_size} at once, cannot be embedded: give"
        f" whole frames of 1/{self.log_mel.frames_per_second} s, two or more, and one window"
      )

  @property
  def width(self) -> int:
    return 3 * self.log_mel.bands

  @property
  def protocol(self) -> str:
    return (
      f"{self.sample_rate_hz} Hz, level as it is, windows of {self.window_seconds:g} s, mean, std"
      f" and change of {self.log_mel.bands} bands, floor {self.log_mel.floor_db:g} dB"
    )

  @property
  def sample_rate_hz(self) -> int:
    return self.log_mel.sample_rate_hz

  @property
  def shortest_seconds(self) -> float:
    return self.window_seconds

  @property
  def fingerprint(self) -> str:
    """Of the settings, since there are no weights."""
    return hashlib.sha256(repr((self.log_mel, self.window_seconds)).encode()).hexdigest()[:12]

  def __call__(self, audio: np.ndarray, *, sample_rate_hz: int) -> np.ndarray:
    """[clips, samples] -> float64 [clips, windows, width]; an incomplete last window is dropped.

    Raises UserError, a ValueError, where the clips are shorter than one window.
    """
    audio = jnp.asarray(audio, jnp.float32)
    clips = np.asarray(resample(audio, from_hz=sample_rate_hz, to_hz=self.sample_rate_hz))
    return np.stack(self.embed(list(clips))).astype(np.float64)

  def embed(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    windows = [self._windows(clip) for clip in checked(clips, self)]
    if not windows:
      return []
    batches = in_batches(np.concatenate(windows), size=self.batch_size)
    rows = np.concatenate([np.asarray(self._embed(*batch)) for batch in batches])
    ends = np.cumsum([len(of_clip) for of_clip in windows])
    return np.split(rows[: ends[-1]], ends[:-1])

  @property
  def _frames(self) -> int:
    return round(self.window_seconds * self.log_mel.frames_per_second)

  @property
  def _context(self) -> int:
    """Frames on either side, whose samples those of the window reach into."""
    return -(-self.log_mel.window // self.log_mel.hop)

  def _windows(self, clip: np.ndarray) -> np.ndarray:
    """[samples] -> [windows, samples of a window and of the context around it], so that windows of
    clips of any length make batches of one shape."""
    hop = self.log_mel.hop
    clip = clip[: len(clip) // hop * hop]
    around, length = self._context * hop, self._frames * hop
    padded = np.pad(clip, around)
    return np.lib.stride_tricks.sliding_window_view(padded, length + 2 * around)[::length]

  @functools.partial(jax.jit, static_argnums=0)
  def _embed(self, windows: jax.Array) -> jax.Array:
    frames = by_rows(self.log_mel, windows)[:, self._context : -self._context]
    change = jnp.abs(jnp.diff(frames, axis=1)).mean(1)
    return jnp.concatenate([frames.mean(1), frames.std(1), change], -1)
