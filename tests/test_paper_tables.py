"""Tables 2, 3, 7 and 8 of the paper and its section 4.1, against what configs/runs/paper builds."""

import dataclasses

import jax
import numpy as np
import pytest

from noise2music.config import gin_utils
from noise2music.diffusion.gaussian import EpsPrediction
from noise2music.diffusion.losses import SigmaWeight, SimplifiedWeight
from noise2music.diffusion.noise_schedules import CosineSchedule, LinearSchedule
from noise2music.diffusion.samplers import Ancestral
from noise2music.nn.stacking import Scanned
from noise2music.stages.conditioning import Aligned, Blur1D, Blur2D, Stacked, Text
from noise2music.stages.generate import sample
from noise2music.stages.representations import Spectrogram, Waveform
from noise2music.training import Training

NO, YES = False, True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One column of the tables. grid: (total, count) pairs of Table 7, from t = 0 upward."""

  makes: tuple[type, int, int]  # representation, steps a second, channels
  steps: int
  weight: type
  schedule: type
  base: int
  kernel: int
  strides: tuple[int, ...]
  multipliers: tuple[int, ...]
  blocks: tuple[int, ...]
  self_attention: tuple[bool, ...] = ()
  cross_attention: tuple[bool, ...] = ()
  tokens: int | None = None
  listens: tuple[type, int] | None = None  # mechanism, steps a second
  blur: object = None
  noise: float | None = None
  gamma: float = 0.0
  guidance: float = 1.0
  grid: tuple[tuple[float, int], ...]
  whole_clip: bool = False
  batch: int = 2048


FRONT = ((0.05, 400), (0.15, 200), (0.3, 150), (0.5, 50))
AUDIO_BLUR = Blur1D(size=10, std_min=0.1, std_max=5.0)
TABLES = {
  "waveform_generator": Row(
    makes=(Waveform, 3_200, 1), steps=1_600_000, weight=SimplifiedWeight, schedule=CosineSchedule,
    base=256, kernel=7, strides=(4,) * 6, multipliers=(1, 1, 2, 3, 4, 4), blocks=(3, 3, 3, 4, 4, 4),
    self_attention=(NO, NO, NO, YES, YES, YES), cross_attention=(NO, NO, NO, YES, YES, YES),
    tokens=64, guidance=10.0, whole_clip=True,
    grid=((0.01, 200), (0.04, 400), (0.15, 200), (0.3, 150), (0.5, 50)),
  ),
  "waveform_cascader": Row(
    makes=(Waveform, 16_000, 1), steps=460_000, weight=SimplifiedWeight, schedule=LinearSchedule,
    base=256, kernel=7, strides=(4,) * 5, multipliers=(1, 1, 2, 3, 4), blocks=(3, 3, 4, 6, 6),
    self_attention=(NO,) * 5, cross_attention=(NO, NO, NO, YES, YES), tokens=64,
    listens=(Stacked, 3_200), blur=AUDIO_BLUR, noise=0.5, gamma=1.0, guidance=5.0, grid=FRONT,
  ),
  "spectrogram_generator": Row(
    makes=(Spectrogram, 100, 80), steps=1_800_000, weight=SigmaWeight, schedule=LinearSchedule,
    base=256, kernel=9, strides=(4, 3, 2, 2, 2), multipliers=(1, 2, 2, 3, 4), blocks=(6,) * 5,
    self_attention=(NO, NO, NO, YES, YES), cross_attention=(NO, NO, NO, YES, YES), tokens=96,
    guidance=5.0, whole_clip=True, grid=((0.3, 50), (0.3, 150), (0.2, 300), (0.2, 500)),
  ),
  "spectrogram_vocoder": Row(
    makes=(Waveform, 16_000, 1), steps=840_000, weight=SimplifiedWeight, schedule=LinearSchedule,
    base=128, kernel=5, strides=(2, 4, 4, 5), multipliers=(1, 1, 2, 4), blocks=(4,) * 4,
    self_attention=(NO,) * 4, cross_attention=(NO,) * 4, listens=(Aligned, 100),
    blur=Blur2D(size=5, std_min=0.2, std_max=1.0), noise=1.0,
    grid=((0.05, 50), (0.15, 30), (0.3, 15), (0.5, 5)),
  ),
  "super_resolution": Row(
    makes=(Waveform, 24_000, 1), steps=270_000, weight=SimplifiedWeight, schedule=LinearSchedule,
    base=256, kernel=7, strides=(4,) * 4, multipliers=(1, 1, 2, 2), blocks=(4,) * 4,
    self_attention=(NO,) * 4, cross_attention=(NO,) * 4, listens=(Stacked, 16_000),
    blur=AUDIO_BLUR, noise=1.0, grid=FRONT, batch=4096,
  ),
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(TABLES))
def built(request: pytest.FixtureRequest) -> tuple[Row, Training]:
  files = [f"configs/runs/paper/{request.param}.gin", "configs/base/nothing_read.gin"]
  gin_utils.parse(files, [])
  return TABLES[request.param], gin_utils.build(Training)


def test_table_2_and_8_the_network(built: tuple[Row, Training]) -> None:
  row, training = built
  stage = training.objective.stage
  net = stage.network
  assert (type(stage.target), stage.target.rate_hz, stage.target.channels) == row.makes
  assert net.out_channels == row.makes[2]
  assert (net.base_width, net.kernel_size) == (row.base, row.kernel)
  assert tuple(net.strides) == row.strides
  assert tuple(net.width_multipliers) == row.multipliers
  assert tuple(net.blocks) == row.blocks
  assert tuple(net.self_attention) == row.self_attention
  assert tuple(net.cross_attention) == row.cross_attention
  assert net.heads == 8 or not any(row.cross_attention)


def test_table_2_the_process(built: tuple[Row, Training]) -> None:
  row, training = built
  stage = training.objective.stage
  assert isinstance(stage.loss_weight, row.weight)
  assert isinstance(stage.noise_schedule, row.schedule)
  assert stage.prediction == EpsPrediction()
  tokens = stage.text.token_length if stage.text is not None else None
  assert tokens == row.tokens
  assert stage.text is None or stage.text.dropout == 0.1


def test_tables_3_and_7_the_sampling(built: tuple[Row, Training]) -> None:
  row, training = built
  stage = training.objective.stage
  assert stage.sampling.sampler == Ancestral(gamma=row.gamma)
  assert stage.sampling.guidance_scale == row.guidance
  assert (stage.sampling.keep_low_band, stage.sampling.start_noise) == (False, 1.0)
  sizes = np.concatenate([np.full(count, total / count) for total, count in row.grid])
  times = stage.sampling.time_steps.times(stage.noise_schedule)
  np.testing.assert_allclose(times[::-1], np.concatenate([[0], np.cumsum(sizes)]), atol=1e-12)


def test_section_4_1_what_a_stage_listens_to(built: tuple[Row, Training]) -> None:
  row, training = built
  signals = training.objective.stage.signals
  if row.listens is None:
    assert signals == {}
    return
  (condition,) = signals.values()
  assert (type(condition), condition.source.rate_hz) == row.listens
  blur, noise = condition.augmentations
  assert blur == row.blur
  assert noise.t_max == row.noise
  assert isinstance(noise.schedule, LinearSchedule)


def test_section_4_1_the_training(built: tuple[Row, Training]) -> None:
  row, training = built
  spec, optimizer = training.batches.local_spec, training.optimizer
  assert training.total_steps == row.steps
  assert spec.batch_size == row.batch
  assert spec.seconds == training.objective.stage.train_seconds
  assert spec.seconds == 29.44 if row.whole_clip else 3.0 <= spec.seconds <= 4.0
  assert (optimizer.beta1, optimizer.beta2, optimizer.peak_learning_rate) == (0.9, 0.999, 1e-4)
  assert (optimizer.warmup_steps, optimizer.decay_steps) == (10_000, 2_500_000)
  assert optimizer.ema.decay == 0.9999
  conditioner = training.objective.text_conditioner
  assert (conditioner is None) == (row.tokens is None)
  assert conditioner is None or not conditioner.trainable


def test_snippets_are_easy_to_transform(built: tuple[Row, Training]) -> None:
  """Whole numbers of samples, with small prime factors, at each rate that the FFT goes between."""
  _, training = built
  stage = training.objective.stage
  representations = [stage.target, *(condition.source for condition in stage.signals.values())]
  rates = {each.rate_hz for each in representations if isinstance(each, Waveform)}
  for rate in rates | {training.objective.sample_rate_hz}:
    samples = round(stage.train_seconds * rate)
    assert samples == pytest.approx(stage.train_seconds * rate, abs=1e-6)
    for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23):
      while samples % prime == 0:
        samples //= prime
    assert samples == 1


@pytest.mark.slow  # traces the full size ten times
@pytest.mark.parametrize("seconds", [29.44, 30.0])
def test_clips_of_both_lengths_come_out_as_long_as_asked(
  built: tuple[Row, Training], seconds: float
) -> None:
  _, training = built
  objective = training.objective
  stage = objective.stage
  few = dataclasses.replace(stage.sampling, clip_percentile=None)
  stage = dataclasses.replace(stage, network=stage.network.clone(stacking=Scanned()), sampling=few)
  shape = lambda *s, d="float32": jax.ShapeDtypeStruct((1, *s), d)  # noqa: E731
  batch = dataclasses.replace(training.batches.local_spec, batch_size=1, seconds=3.0).zeros()
  params = jax.eval_shape(lambda: objective.init(jax.random.key(0), batch))["network"]
  arguments = {
    "keys": jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    "signals": {
      name: shape(round(seconds * c.source.rate_hz), c.source.channels)
      for name, c in stage.signals.items()
    },
  }
  words = ()
  if stage.text is not None:
    tokens = stage.text.token_length
    width = objective.text_conditioner.encoder.config.width
    words = (shape(tokens, width), shape(tokens, d="bool"), shape(d="bool"))
  steps = round(seconds * stage.target.rate_hz)

  def clip(params, arguments, words):
    text = Text(embedding=words[0], mask=words[1], keep=words[2]) if words else None
    return sample(stage, params, steps=steps, text=text, **arguments)

  made = jax.eval_shape(clip, params, arguments, words)
  assert made.shape == (1, steps, stage.target.channels)
  assert made.dtype == "float32"
