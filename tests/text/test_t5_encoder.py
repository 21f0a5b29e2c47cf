"""The encoder against transformers, against a reference in numpy, and against its promises."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from flax.core import meta
from t5_cases import V1_0, V1_1, VERSIONS, golden, random_params, reference, write_t5x_legacy

from noise2music.errors import UserError
from noise2music.text.t5_encoder import T5Config, T5Encoder
from noise2music.text.t5_weights import load_t5
from noise2music.text.tokenizer import ByteTokenizer, tokenize


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
  """version -> a jitted (tokens, mask) -> encoding with random weights, and these."""
  folder = tmp_path_factory.mktemp("weights")
  made = {}
  for version, config in VERSIONS.items():
    stored = random_params(config, seed=11)
    loaded, params = load_t5(write_t5x_legacy(folder / version, stored))
    assert loaded == config
    apply = jax.jit(lambda t, m, c=config, p=params: T5Encoder(c).apply({"params": p}, t, m))
    made[version] = (apply, stored)
  return made


def _tokens(seed: int, *, real: int = 12) -> tuple[np.ndarray, np.ndarray]:
  """Two rows of 12 tokens, of which `real` are; one shape for all, to compile once."""
  tokens = np.random.default_rng(seed).integers(1, 32, (2, 12)).astype(np.int32)
  return tokens, np.broadcast_to(np.arange(12) < real, tokens.shape)


@pytest.mark.parametrize("version", VERSIONS)
def test_agrees_with_transformers(version, tmp_path):
  stored, tokens, mask, want = golden(version)
  config, params = load_t5(write_t5x_legacy(tmp_path / "t5", stored))
  have = jax.jit(T5Encoder(config).apply)({"params": params}, tokens, mask)
  assert tokens.shape[1] > config.max_distance
  np.testing.assert_allclose(np.asarray(have)[mask], want[mask], atol=1e-5)


@pytest.mark.parametrize("version", VERSIONS)
def test_agrees_with_the_formulas(version, encoders):
  apply, stored = encoders[version]
  tokens, mask = _tokens(0, real=9)
  have = np.asarray(apply(tokens, mask))
  for row in range(2):
    want = reference(VERSIONS[version], stored, list(tokens[row, :9]))
    np.testing.assert_allclose(have[row, :9], want, atol=1e-5)


def test_padding_neither_matters_nor_shows(encoders):
  apply, _ = encoders["v1_1"]
  tokens, mask = _tokens(1, real=9)
  alone = np.asarray(apply(tokens[:, :9], mask[:, :9]))
  have = np.asarray(apply(tokens, mask))  # the mask rules, not the id: no padding id here
  np.testing.assert_allclose(have[:, :9], alone, atol=1e-5)
  assert not have[:, 9:].any()


def test_a_row_without_text_is_zero(encoders):
  apply, _ = encoders["v1_1"]
  tokens, mask = _tokens(2)
  have = np.asarray(apply(tokens, mask & np.array([[True], [False]])))
  assert np.isfinite(have).all()
  assert have[0].any()
  assert not have[1].any()


def test_attention_looks_both_ways(encoders):
  apply, _ = encoders["v1_0"]
  tokens, mask = _tokens(3)
  before = np.asarray(apply(tokens, mask))[0]
  for changed in (0, 11):
    other = tokens.copy()
    other[0, changed] = other[0, changed] % 31 + 1
    after = np.asarray(apply(other, mask))[0]
    assert (np.abs(after - before).max(axis=-1) > 1e-4).all()


def test_foreign_ids_are_loud(encoders):
  apply, _ = encoders["v1_1"]
  tokens, mask = _tokens(6)
  tokens[0, 3] = 32
  have = np.asarray(apply(tokens, mask))
  assert np.isnan(have[0]).any()
  assert np.isfinite(have[1]).all()


def test_bfloat16_stays_near_and_returns_float32(encoders, tmp_path):
  apply, stored = encoders["v1_1"]
  tokens, mask = _tokens(4)
  config, params = load_t5(write_t5x_legacy(tmp_path / "t5", stored))
  half = T5Encoder(dataclasses.replace(config, dtype=jnp.bfloat16))
  have = jax.jit(half.apply)({"params": params}, tokens, mask)
  want = apply(tokens, mask)
  assert have.dtype == jnp.float32
  error = np.abs(np.asarray(have - want)).max()
  assert 1e-4 < error < 0.15  # eight bits of mantissa, not 24: it did compute in bfloat16


@pytest.mark.parametrize("config", [V1_0, V1_1, T5Config.tiny()])
def test_every_parameter_names_its_axes_and_is_float32(config):
  tokens = jnp.zeros((1, 4), jnp.int32)
  encoder = T5Encoder(dataclasses.replace(config, dtype=jnp.bfloat16))
  variables = jax.eval_shape(encoder.init, jax.random.key(0), tokens, tokens == 0)
  specs = traverse_util.flatten_dict(nn.get_partition_spec(variables)["params"], sep="/")
  leaves = traverse_util.flatten_dict(meta.unbox(variables)["params"], sep="/")
  assert len(leaves) == 3 + config.layers * (9 if config.gated else 8)
  for name, leaf in leaves.items():
    assert leaf.dtype == jnp.float32, name
    assert len(specs[name]) == leaf.ndim, name
    assert all(specs[name]), name
  assert tuple(specs["token_embedder/embedding"]) == ("vocab", "text_width")
  assert tuple(specs["layers_0/attention/query/kernel"]) == ("text_width", "heads", "head_width")
  assert tuple(specs["layers_0/mlp/wo/kernel"]) == ("hidden", "text_width")


@pytest.fixture(scope="module")
def fresh():
  """Fresh parameters of the tiny encoder."""
  tokens = jnp.zeros((1, 4), jnp.int32)
  variables = jax.jit(T5Encoder(T5Config.tiny()).init)(jax.random.key(0), tokens, tokens == 0)
  return meta.unbox(variables)["params"]


def test_fresh_weights_keep_the_scale(fresh):
  """Variance one over the inputs; the query's also stands for the scaling of the logits."""
  attention, mlp = fresh["layers_1"]["attention"], fresh["layers_1"]["mlp"]
  for name, kernel, variance in [
    ("query", attention["query"]["kernel"], 1 / (64 * 16)),
    ("key", attention["key"]["kernel"], 1 / 64),
    ("out", attention["out"]["kernel"], 1 / (4 * 16)),
    ("wi_0", mlp["wi_0"]["kernel"], 1 / 64),
    ("wo", mlp["wo"]["kernel"], 1 / 128),
    ("embedding", fresh["token_embedder"]["embedding"], 1),
  ]:
    np.testing.assert_allclose(np.var(kernel), variance, rtol=0.1, err_msg=name)


