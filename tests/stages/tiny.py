"""Small stages of every kind, shared by the tests of this folder."""

import numpy as np

from noise2music.audio.log_mel import LogMel
from noise2music.batch import BatchSpec, clip_id
from noise2music.diffusion.gaussian import VPrediction
from noise2music.diffusion.noise_augment import NoiseAugment
from noise2music.diffusion.noise_schedules import CosineSchedule, LinearSchedule
from noise2music.diffusion.samplers import DDIM
from noise2music.diffusion.time_steps import UniformSteps
from noise2music.nn.unet1d import UNet1D
from noise2music.stages import conditioning
from noise2music.stages.objective import DenoisingObjective
from noise2music.stages.representations import Spectrogram, Waveform
from noise2music.stages.spec import Sampling, Stage
from noise2music.stages.text_conditioner import TextConditioner
from noise2music.text.t5_encoder import T5Config, T5Encoder

RATE = 8_000  # of the batches in these tests
LOW, MIDDLE, HIGH = (
  Waveform(sample_rate_hz=1_000),
  Waveform(sample_rate_hz=4_000),
  Waveform(sample_rate_hz=8_000),
)
MEL = Spectrogram(log_mel=LogMel(sample_rate_hz=4_000, bands=8, frames_per_second=100))


def network(**settings) -> UNet1D:
  settings = {
    "out_channels": 1, "base_width": 8, "strides": (2, 2), "width_multipliers": (1, 2),
    "blocks": (1, 1), "kernel_size": 3, "heads": 2, **settings,
  }  # fmt: skip
  return UNet1D(**settings)


def text_conditioner() -> TextConditioner:
  config = T5Config(
    vocab_size=384, width=16, layers=1, heads=2, head_dim=8, ffn_width=32, gated=True
  )
  return TextConditioner(encoder=T5Encoder(config), trainable=True)


def text() -> conditioning.CrossAttention:
  return conditioning.CrossAttention(token_length=32, dropout=0.1)


SAMPLING = Sampling(time_steps=UniformSteps(count=3), sampler=DDIM())
AUGMENT = NoiseAugment(t_max=0.5, schedule=LinearSchedule())


def objective(kind: str, **changes) -> DenoisingObjective:
  """One of `KINDS`."""
  settings = {
    "waveform_generator": {
      "target": LOW,
      "network": network(cross_attention=(False, True), self_attention=(False, True)),
      "conditions": {"text": text()},
      "sampling": Sampling(time_steps=UniformSteps(count=3), sampler=DDIM(), guidance_scale=2.0),
    },
    "waveform_cascader": {
      "target": MIDDLE,
      "network": network(cross_attention=(False, True)),
      "conditions": {
        "text": text(),
        "low_fidelity": conditioning.Stacked(
          source=LOW, augmentations=(conditioning.Blur1D(), AUGMENT)
        ),
      },
    },
    "spectrogram_generator": {
      "target": MEL,
      "network": network(out_channels=8, cross_attention=(False, True)),
      "conditions": {"text": text()},
    },
    "spectrogram_vocoder": {
      "target": MIDDLE,
      "network": network(strides=(8, 5), aligned=True),
      "conditions": {
        "log_mel": conditioning.Aligned(source=MEL, augmentations=(conditioning.Blur2D(), AUGMENT))
      },
    },
    "super_resolution": {
      "target": HIGH,
      "network": network(),
      "conditions": {"low_fidelity": conditioning.Stacked(source=MIDDLE)},
    },
  }[kind]
  settings = {"sampling": SAMPLING, **settings, **changes}
  stage = Stage(
    name=kind,
    noise_schedule=CosineSchedule(),
    prediction=VPrediction(),
    train_seconds=0.5,
    **settings,
  )
  return DenoisingObjective(
    stage=stage,
    text_conditioner=text_conditioner() if stage.text else None,
    sample_rate_hz=RATE,
  )


KINDS = (
  "waveform_generator",
  "waveform_cascader",
  "spectrogram_generator",
  "spectrogram_vocoder",
  "super_resolution",
)


def batch(size: int, *, seconds: float = 0.5, seed: int = 0) -> dict[str, np.ndarray]:
  """Tones with a text each."""
  rng = np.random.default_rng(seed)
  out = BatchSpec(batch_size=size, seconds=seconds, sample_rate_hz=RATE, token_length=32).zeros()
  t = np.arange(out["audio"].shape[1]) / RATE
  for row in range(size):
    tone = 8000 * np.sin(2 * np.pi * rng.uniform(100, 400) * t)
    out["audio"][row] = tone.astype(np.int16)
    out["tokens"][row, :4] = [row + 3, row + 4, 9, 1]
    out["token_mask"][row, :4] = True
    out["clip_id"][row] = clip_id(f"clip {row}")
  return out
