"""What can be wrong with a clip before anyone asks whether it is music."""

import dataclasses

import numpy as np

SILENCE_DB = -50.0  # root mean square below which a clip is called silent
CLIPPED = 0.999  # magnitude from which a sample counts as clipped
CLIPPED_SHARE = 1e-3  # share of clipped samples from which a clip is called clipped
NOISE_FLATNESS = 0.3  # spectral flatness above which a clip is called noise; white noise has 0.56


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoundCheck:
  """rms_db: level, 0 for a full-scale square wave. clipped_share: of samples at full scale.

  flatness: geometric over arithmetic mean of the power spectrum, median over the frames that are
  not silent: near 0 for tones, 0.56 for white noise (the ratio of a chi-squared spectrum).
  """

  rms_db: float
  clipped_share: float
  flatness: float

  @property
  def problems(self) -> tuple[str, ...]:
    """Of "silent", "clipped" and "noise", those that apply."""
    found = {
      "silent": self.rms_db < SILENCE_DB,
      "clipped": self.clipped_share > CLIPPED_SHARE,
      "noise": self.flatness > NOISE_FLATNESS,
    }
    return tuple(name for name, applies in found.items() if applies)


def sound_check(audio: np.ndarray, *, frame: int = 1024) -> SoundCheck:
  """audio: float [samples] in [-1, 1], at least one frame long."""
  if audio.ndim != 1 or len(audio) < frame:
    raise ValueError(f"needs [at least {frame} samples], got {list(audio.shape)}")
  audio = audio.astype(np.float64)
  frames = audio[: len(audio) // frame * frame].reshape(-1, frame) * np.hanning(frame)
  power = np.abs(np.fft.rfft(frames))[:, 1:-1] ** 2
  loud = power.mean(1) > 1e-4 * power.mean(1).max()
  flatness = 0.0
  if loud.any():
    power = power[loud] + 1e-30
    flatness = float(np.median(np.exp(np.log(power).mean(1)) / power.mean(1)))
  rms = np.sqrt(np.mean(audio**2))
  return SoundCheck(
    rms_db=float(20 * np.log10(max(rms, 1e-10))),
    clipped_share=float(np.mean(np.abs(audio) >= CLIPPED)),
    flatness=flatness,
  )
