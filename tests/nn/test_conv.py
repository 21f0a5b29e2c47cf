"""Down- and up-sampling are the convolutions that they say they are."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.nn import conv

KEY = jax.random.key(0)


def _run(make, x):
  """Output of a compact call `make(x)`, and its bare parameters."""

  class Host(nn.Module):
    @nn.compact
    def __call__(self, x):
      return make(x)

  variables = nn.meta.unbox(jax.jit(Host().init)(KEY, x))
  return jax.jit(Host().apply)(variables, x), variables["params"]["layer"]


def test_fold_lays_neighbours_side_by_side_and_unfold_undoes_it():
  x = np.arange(12.0).reshape(1, 6, 2)
  assert conv.fold(x, 3)[0, 1].tolist() == [6, 7, 8, 9, 10, 11]
  assert (conv.unfold(conv.fold(x, 3), 3) == x).all()


def test_convolution_is_centred_and_sees_zeros_beyond_the_ends():
  x = np.arange(1.0, 6.0, dtype=np.float32).reshape(1, 5, 1)
  y, params = _run(lambda x: conv.Conv1D(1, 3, name="layer")(x), x)
  before, here, after = params["kernel"][:, 0, 0]
  line = np.pad(x[0, :, 0], 1)
  want = before * line[:-2] + here * line[1:-1] + after * line[2:]
  np.testing.assert_allclose(y[0, :, 0], want, rtol=1e-6)


def test_downsampling_is_a_strided_convolution():
  x = np.random.default_rng(0).normal(size=(2, 12, 3)).astype(np.float32)
  y, params = _run(
    lambda x: conv.downsample(x, channels=5, stride=4, name="layer", dtype=jnp.float32), x
  )
  want = jax.lax.conv_general_dilated(
    x, params["kernel"].reshape(4, 3, 5), (4,), "VALID", dimension_numbers=("NHC", "HIO", "NHC")
  )
  np.testing.assert_allclose(y, want, atol=1e-5)


def test_upsampling_is_a_transposed_convolution():
  x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
  y, params = _run(
    lambda x: conv.upsample(x, channels=3, stride=4, name="layer", dtype=jnp.float32), x
  )
  kernel = jnp.flip(params["kernel"].reshape(5, 4, 3).swapaxes(0, 1), axis=0)
  want = jax.lax.conv_general_dilated(
    x, kernel, (1,), [(3, 3)], lhs_dilation=(4,), dimension_numbers=("NHC", "HIO", "NHC")
  )
  np.testing.assert_allclose(y, want, atol=1e-5)


def test_gradient_of_the_dense_product_equals_automatic_differentiation():
  rng = np.random.default_rng(0)
  x, kernel, weight = (
    rng.normal(size=shape).astype(np.float32) for shape in ((2, 5, 3, 4), (3, 4, 6), (2, 5, 6))
  )
  dimensions = (((2, 3), (0, 1)), ((), ()))

  def gradients(product):
    loss = lambda x, kernel: jnp.sum(weight * jnp.sin(product(x, kernel, dimensions)))  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)

  have, want = gradients(conv.dot_general), gradients(jax.lax.dot_general)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), have, want)


def test_a_dense_product_over_other_axes_is_refused():
  with pytest.raises(NotImplementedError, match="last axes"):
    conv.dot_general(np.ones((2, 3)), np.ones((2, 4)), (((0,), (0,)), ((), ())))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parameters_are_float32_in_any_compute_type(dtype):
  x = np.ones((1, 4, 2), np.float32)
  y, params = _run(lambda x: conv.Conv1D(3, 3, dtype=dtype, name="layer")(x), x)
  assert y.dtype == dtype
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("padding", [(1, 1), (1, 2), (0, 3), (3, 0)])
def test_gradient_of_the_convolution_equals_automatic_differentiation(padding):
  rng = np.random.default_rng(0)
  low, high = padding
  taps, steps = low + high + 1, 7
  x, kernel, weight = (
    rng.normal(size=shape).astype(np.float32)
    for shape in ((2, steps, 3), (taps, 3, 5), (2, steps, 5))
  )

  def gradients(convolve):
    loss = lambda x, kernel: jnp.sum(weight * jnp.sin(convolve(x, kernel)))  # noqa: E731
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(x, kernel)

  def plain(x, kernel):
    dimensions = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x, kernel, (1,), [padding], dimension_numbers=dimensions)

  have, want = gradients(lambda x, kernel: conv._conv(x, kernel, padding)), gradients(plain)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), have, want)


@pytest.mark.parametrize(
  "layer",
  [conv.Conv1D(3, 3, dtype=jnp.bfloat16), conv.dense(3, dtype=jnp.bfloat16, name="layer")],
)
def test_gradients_of_kernels_are_summed_in_float32(layer, monkeypatch):
  monkeypatch.setattr(conv, "platform", lambda: "tpu")
  x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 4)), jnp.bfloat16)
  params = nn.meta.unbox(layer.init(KEY, x))
  loss = lambda params: jnp.sum(layer.apply(params, x).astype(jnp.float32))  # noqa: E731
  gradient = jax.jit(jax.grad(loss))(params)["params"]["kernel"]
  # Where every output counts alike, the middle tap's gradient is the sum of the input.
  middle = gradient.reshape(-1, 4, 3)[gradient.ndim // 3]
  want = np.asarray(x.astype(jnp.float32)).sum(axis=(0, 1), dtype=np.float64)
  np.testing.assert_allclose(middle, np.repeat(want[:, None], 3, axis=1), rtol=1e-5)