def test_the_tiny_encoder_learns(fresh):
  """From bytes to one of two classes by the mean embedding; all of its parameters take part."""
  texts = ["slow flute", "fast flute", "a fast violin tune", "a slow violin tune"]
  tokens, mask = tokenize(texts, tokenizer=ByteTokenizer(), length=20)
  labels = jnp.array([0.0, 1.0, 1.0, 0.0])
  encoder, params = T5Encoder(T5Config.tiny()), fresh
  assert 50_000 < sum(p.size for p in jax.tree.leaves(params)) < 150_000

  def loss(params):
    encoded = encoder.apply({"params": params}, tokens, mask)
    logit = encoded.sum(axis=(1, 2)) / mask.sum(axis=1)
    return jnp.mean(jnp.square(logit - labels))

  @jax.jit
  def step(params):
    value, grads = jax.value_and_grad(loss)(params)
    return value, grads, jax.tree.map(lambda p, g: p - 0.002 * g, params, grads)

  first, grads, params = step(params)
  flat = traverse_util.flatten_dict(grads, sep="/")
  assert [name for name, g in flat.items() if not np.any(g)] == []
  for _ in range(40):
    last, _, params = step(params)
  assert last < 0.05 * first


@pytest.mark.parametrize(
  ("change", "word"),
  [
    ({"width": 0}, "width"),
    ({"layers": -1}, "layers"),
    ({"vocab_size": 10**30}, "vocab_size"),
    ({"buckets": 30}, "buckets"),
    ({"max_distance": 8}, "max_distance"),
    ({"norm_epsilon": 0.0}, "norm_epsilon"),
  ],
)
def test_refuses_sizes_that_cannot_be(change, word):
  with pytest.raises(UserError, match=word):
    dataclasses.replace(V1_1, **change)


def test_refuses_a_tokenizer_with_more_ids():
  T5Config.tiny().check_tokenizer(ByteTokenizer())
  with pytest.raises(UserError, match="384 ids"):
    V1_1.check_tokenizer(ByteTokenizer())
