import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from noise2music.stages import conditioning
from noise2music.stages.objective import loss_by_noise_level

KEY = jax.random.key(0)


pytestmark = pytest.mark.usefixtures("light_compilation")


def _init(objective, batch):
  return jax.tree.map(
    lambda leaf: leaf.unbox() if hasattr(leaf, "unbox") else leaf,
    objective.init(KEY, batch),
    is_leaf=lambda leaf: hasattr(leaf, "unbox"),
  )


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_stage_has_a_finite_loss_and_a_gradient_everywhere(kind: str) -> None:
  objective, batch = tiny.objective(kind), tiny.batch(4)
  params = _init(objective, batch)
  step = jax.jit(jax.value_and_grad(objective.loss, has_aux=True))
  # The exit convolution starts at zero, which holds all other gradients at zero: take a few steps.
  for index in range(4):
    (loss, aux), grads = step(params, batch, jax.random.fold_in(KEY, index))
    assert np.isfinite(loss)
    assert index > 0 or loss == aux["chance"]  # as it begins, it knows nothing
    params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
  levels = [pair for name, pair in aux.items() if name.startswith("loss/")]
  assert sum(float(count) for _, count in levels) == 4
  still = [
    jax.tree_util.keystr(path)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads)
    if not np.any(np.asarray(grad))
  ]
  assert not still, f"no gradient reaches {still}"


def test_a_clip_has_one_loss_wherever_it_lies_in_a_batch() -> None:
  objective, batch = tiny.objective("waveform_cascader"), tiny.batch(4)
  params = _init(objective, batch)
  back = {name: array[::-1] for name, array in batch.items()}
  loss = jax.jit(objective.loss)
  a, b = loss(params, batch, KEY)[0], loss(params, back, KEY)[0]
  np.testing.assert_allclose(a, b, rtol=1e-6)
  other = loss(params, batch, jax.random.key(1))[0]
  assert abs(other - a) > 1e-4, "noise must depend on the key"


def test_padding_has_no_part_in_the_loss() -> None:
  objective, batch = tiny.objective("waveform_generator"), tiny.batch(2)
  params = _init(objective, batch)
  params["network"]["exit"]["bias"] = jnp.array([0.3])
  half = batch["audio"].shape[1] // 2
  short = {**batch, "audio_length": np.full(2, half, np.int32)}
  # Whole, the padding counts: so the two differ.
  assert abs(objective.loss(params, short, KEY)[0] - objective.loss(params, batch, KEY)[0]) > 1e-3
  example = objective.example(short)
  assert example.x.shape[1] % objective.stage.network.stride == 0
  np.testing.assert_array_equal(example.mask.sum(1), [250, 250])


def _away_from_zero(params):
  """Past the exit convolution's zeros, so that every path has an influence."""
  params["network"]["exit"]["kernel"] = 0.1 * jnp.ones_like(params["network"]["exit"]["kernel"])
  return params


def test_a_clip_without_tokens_has_no_text() -> None:
  objective, batch = tiny.objective("waveform_generator"), tiny.batch(2)
  params = _away_from_zero(_init(objective, batch))
  no_text = {**batch, "token_mask": np.zeros_like(batch["token_mask"])}
  for data, reached in ((no_text, False), (batch, True)):
    grads = jax.grad(objective.loss, has_aux=True)(params, data, KEY)[0]
    touched = any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(grads["text_encoder"]))
    assert touched == reached


def test_text_is_dropped_in_its_share_of_clips() -> None:
  objective = tiny.objective("waveform_generator")
  dropped = dataclasses.replace(
    objective, stage=dataclasses.replace(
      objective.stage, conditions={"text": conditioning.CrossAttention(dropout=0.4)}
    )
  )  # fmt: skip
  batch = tiny.batch(64, seconds=0.1)
  params = _away_from_zero(_init(objective, batch))
  other = {**batch, "tokens": batch["tokens"] + 5 * (batch["tokens"] > 1)}

  def changed(objective) -> float:
    """The share of clips whose loss depends on their text."""
    each = jax.jit(
      jax.vmap(
        lambda row: objective.loss(params, {k: v[None] for k, v in row.items()}, KEY)[0]
      )
    )  # fmt: skip
    return float(np.mean(np.abs(each(batch) - each(other)) > 0))

  assert 0.8 < changed(objective) <= 1.0
  assert 0.45 < changed(dropped) < 0.75


def test_a_frozen_encoder_gets_no_gradient_and_an_untrainable_mark() -> None:
  objective = tiny.objective("waveform_generator")
  params = {"network": {"a": 1.0}, "text_encoder": {"b": 1.0}}
  assert objective.trainable(params) == {"network": {"a": True}, "text_encoder": {"b": True}}
  object.__setattr__(objective.text_conditioner, "trainable", False)
  assert objective.trainable(params) == {"network": {"a": True}, "text_encoder": {"b": False}}


def test_a_frozen_encoder_without_weights_is_refused() -> None:
  with pytest.raises(ValueError, match="needs weights"):
    type(tiny.text_conditioner())(encoder=tiny.text_conditioner().encoder)


def test_loss_by_noise_level_adds_up() -> None:
  each, t = jnp.array([1.0, 2.0, 4.0]), jnp.array([0.05, 0.15, 1.0])
  levels = loss_by_noise_level(each, t)
  assert [float(v) for v in levels["loss/t_0.1"]] == [3.0, 2.0]
  assert [float(v) for v in levels["loss/t_0.9"]] == [4.0, 1.0]
  assert [float(v) for v in levels["loss/t_0.5"]] == [0.0, 0.0]
