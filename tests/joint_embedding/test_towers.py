"""The towers: sizes as published, unit vectors that do not depend on the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.joint_embedding.audio_tower import AudioSpectrogramTransformer, AudioTower, ResNet
from noise2music.joint_embedding.spec_augment import SpecAugment
from noise2music.joint_embedding.text_tower import TextTower
from noise2music.sharding.rules import unbox
from noise2music.text.t5_encoder import T5Config, T5Encoder

pytestmark = pytest.mark.usefixtures("light_compilation")
KEY = jax.random.key(0)
SMALL = {
  "ResNet": ResNet(blocks=(1, 1), width=4, groups=4),
  "AudioSpectrogramTransformer": AudioSpectrogramTransformer(
    patch=8, stride=4, width=16, layers=1, heads=2, longest=64
  ),
}


def size(module, *inputs) -> int:
  params = jax.eval_shape(module.init, KEY, *inputs)
  return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_the_defaults_have_the_published_sizes():
  """torchvision's ResNet-50 has 23.5 M parameters before its classifier, with three input channels;
  AST 86 M."""
  assert size(ResNet(), jnp.zeros((1, 1000, 64))) == pytest.approx(23.5e6, rel=0.01)
  ast = AudioSpectrogramTransformer()
  assert size(ast, jnp.zeros((1, 1000, 128))) == pytest.approx(86e6, rel=0.02)


@pytest.mark.parametrize("name", SMALL)
def test_a_clips_vector_is_its_own_whatever_the_batch(name):
  tower = AudioTower(backbone=SMALL[name], width=8)
  mel = jax.random.normal(KEY, (4, 64, 16))
  # Residual branches start at zero: stir, or there is nothing to see.
  stir = lambda p: p + 0.1 * jax.random.normal(KEY, p.shape)  # noqa: E731
  params = jax.tree.map(stir, unbox(jax.jit(tower.init)(KEY, mel)))
  run = jax.jit(tower.apply)
  found = run(params, mel)
  np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(run(params, mel[1:2]), found[1:2], atol=1e-5)
  assert float(jnp.abs(found[0] - found[1]).max()) > 0.01


def test_a_transformer_says_how_long_clips_may_be():
  small = SMALL["AudioSpectrogramTransformer"]
  with pytest.raises(UserError, match="give 8 to 64 frames"):
    small.init(KEY, jnp.zeros((1, 80, 16)))


def test_a_texts_vector_does_not_depend_on_padding_and_no_text_gives_zeros():
  config = T5Config(vocab_size=32, width=8, layers=1, heads=2, head_dim=4, ffn_width=16)
  tower = TextTower(encoder=T5Encoder(config), width=8)
  tokens = jnp.array([[3, 4, 1, 0, 0], [5, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
  mask = tokens > 0
  params, run = jax.jit(tower.init)(KEY, tokens, mask), jax.jit(tower.apply)
  found = run(params, tokens, mask)
  np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), [1, 1, 0], atol=1e-5)
  np.testing.assert_allclose(run(params, tokens[:, :3], mask[:, :3]), found, atol=1e-5)
  gradient = jax.jit(jax.grad(lambda p: jnp.sum(tower.apply(p, tokens, mask) ** 3)))(params)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(unbox(gradient)))


def test_spec_augment_hides_stretches_of_its_own_for_each_clip():
  augment = SpecAugment(frequency_masks=1, bands=4, time_masks=1, share=0.25)
  mel = jax.random.normal(KEY, (8, 40, 16))
  keys = jax.random.split(KEY, 8)
  hidden = np.asarray(augment(mel, keys) != mel)
  rows, columns = hidden.all(2).sum(1), hidden.all(1).sum(1)  # frames, bands hidden as a whole
  assert rows.max() <= 10
  assert columns.max() <= 4
  assert len(set(zip(rows, columns, strict=True))) > 3
  assert hidden.any()
  alone, among = augment(mel[2:3], keys[2:3])[0], augment(mel, keys)[2]
  np.testing.assert_allclose(alone, among, rtol=1e-5)  # the mean in what is hidden is rounded
