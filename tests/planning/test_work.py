"""Operations against closed forms, and against the compiler where no loop hides any."""

import jax
import jax.numpy as jnp
import pytest

from noise2music.planning.work import count_flops, residual_bytes

A, B = jax.ShapeDtypeStruct((8, 16), "float32"), jax.ShapeDtypeStruct((16, 4), "float32")


def test_a_matrix_product() -> None:
  assert count_flops(jnp.matmul, A, B) == 2 * 8 * 16 * 4


def test_a_convolution() -> None:
  x = jax.ShapeDtypeStruct((2, 10, 3), "float32")
  kernel = jax.ShapeDtypeStruct((5, 3, 7), "float32")

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )

  assert count_flops(convolve, x, kernel) == 2 * (2 * 10 * 7) * 5 * 3


def test_a_loop_counts_each_round() -> None:
  square = jax.ShapeDtypeStruct((8, 8), "float32")

  def rounds(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=11)[0]

  assert count_flops(rounds, square) == 11 * 2 * 8**3


def test_what_devices_do_twice_counts_twice() -> None:
  """Rows split in two; along the other axis of the mesh four devices do the same."""
  mesh = jax.sharding.AbstractMesh((2, 4), ("data", "sequence"))
  rows = jax.sharding.PartitionSpec("data")

  def by_rows(a, b):
    whole = jax.sharding.PartitionSpec()
    return jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(rows, whole), out_specs=rows)(a, b)

  assert count_flops(by_rows, A, B) == 2 * 8 * 16 * 4


def test_a_gradient_is_two_more_products_and_remat_a_third() -> None:
  def loss(b, a):
    return jnp.sum(jnp.tanh(jnp.tanh(a) @ b) ** 2)

  one = 2 * 8 * 16 * 4
  both = lambda f: lambda a, b: jax.grad(f, argnums=(0, 1))(b, a)  # noqa: E731
  assert count_flops(both(loss), A, B) == 3 * one
  assert count_flops(both(jax.checkpoint(loss)), A, B) == 4 * one


def test_it_agrees_with_the_compiler_where_there_is_no_loop() -> None:
  layers = [jax.ShapeDtypeStruct((256, 256), "float32")] * 3
  x = jax.ShapeDtypeStruct((128, 256), "float32")

  def loss(layers, x):
    for layer in layers:
      x = x @ layer
    return jnp.sum(jnp.square(x))

  gradient = jax.grad(loss)
  compilers = jax.jit(gradient).lower(layers, x).compile().cost_analysis()["flops"]
  assert count_flops(gradient, layers, x) == pytest.approx(compilers, rel=0.02)


def test_what_a_gradient_keeps() -> None:
  w = jax.ShapeDtypeStruct((16, 16), "float32")

  def loss(w, x):
    return jnp.sum(jnp.sin(jnp.sin(x @ w) @ w))

  x = jax.ShapeDtypeStruct((100, 16), "float32")
  signal = 100 * 16 * 4
  assert residual_bytes(loss, w, x) >= 3 * signal
  assert residual_bytes(jax.checkpoint(loss), w, x) <= signal
