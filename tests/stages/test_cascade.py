"""Both routes end to end with fresh parameters, and the promises about seeds."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from noise2music.audio.resample import resample
from noise2music.errors import UserError
from noise2music.nn.unet1d import UNet1D
from noise2music.planning.work import count_flops
from noise2music.stages.cascade import Cascade
from noise2music.stages.conditioning import Text
from noise2music.stages.generate import clip_keys, sample
from noise2music.stages.spec import Sampling

WAVEFORM = ("waveform_generator", "waveform_cascader", "super_resolution")
SPECTROGRAM = ("spectrogram_generator", "spectrogram_vocoder", "super_resolution")


pytestmark = pytest.mark.usefixtures("light_compilation")


def random_params(objective, *, seed: int):
  """Parameters that are nowhere zero, so that every condition has an influence."""
  shapes = jax.eval_shape(lambda: objective.init(jax.random.key(0), tiny.batch(2)))
  rng = np.random.default_rng(seed)
  leaves, tree = jax.tree.flatten(
    jax.tree.map(
      lambda leaf: leaf.unbox() if hasattr(leaf, "unbox") else leaf,
      shapes,
      is_leaf=lambda leaf: hasattr(leaf, "unbox"),
    )
  )
  return jax.tree.unflatten(
    tree, [rng.normal(size=leaf.shape).astype(np.float32) * 0.3 for leaf in leaves]
  )


def cascade(route=WAVEFORM):
  objectives = tuple(tiny.objective(kind) for kind in route)
  params = [random_params(objective, seed=i) for i, objective in enumerate(objectives)]
  return Cascade(objectives=objectives), params


@pytest.mark.parametrize("route", [WAVEFORM, SPECTROGRAM])
@pytest.mark.parametrize("seconds", [0.5, 0.333])
def test_both_routes_give_clips_of_the_asked_length(route, seconds: float) -> None:
  stages, params = cascade(route)
  made = stages.generate(params, ["a tune", "a song"], seeds=[1, 2], seconds=seconds)
  assert list(made) == list(route)
  assert made["super_resolution"].shape == (2, round(seconds * 8_000), 1)
  assert all(np.isfinite(signal).all() for signal in made.values())
  assert all(np.abs(signal).max() < 1.01 for signal in made.values()), "clipping was asked for"


def test_a_clip_is_the_same_to_the_bit_whatever_else_is_in_the_batch() -> None:
  stages, params = cascade()
  prompts = ["a tune", "a song", "a jig", "a reel", "a waltz"]
  together = stages.generate(params, prompts, seeds=[5, 6, 7, 8, 9], seconds=0.3, batch_size=4)
  alone = stages.generate(params, ["a jig"], seeds=[7], seconds=0.3, batch_size=4)
  for name, signal in alone.items():
    np.testing.assert_array_equal(signal[0], together[name][2])


def test_another_batch_size_changes_rounding_alone() -> None:
  stages, params = cascade()
  one = stages.generate(params, ["a jig"], seeds=[7], seconds=0.3, batch_size=1)
  four = stages.generate(params, ["a jig"], seeds=[7], seconds=0.3, batch_size=4)
  for name, signal in one.items():
    np.testing.assert_allclose(signal, four[name], atol=2e-3)


def test_seed_prompt_and_negative_prompt_each_change_the_clip() -> None:
  stages, params = cascade()
  make = lambda prompt, seed, **more: stages.generate(  # noqa: E731
    params, [prompt], seeds=[seed], seconds=0.3, batch_size=1, **more
  )["super_resolution"]
  base = make("a jig", 7)
  np.testing.assert_array_equal(base, make("a jig", 7))
  for other in (make("a jig", 8), make("a waltz", 7), make("a jig", 7, negative_prompt="noise")):
    assert np.abs(base - other).max() > 1e-3


def test_a_negative_prompt_that_would_lead_nowhere_is_refused() -> None:
  stages, params = cascade()
  unguided = {"waveform_generator": tiny.SAMPLING}
  with pytest.raises(UserError, match="without guidance a negative prompt leads nowhere"):
    stages.generate(
      params, ["a jig"], seeds=[7], seconds=0.3, negative_prompt="noise", sampling=unguided
    )


def test_a_sampling_that_a_stage_cannot_honour_is_refused() -> None:
  objective = tiny.objective("super_resolution")
  guided = dataclasses.replace(tiny.SAMPLING, guidance_scale=2.0)
  with pytest.raises(ValueError, match="a guidance scale needs a text condition"):
    sample(
      objective.stage, {}, keys=clip_keys([3], stage_name="s"), steps=64, sampling=guided,
      signals={"low_fidelity": np.zeros((1, 32, 1), np.float32)},
    )  # fmt: skip


def test_guidance_of_one_ignores_the_unconditional_branch() -> None:
  objective = tiny.objective("waveform_generator")
  params = random_params(objective, seed=0)
  text = objective.text_conditioner.text(
    params["text_encoder"],
    *objective.text_conditioner.tokenize(["a jig"], length=32),
    keep=np.ones(1, bool),
  )

  def clip(scale):
    sampling = Sampling(
      time_steps=tiny.SAMPLING.time_steps, sampler=tiny.SAMPLING.sampler, guidance_scale=scale,
      clip_percentile=None,
    )  # fmt: skip
    return sample(
      objective.stage, params["network"], keys=clip_keys([3], stage_name="s"), steps=64,
      text=text, sampling=sampling,
    )  # fmt: skip

  assert np.abs(clip(1.0) - clip(2.0)).max() > 1e-3
  # One network in place of two, and that the conditional one: the clip is that of a scale beside 1.
  assert count_flops(lambda: clip(2.0)) == pytest.approx(
    2 * count_flops(lambda: clip(1.0)), rel=0.01
  )
  np.testing.assert_allclose(clip(1.0), clip(1 + 1e-6), atol=1e-4)


def test_guidance_far_from_its_interval_is_none_and_within_it_is_whole() -> None:
  objective = tiny.objective("waveform_generator")
  params = random_params(objective, seed=0)
  text = objective.text_conditioner.text(
    params["text_encoder"],
    *objective.text_conditioner.tokenize(["a jig"], length=32),
    keep=np.ones(1, bool),
  )

  def clip(**settings):
    sampling = dataclasses.replace(tiny.SAMPLING, clip_percentile=None, **settings)
    keys = clip_keys([3], stage_name="s")
    return np.asarray(
      sample(objective.stage, params["network"], keys=keys, steps=64, text=text, sampling=sampling)
    )

  guided, plain = clip(guidance_scale=4.0), clip(guidance_scale=1.0)
  assert np.abs(guided - plain).max() > 1e-2
  clip = functools.partial(clip, guidance_scale=4.0)
  np.testing.assert_allclose(clip(guidance_interval=(30.0, 40.0)), plain, atol=1e-5)
  np.testing.assert_allclose(clip(guidance_interval=(-30.0, 40.0)), guided, atol=1e-5)
  rescaled = clip(guidance_rescale=1.0)
  assert np.abs(rescaled - guided).max() > 1e-3
  assert np.std(rescaled) < np.std(guided)


@pytest.mark.parametrize("clip_percentile", [None, 99.0])
def test_guidance_in_one_call_and_in_two_give_the_same_clips(clip_percentile, monkeypatch) -> None:
  """Of two clips, each with a text, a negative text and a signal of its own."""
  objective = tiny.objective("waveform_cascader")
  params = random_params(objective, seed=0)
  texts = [
    objective.text_conditioner.text(
      params["text_encoder"],
      *objective.text_conditioner.tokenize(prompts, length=32),
      keep=np.ones(2, bool),
    )
    for prompts in (["a jig", "a slow tune for two"], ["noise", "speech"])
  ]
  low = np.random.default_rng(0).normal(size=(2, 16, 1)).astype(np.float32)
  clips = []
  for in_one in (True, False):
    monkeypatch.setattr(UNet1D, "weights_prevail", lambda *_, answer=in_one, **__: answer)
    sampling = dataclasses.replace(
      tiny.SAMPLING, guidance_scale=2.0, clip_percentile=clip_percentile
    )
    made = sample(
      # Another object, since programs are kept by the stage.
      dataclasses.replace(objective.stage), params["network"], steps=64,
      keys=clip_keys([3, 4], stage_name="s"), text=texts[0], negative_text=texts[1],
      signals={"low_fidelity": low}, sampling=sampling,
    )  # fmt: skip
    clips.append(np.asarray(made))
  np.testing.assert_allclose(*clips, atol=1e-4)
  assert np.abs(clips[0][0] - clips[0][1]).max() > 0.1


def test_a_negative_text_of_another_length_is_refused() -> None:
  objective = tiny.objective("waveform_generator")
  text, longer = (
    Text(
      embedding=np.zeros((1, n, 16), np.float32), mask=np.ones((1, n), bool), keep=np.ones(1, bool)
    )
    for n in (4, 5)
  )
  with pytest.raises(ValueError, match=r"negative text is \(1, 5, 16\), the text \(1, 4, 16\)"):
    sample(
      objective.stage, {}, keys=clip_keys([3], stage_name="s"), steps=64, text=text,
      negative_text=longer,
    )  # fmt: skip


def test_the_low_band_is_kept_where_that_is_asked_for() -> None:
  kept = dataclasses.replace(tiny.SAMPLING, keep_low_band=True, clip_percentile=None)
  objective = tiny.objective("super_resolution", sampling=kept)
  t = np.arange(2_000) / 4_000
  low = 0.5 * np.sin(2 * np.pi * 440 * t)[None, :, None].astype(np.float32)
  made = sample(
    objective.stage, random_params(objective, seed=0)["network"],
    keys=clip_keys([3], stage_name="s"), steps=4_000, signals={"low_fidelity": low},
  )  # fmt: skip
  back = resample(made[..., 0], from_hz=8_000, to_hz=4_000)
  error = np.abs(back - low[..., 0])[0, 50:-50]
  assert error.max() < 0.02, "440 Hz must come through an untrained stage untouched"
  above = made[..., 0] - resample(back, from_hz=4_000, to_hz=8_000)
  assert np.std(above) > 0.01, "the band above is the stage's own"


def test_from_silence_the_seed_has_no_part() -> None:
  clips = {}
  for start in (0.0, 1.0):
    sampling = dataclasses.replace(tiny.SAMPLING, start_noise=start)
    objective = tiny.objective("super_resolution", sampling=sampling)
    params = random_params(objective, seed=0)["network"]
    low = np.full((2, 500, 1), 0.1, np.float32)
    keys = clip_keys([1, 2], stage_name="s")
    clips[start] = sample(
      objective.stage, params, keys=keys, steps=1_000, signals={"low_fidelity": low}
    )
  np.testing.assert_allclose(clips[0.0][0], clips[0.0][1], atol=1e-5)
  assert np.abs(clips[1.0][0] - clips[1.0][1]).max() > 1e-3


def test_stage_names_keep_their_noise_apart() -> None:
  a, b = clip_keys([1, 2], stage_name="a"), clip_keys([1, 2], stage_name="b")
  data = np.concatenate([jax.random.key_data(a), jax.random.key_data(b)])
  assert len({tuple(row) for row in data}) == 4
  big = clip_keys([1, 1 + 2**32], stage_name="a")
  assert len({tuple(row) for row in np.asarray(jax.random.key_data(big))}) == 2, "64 bits count"


def test_stages_are_put_in_order_and_missing_ones_named() -> None:
  generator, cascader, super_resolution = (tiny.objective(kind) for kind in WAVEFORM)
  ordered = Cascade.ordered([super_resolution, generator, cascader])
  assert [stage.name for stage in ordered.stages] == list(WAVEFORM)
  with pytest.raises(UserError, match="super_resolution listens to audio at 4,000 Hz"):
    Cascade.ordered([super_resolution, generator])
  with pytest.raises(UserError, match="several runs of stage waveform_generator"):
    Cascade.ordered([generator, tiny.objective("waveform_generator")])
  with pytest.raises(UserError, match="different routes"):
    Cascade.ordered([generator, tiny.objective("spectrogram_generator")])
  with pytest.raises(ValueError, match="no stage before"):
    Cascade(objectives=(super_resolution,))
  with pytest.raises(ValueError, match="different names"):
    Cascade(objectives=(generator, generator))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"seconds": 0.0}, "longer than 0"),
    ({"seconds": -1.0}, "longer than 0"),
    ({"batch_size": 0}, "at least 1"),
    ({"seeds": [1, 2]}, "as many seeds"),
    ({"sampling": {"nobody": tiny.SAMPLING}}, "nobody"),
  ],
)
def test_refuses_requests_that_make_no_sense(arguments: dict, message: str) -> None:
  stages, params = cascade()
  with pytest.raises(ValueError, match=message):
    stages.generate(params, ["a"], **{"seeds": [1], "seconds": 0.3, **arguments})


_EIGHT = """
import sys; sys.path.insert(0, sys.argv[1])
import jax, json, numpy as np, test_cascade
from noise2music.sharding.mesh import MeshShape
assert jax.device_count() == 8
stages, params = test_cascade.cascade()
prompts, sizes = ["a jig"] * 8, {"seconds": 0.3, "batch_size": 8}
mesh = MeshShape(**json.loads(sys.argv[3])).build()
made = stages.generate(params, prompts, seeds=range(8), mesh=mesh, **sizes)
np.save(sys.argv[2], made["super_resolution"])
"""


@pytest.mark.parametrize(
  "shape", [pytest.param({}, marks=pytest.mark.slow), {"data": 2, "sequence": 4}]
)
def test_eight_devices_give_the_clips_of_one(shape: dict, tmp_path: Path) -> None:
  flags = "--xla_force_host_platform_device_count=8"
  subprocess.run(
    [
      sys.executable,
      "-c",
      _EIGHT,
      str(Path(__file__).parent),
      str(tmp_path / "clips.npy"),
      json.dumps(shape),
    ],
    env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    check=True,
  )
  stages, params = cascade()
  one = stages.generate(params, ["a jig"] * 8, seeds=range(8), seconds=0.3, batch_size=8)
  # These networks are random and steep: rounding grows by a few hundred on its way through three.
  np.testing.assert_allclose(np.load(tmp_path / "clips.npy"), one["super_resolution"], atol=2e-3)
