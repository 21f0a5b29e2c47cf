"""What a run says of itself, and what it does not say of a sound one."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from sine_toy import SineBatches, SineObjective

from noise2music.training import CheckpointPolicy, Ema, Optimizer, Training, train
from noise2music.training.hooks import SampleHook, Samples
from noise2music.training.sentinels import Sentinels, of_samples


def told(sentinels, rows, *, first=1000):
  return [line for k, row in enumerate(rows) for line in sentinels.of_row(first + k, row)]


def test_a_loss_at_chance_is_told_once_and_after_a_while():
  stuck = [{"loss": 0.995, "chance": 1.0}] * 9
  (line,) = told(Sentinels(dropout=None, start_step=0), stuck)
  assert "the loss, 0.995 at step 1004, is still that of knowing nothing (1.000)" in line
  assert told(Sentinels(dropout=None, start_step=0), stuck, first=100) == []
  assert told(Sentinels(dropout=None, start_step=900), stuck) == []
  learning = [{"loss": 0.995 - 0.05 * (k % 3 == 0), "chance": 1.0} for k in range(9)]
  assert told(Sentinels(dropout=None, start_step=0), learning) == []
  contrastive = [{"loss": math.log(64) - 0.01, "chance": math.log(64)}] * 5
  assert len(told(Sentinels(dropout=None, start_step=0), contrastive)) == 1


@pytest.mark.parametrize(
  ("dropout", "share", "said"),
  [
    (0.1, 0.0, "10% of the texts should be dropped for guidance, and none were"),
    (0.1, 1.0, "10% of the texts should be dropped for guidance, and all were"),
    (0.0, 0.0, "no text is ever dropped"),
    (0.1, 0.08, None),
    (1.0, 1.0, None),  # a run without texts, as it was asked for
    (None, 0.0, None),
  ],
)
def test_guidance_that_is_not_trained(dropout, share, said):
  lines = told(Sentinels(dropout=dropout, start_step=0), [{"text_dropped": share}] * 9)
  assert len(lines) == (said is not None)
  assert said is None or said in lines[0]


def test_samples_that_are_all_silent_or_clipped():
  t = np.arange(4096) / 16_000
  tone = 0.3 * np.sin(2 * np.pi * 440 * t)
  silent, loud = 1e-5 * tone, np.clip(100 * tone, -1, 1)
  of = lambda *clips: list(of_samples(7, {f"{k}": (c, 16_000) for k, c in enumerate(clips)}))  # noqa: E731
  assert of(silent, silent) == ["all samples of step 7 are silent"]
  assert of(loud, loud) == ["all samples of step 7 are clipped"]
  assert of(silent, tone) == []
  assert list(of_samples(7, {"real 0": (silent, 16_000), "guidance 1 0": (tone, 16_000)})) == []


def run(folder, capsys, **changes):
  settings = {
    "model_dir": str(folder),
    "objective": SineObjective(),
    "batches": SineBatches(),
    "total_steps": 120,
    "optimizer": Optimizer(peak_learning_rate=1e-2, warmup_steps=2),
    "checkpoints": CheckpointPolicy(every=60),
  }
  train(Training(**{**settings, **changes}))
  return capsys.readouterr().err


def test_an_average_that_lags_behind_is_told_and_one_that_follows_is_not(tmp_path, capsys):
  late = Optimizer(peak_learning_rate=1e-2, warmup_steps=2, ema=Ema(decay=0.9999, warm_up=False))
  said = run(tmp_path / "late", capsys, optimizer=late)
  assert said.count("the average of the weights lies") == 1
  assert "after 120 steps: samples are drawn with it; lower EMA_DECAY" in said
  assert "warning" not in run(tmp_path / "good", capsys)


def test_a_run_says_what_its_samples_and_its_guidance_lack(tmp_path, capsys):
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Undropped(SineObjective):
    text_dropout: float = 0.1

    def loss(self, params, batch, key):
      loss, aux = super().loss(params, batch, key)
      return loss, {**aux, "text_dropped": (jnp.float32(0), jnp.float32(8))}

  hook = SampleHook(
    function=lambda state, step: Samples(audio={"a": (np.zeros(2048, np.float32), 16_000)}),
    every=60,
  )
  said = run(tmp_path, capsys, objective=Undropped(), hooks=(hook,), log_every=10)
  assert said.count("all samples of step 60 are silent") == 1
  assert said.count("and none were: guidance will not work") == 1
