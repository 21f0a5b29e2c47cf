"""Statistics of the log-mel spectrogram: an embedding that needs no weights.

Coarse beside a trained network: it hears level, timbre and how much moves, not melody. It is for
showing that something was learnt at all; published figures are made with VGGish and its like.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from noise2music.audio.framing import crop_to
from noise2music.audio.log_mel import LogMel
from noise2music.audio.resample import resample


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogMelStatistics:
  """Mean, standard deviation and mean absolute change over time of each mel band.

  log_mel: its floor decides what counts. At -50 dB, a bed of noise that nobody hears beside the
  music weighs nothing; at the -80 dB of the models it would weigh as much as the instrument.
  window_seconds: length of the window behind one embedding; windows do not overlap.
  """

  log_mel: LogMel = LogMel(bands=40, floor_db=-50.0)
  window_seconds: float = 1.0

  @property
  def width(self) -> int:
    return 3 * self.log_mel.bands

  def __call__(self, audio: np.ndarray, *, sample_rate_hz: int) -> np.ndarray:
    """[clips, samples] -> float64 [clips, windows, width]; an incomplete last window is dropped.

    Raises ValueError where the clips are shorter than one window.
    """
    if audio.shape[-1] < self.window_seconds * sample_rate_hz:
      raise ValueError(
        f"clips of {audio.shape[-1] / sample_rate_hz:.2f} s are shorter than the window of"
        f" {self.window_seconds:g} s"
      )
    return np.asarray(self._embed(jnp.asarray(audio, jnp.float32), sample_rate_hz), np.float64)

  def _whole(self, samples: int) -> int:
    return samples // self.log_mel.hop * self.log_mel.hop

  @functools.partial(jax.jit, static_argnums=(0, 2))
  def _embed(self, audio: jax.Array, sample_rate_hz: int) -> jax.Array:
    audio = resample(audio, from_hz=sample_rate_hz, to_hz=self.log_mel.sample_rate_hz)
    frames = self.log_mel(crop_to(audio, self._whole(audio.shape[-1])))
    length = round(self.window_seconds * self.log_mel.frames_per_second)
    windows = frames.shape[1] // length
    frames = frames[:, : windows * length].reshape(len(frames), windows, length, -1)
    change = jnp.abs(jnp.diff(frames, axis=2)).mean(2)
    return jnp.concatenate([frames.mean(2), frames.std(2), change], -1)
