"""What a stage sounds like on the way: clips at several guidance scales, next to the real ones."""

import dataclasses

import jax
import numpy as np

from noise2music import batch as batch_lib
from noise2music.audio.framing import pad_to, padded_length
from noise2music.audio.log_mel import LogMel
from noise2music.audio.resample import resample
from noise2music.stages.generate import clip_keys, sample
from noise2music.stages.objective import DenoisingObjective
from noise2music.training.hooks import Samples
from noise2music.training.state import TrainState
from noise2music.typing import BatchSource


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Preview:
  """Samples a stage for the first clips of the data, with their own text and conditions.

  Called by `SampleHook`. objective: what is trained. batches: where the clips come from. clips: how
  many. guidance_scales: of a stage with text; one without is sampled once.
  """

  objective: DenoisingObjective
  batches: BatchSource
  clips: int = 2
  guidance_scales: tuple[float, ...] = (1.0, 3.0, 6.0)
  seed: int = 0

  def __call__(self, state: TrainState, step: int) -> Samples:
    stage = self.objective.stage
    batch = {name: array[: self.clips] for name, array in self._first_batch().items()}
    params = state.averaged_params
    clips = len(batch[batch_lib.AUDIO])
    example = self.objective.example(batch)
    text = self.objective.text(params, batch, keep=np.ones(clips, bool))
    steps = stage.target.length(
      batch[batch_lib.AUDIO].shape[1], sample_rate_hz=self.objective.sample_rate_hz
    )
    signals = {"real": example.x[:, :steps]}
    for scale in self.guidance_scales if text is not None else (1.0,):
      signals[f"guidance {scale:g}" if text is not None else "sample"] = sample(
        stage,
        params["network"],
        keys=clip_keys(np.full(clips, self.seed), stage_name=stage.name),
        steps=steps,
        text=text,
        signals=self.objective.source_signals(batch),
        sampling=stage.sampling.guided(scale),
      )
    return self._samples(signals)

  def _first_batch(self) -> dict[str, np.ndarray]:
    batches = self.batches.batches()
    try:
      return next(batches)
    finally:
      batches.close()

  def _samples(self, signals: dict[str, jax.Array]) -> Samples:
    audio, images = {}, {}
    log_mel = LogMel()
    for name, signal in signals.items():
      clips, rate = self.objective.stage.target.decode(signal)
      for index, clip in enumerate(np.asarray(clips)):
        audio[f"{name} {index}"] = (np.clip(clip, -1, 1), rate)
        clip = resample(clip, from_hz=rate, to_hz=log_mel.sample_rate_hz)
        frames = log_mel(pad_to(clip, padded_length(clip.shape[-1], log_mel.hop)))
        images[f"{name} {index}"] = (np.asarray(frames).T[::-1] + 1) / 2
    return Samples(audio=audio, images=images)
