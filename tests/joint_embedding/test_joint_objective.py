"""The two towers learn which tone goes with which words, and are used on clips of any length."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax import numpy as jnp

from noise2music.audio.log_mel import LogMel
from noise2music.batch import AUDIO, TOKEN_MASK, TOKENS, BatchSpec, clip_id
from noise2music.errors import UserError
from noise2music.evaluation.retrieval import retrieval_at, zero_shot
from noise2music.joint_embedding.audio_tower import ResNet
from noise2music.joint_embedding.contrastive import MuLan
from noise2music.joint_embedding.embedder import Embedder
from noise2music.joint_embedding.objective import JointEmbeddingObjective
from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import LogicalRules, unbox
from noise2music.text.t5_encoder import T5Config, T5Encoder
from noise2music.text.tokenizer import tokenize
from noise2music.training.optimizer import Optimizer
from noise2music.training.setup import prepare
from noise2music.training.state import initial_state
from noise2music.training.step import make_step

RATE, TONES = 8_000, (220, 440, 880, 1_760)
WORDS = ("low", "middle", "high", "shrill")


def objective(**changes) -> JointEmbeddingObjective:
  config = T5Config(vocab_size=384, width=16, layers=1, heads=2, head_dim=8, ffn_width=32)
  settings = {
    "backbone": ResNet(blocks=(1, 1), width=8, groups=4, expansion=2),
    "text_encoder": T5Encoder(config),
    "token_length": 12,
    "width": 16,
    "log_mel": LogMel(sample_rate_hz=8_000, bands=32, window_seconds=0.064, min_hz=60.0),
    "sample_rate_hz": RATE,
    "window_seconds": 0.5,
  }
  return JointEmbeddingObjective(**{**settings, **changes})


def tone(which: int, seconds: float, seed: int) -> np.ndarray:
  draw = np.random.default_rng(seed)
  t = np.arange(round(seconds * RATE)) / RATE
  pitch = TONES[which] * 2 ** draw.uniform(-0.2, 0.2)
  return (0.3 * np.sin(2 * np.pi * pitch * t) + 0.01 * draw.normal(size=len(t))).astype(np.float32)


def batch(size: int, seed: int, *, shuffled: bool = False) -> dict[str, np.ndarray]:
  draw = np.random.default_rng(seed)
  which = draw.integers(0, len(TONES), size)
  said = draw.permutation(which) if shuffled else which
  out = BatchSpec(batch_size=size, seconds=0.5, sample_rate_hz=RATE, token_length=12).zeros()
  for row in range(size):
    out[AUDIO][row] = 32_767 * tone(which[row], 0.5, seed * size + row)
    out["clip_id"][row] = clip_id(f"{seed} {row}")
  texts = [f"a {WORDS[k]} tone" for k in said]
  out[TOKENS], out[TOKEN_MASK] = tokenize(texts, tokenizer=objective().tokenizer, length=12)
  return out


def trained(*, shuffled: bool) -> dict:
  """Parameters after 60 updates."""
  step, state = _step_and_state()
  for k in range(60):
    state, _ = step(state, batch(16, k + 1, shuffled=shuffled), 60, k)
  return state.params


@functools.cache
def _step_and_state():
  ours = objective()
  params = jax.jit(lambda key, b: unbox(ours.init(key, b)))(jax.random.key(0), batch(16, 0))
  optimizer = Optimizer(peak_learning_rate=3e-3, warmup_steps=5, decay_steps=60, ema=None)
  mask = ours.trainable(params)
  step = jax.jit(make_step(ours, optimizer=optimizer, mask=mask, seed=0))
  return step, initial_state(params, mask=mask, optimizer=optimizer)


@pytest.fixture(scope="module")
def learnt():
  return trained(shuffled=False)


def test_towers_learn_what_belongs_together_and_cannot_from_shuffled_pairs(learnt):
  draw = np.random.default_rng(7)
  which = draw.integers(0, len(TONES), 40)
  clips = [tone(k, 0.5, 10_000 + row) for row, k in enumerate(which)]
  shares = {}
  for name, params in {"learnt": learnt, "shuffled": trained(shuffled=True)}.items():
    embedder = Embedder(objective=objective(), params=params, weights=name)
    labels = embedder.embed_texts([f"a {word} tone" for word in WORDS])
    shares[name] = zero_shot(embedder.embed_audio(clips), labels=labels, right=which)
  assert shares["learnt"].value > 0.9
  assert shares["learnt"].interval_95[0] > shares["learnt"].chance == 0.25
  assert shares["shuffled"].value < 0.6  # a tone is told or not, so luck may give two of four


def test_the_log_says_what_chance_is_and_towers_that_know_nothing_are_at_it(learnt):
  flat = {**learnt, "audio": jax.tree.map(jnp.zeros_like, learnt["audio"])}
  ours = objective(contrast=MuLan(), spec_augment=None)
  loss, metrics = jax.jit(ours.loss)(flat, batch(16, 5), jax.random.key(0))
  found = {name: float(value) for name, value in metrics.items()}
  assert float(loss) == pytest.approx(found["chance"], rel=1e-5)
  assert found["chance"] == pytest.approx(np.log(30), rel=1e-5)
  assert found["retrieval@1/chance"] == pytest.approx(1 / 16)
  assert found["retrieval@10/chance"] == pytest.approx(10 / 16)
  assert found["retrieval@1"] == 0
  assert found["retrieval@10"] == 1  # all are equally near: each is the 8.5th
  assert 0.01 <= found["temperature"] <= 1


def test_clips_without_a_text_change_nothing(learnt):
  ours, rows = objective(spec_augment=None), batch(8, 99)
  rows[TOKEN_MASK][3] = False
  run = jax.jit(ours.loss)
  loss, _ = run(learnt, rows, jax.random.key(1))
  rows[AUDIO][3] = 0
  again, _ = run(learnt, rows, jax.random.key(1))
  assert float(loss) == float(again)
  left = {name: np.delete(array, 3, axis=0) for name, array in rows.items()}
  alone, _ = run(learnt, left, jax.random.key(1))
  assert float(alone) == pytest.approx(float(loss), rel=1e-5)


def test_a_long_clip_is_the_mean_of_its_windows(learnt):
  embedder = Embedder(objective=objective(), params=learnt, weights="w", batch_size=3)
  parts = [tone(k, 0.5, k) for k in range(3)]
  long = np.concatenate([*parts, parts[0][:1000]])  # what is no whole window is passed over
  vectors = embedder.embed_audio([long, *parts, parts[1][:3_000]])
  mean = vectors[1:4].mean(0)
  np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
  np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
  assert vectors[4] @ vectors[2] > 0.9  # a short clip is repeated
  with pytest.raises(UserError, match="without a sample"):
    embedder.embed_audio([np.zeros(0, np.float32)])


def test_retrieval_counts_ties_as_chance_would():
  perfect = retrieval_at(1, similarity=np.eye(10))
  assert (perfect.value, perfect.chance, perfect.n) == (1.0, 0.1, 10)
  equal = retrieval_at(3, similarity=np.zeros((10, 10)))
  assert equal.value == pytest.approx(0.3)
  assert retrieval_at(1, similarity=-np.eye(10)).value == 0
  with pytest.raises(ValueError, match="NaN"):
    retrieval_at(1, similarity=np.full((10, 10), np.nan))


def test_nobody_works_through_a_batch_in_parts_that_should_be_compared():
  training = SimpleNamespace(objective=objective(), rules=LogicalRules(), accumulation=2, seed=0)
  with pytest.raises(UserError, match="set ACCUMULATION to 1"):
    prepare(training, batch(8, 0), mesh=MeshShape().build())


def test_fingerprints_tell_what_changes_a_vector(learnt):
  ours = Embedder(objective=objective(), params=learnt, weights="w")
  others = [
    dataclasses.replace(ours, weights="v"),
    dataclasses.replace(ours, objective=objective(token_length=6)),
    dataclasses.replace(ours, objective=objective(window_seconds=1.0)),
  ]
  assert len({each.fingerprint for each in (ours, *others)}) == 4
  assert ours.fingerprint == dataclasses.replace(ours, batch_size=3).fingerprint
  assert ours.embed_audio([]).shape == ours.embed_texts([]).shape == (0, 16)
