"""Texts embedded ahead of training: loss and gradients are those of the encoder in the step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from noise2music.batch import TEXT_EMBEDDING
from noise2music.errors import UserError
from noise2music.sharding.rules import unbox
from noise2music.stages import conditioning
from noise2music.stages.text_conditioner import EmbeddedAhead

KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("light_compilation")


def _both(*, dropout: float = 0.3):
  """The same stage with a frozen encoder in the step, and with its texts embedded ahead."""
  objective = tiny.objective(
    "waveform_generator", conditions={"text": conditioning.CrossAttention(dropout=dropout)}
  )
  conditioner = dataclasses.replace(objective.text_conditioner, trainable=False, weights="t5")
  return (
    dataclasses.replace(objective, text_conditioner=conditioner),
    dataclasses.replace(objective, text_conditioner=EmbeddedAhead(conditioner=conditioner)),
  )


@pytest.mark.slow  # as `n2m data embed` is tested to, whole
def test_loss_and_gradients_are_those_of_the_encoder_in_the_step() -> None:
  frozen, ahead = _both()
  batch = tiny.batch(8)
  batch["token_mask"][5] = False  # a clip without a text
  params = unbox(frozen.init(KEY, batch))
  embed = frozen.text_conditioner.embed
  exact = np.asarray(embed(params["text_encoder"], batch["tokens"], batch["token_mask"]))
  given = {**batch, TEXT_EMBEDDING: exact}
  bare = unbox(ahead.init(KEY, given))
  assert bare.keys() == {"network"}
  jax.tree.map(np.testing.assert_array_equal, bare["network"], params["network"])

  exit_kernel = params["network"]["exit"]["kernel"]  # zero at first, which hides all before it
  moved = {**params["network"], "exit": {**params["network"]["exit"], "kernel": exit_kernel + 0.1}}
  gradient = lambda o: jax.jit(jax.value_and_grad(o.loss, has_aux=True))  # noqa: E731
  (want, _), grads = gradient(frozen)({**params, "network": moved}, batch, KEY)
  scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads["network"]))
  looked_up = gradient(ahead)
  # The same operations on the same numbers, then on numbers rounded to eleven bits.
  for embedding, tolerance in ((exact, 1e-5), (exact.astype(np.float16).astype(np.float32), 3e-3)):
    given[TEXT_EMBEDDING] = embedding
    (have, _), ours = looked_up({"network": moved}, given, KEY)
    np.testing.assert_allclose(have, want, rtol=tolerance)
    jax.tree.map(
      lambda a, b, near=tolerance * scale: np.testing.assert_allclose(a, b, atol=near),
      ours["network"],
      grads["network"],
    )
  given[TEXT_EMBEDDING] = exact[::-1].copy()
  assert abs(looked_up({"network": moved}, given, KEY)[0][0] - want) > 1e-4 * abs(want)


def test_float16_is_widened_before_anything_is_computed() -> None:
  _, ahead = _both()
  batch = {**tiny.batch(2), TEXT_EMBEDDING: np.ones((2, 32, 16), np.float16)}
  batch["token_mask"][1] = False
  text = ahead.text({}, batch, keep=np.ones(2, bool))
  assert text.embedding.dtype == jnp.float32
  assert text.keep.tolist() == [True, False]


def test_all_that_trains_is_the_network() -> None:
  _, ahead = _both()
  assert ahead.trainable({"network": {"a": 1.0}}) == {"network": {"a": True}}
  assert ahead.pretrained({"network": {"a": 1.0}}) == {"network": {"a": 1.0}}


def test_batches_that_bring_nothing_or_another_width_are_refused() -> None:
  _, ahead = _both()
  batch = tiny.batch(2)
  with pytest.raises(UserError, match="bring no text embeddings"):
    ahead.init(KEY, batch)
  with pytest.raises(UserError, match="8 wide, the text encoder's 16"):
    ahead.init(KEY, {**batch, TEXT_EMBEDDING: np.zeros((2, 32, 8), np.float16)})


def test_an_encoder_that_is_trained_along_is_refused() -> None:
  with pytest.raises(UserError, match="trained along has no embeddings ahead"):
    EmbeddedAhead(conditioner=tiny.text_conditioner())


def test_data_that_name_no_encoder_are_refused(monkeypatch) -> None:
  _, ahead = _both()
  inner = ahead.text_conditioner.conditioner
  params = unbox(inner.init(KEY, jnp.ones((1, 4), jnp.int32)))
  monkeypatch.setattr(type(inner), "pretrained", lambda self, _: params)
  made_with = {"encoder": inner.fingerprint(params)}
  ahead.check_data({TEXT_EMBEDDING: made_with})
  for dataset in (None, {}, {"seed": 0}):
    with pytest.raises(UserError, match="do not say which encoder"):
      ahead.check_data(dataset)
  made_with["encoder"]["weights"] += 1
  with pytest.raises(UserError, match=r"t5 is not the encoder .*\(weights differ\): put that"):
    ahead.check_data({TEXT_EMBEDDING: made_with})
