"""The U-Net: its four entries, what hiding a text does, its axes, types and refusals."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.errors import UserError
from noise2music.nn import axes
from noise2music.nn.unet1d import UNet1D

KEY = jax.random.key(0)
NET = UNet1D(
  out_channels=2,
  base_width=4,
  kernel_size=3,
  strides=(2, 2),
  width_multipliers=(1, 2),
  blocks=(1, 2),
  self_attention=(False, False),
  cross_attention=(False, True),
  heads=2,
  aligned=True,
  combine=True,
)
PLAIN = UNet1D(
  out_channels=1, base_width=4, kernel_size=3, strides=(2,), width_multipliers=(1,), blocks=(1,)
)
T = np.array([0.1, 0.5, 0.9], np.float32)


def _draw(*shape: int) -> np.ndarray:
  return np.random.default_rng(math.prod(shape)).normal(size=shape).astype(np.float32)


X, TEXT = _draw(3, 8, 3), _draw(3, 4, 6)
INPUTS = {"aligned": _draw(3, 2, 5), "embedding": _draw(3, 7)}


def _variables(net, *args, **kwargs):
  """Parameters away from their initial zeros."""
  variables = nn.meta.unbox(jax.jit(net.init)(KEY, *args, **kwargs))
  return jax.tree.map(lambda a: np.asarray(a) + 0.2 * _draw(*a.shape), variables)


@pytest.fixture(scope="module")
def variables():
  return _variables(NET, X, T, text=TEXT, **INPUTS)


@functools.cache
def _applied(net):
  return jax.jit(net.apply)


def _run(variables, x=X, t=T, *, net=NET, **inputs):
  return np.asarray(_applied(net)(variables, x, t, **{**INPUTS, **inputs}))


def test_a_fresh_network_returns_zeros_of_the_target_shape():
  y, _ = jax.jit(PLAIN.init_with_output)(KEY, X, T)
  assert y.shape == (3, 8, 1)
  assert (y == 0).all()


def test_strides_multiply_with_the_patch():
  assert NET.stride == 4
  assert dataclasses.replace(PLAIN, patch=4).stride == 8


# Entries


def test_each_entry_reaches_the_output_of_its_own_row_alone(variables):
  base = _run(variables, text=TEXT)
  inputs = {"x": X, "t": T, "text": TEXT, **INPUTS}
  for name, value in inputs.items():
    # Not a shift of the whole row, which the norms would take out again.
    other = value.copy()
    other[1] += (0.05 if name == "t" else 1.0) * _draw(*value.shape)[1]
    changed = _run(variables, **{**inputs, name: other})
    np.testing.assert_allclose(changed[[0, 2]], base[[0, 2]], atol=1e-6, err_msg=name)
    assert np.abs(changed[1] - base[1]).max() > 1e-3, name


def test_the_aligned_sequence_is_placed_by_time():
  net = dataclasses.replace(PLAIN, aligned=True, groups=1)
  x = np.zeros((1, 32, 1), np.float32)
  aligned = _draw(1, 16, 5)
  variables = _variables(net, x, T[:1], aligned=aligned)
  at_16 = lambda aligned: net.apply(variables, x, T[:1], aligned=aligned)[0, 16, 0]  # noqa: E731
  grad = jax.jit(jax.grad(at_16))(aligned)
  assert np.abs(grad[0]).sum(-1).argmax() in (7, 8, 9)  # step 16 of 32 is step 8 of 16


# Text


def test_hidden_text_has_exactly_no_influence(variables):
  keep = np.array([False, True, False])
  one = _run(variables, text=TEXT, text_keep=keep)
  other = _run(variables, text=TEXT + 1, text_keep=keep)
  assert (one[[0, 2]] == other[[0, 2]]).all()
  assert np.abs(one[1] - other[1]).max() > 1e-3


def test_hidden_text_equals_a_network_without_cross_attention(variables):
  hidden = _run(variables, text=TEXT, text_keep=np.zeros(3, np.bool_))
  bare = dataclasses.replace(NET, cross_attention=())
  params = dict(variables["params"])
  for name in ("down_blocks_2", "up_blocks_2"):
    blocks = {k: v for k, v in params[name]["blocks"].items() if k != "cross_attention"}
    params[name] = {"blocks": blocks}
  np.testing.assert_allclose(hidden, _run({"params": params}, net=bare), atol=1e-5)
  np.testing.assert_allclose(hidden, _run(variables), atol=1e-5)
  assert np.abs(hidden - _run(variables, text=TEXT)).max() > 1e-2


def test_masked_tokens_have_exactly_no_influence_even_if_not_finite(variables):
  mask = np.array([[True, True, False, False]] * 3)
  one = _run(variables, text=TEXT, text_mask=mask)
  other = _run(variables, text=np.where(mask[:, :, None], TEXT, np.float32(np.nan)), text_mask=mask)
  assert (one == other).all()
  assert np.abs(one - _run(variables, text=TEXT)).max() > 1e-3


def test_a_row_without_real_tokens_has_its_text_dropped(variables):
  mask = np.array([[True] * 4, [False] * 4, [True] * 4])
  have = _run(variables, text=TEXT, text_mask=mask)
  keep = np.array([True, False, True])
  assert (have == _run(variables, text=TEXT, text_keep=keep)).all()
  assert np.isfinite(have).all()


@pytest.mark.parametrize("self_attention", [(), (True, False), (False, True)])
@pytest.mark.parametrize("cross_attention", [(), (True, False), (False, True)])
def test_any_combination_of_attentions_has_the_layers_it_asks_for(self_attention, cross_attention):
  net = dataclasses.replace(NET, self_attention=self_attention, cross_attention=cross_attention)
  text = {"text": TEXT} if cross_attention else {}
  params = jax.eval_shape(net.init, KEY, X, T, **text, **INPUTS)["params"]
  for half in ("down", "up"):
    for depth in (1, 2):
      block = params[f"{half}_blocks_{depth}"]["blocks"]
      assert ("self_attention" in block) == bool(self_attention and self_attention[depth - 1])
      assert ("cross_attention" in block) == bool(cross_attention and cross_attention[depth - 1])


def test_text_width_stands_in_for_a_text_at_init():
  net = dataclasses.replace(NET, text_width=6)
  without = jax.eval_shape(net.init, KEY, X, T, **INPUTS)
  assert without == jax.eval_shape(NET.init, KEY, X, T, text=TEXT, **INPUTS)


# Structure


def test_the_skip_from_the_entry_bypasses_every_depth():
  variables = _variables(PLAIN, X, T)
  silent = {"params": dict(variables["params"])}
  silent["params"]["up_1"] = jax.tree.map(np.zeros_like, variables["params"]["up_1"])
  at_4 = lambda x: PLAIN.apply(silent, x, T)[0, 4, 0]  # noqa: E731
  grad = jax.jit(jax.grad(at_4))(X)[0, :, 0]
  assert np.abs(grad[2:7]).min() > 0  # the entry's and the exit's kernels of three


def test_patches_move_samples_into_channels_and_back():
  net = dataclasses.replace(PLAIN, patch=2)
  params = jax.eval_shape(net.init, KEY, X, T)["params"]
  assert params["entry"]["kernel"].value.shape == (3, 2 * 3, 4)
  assert params["exit"]["kernel"].value.shape == (3, 4, 2)
  assert jax.eval_shape(net.init_with_output, KEY, X, T)[0].shape == (3, 8, 1)


def test_every_dimension_of_every_parameter_has_a_logical_name():
  net = dataclasses.replace(NET, self_attention=(True, True))
  boxed = jax.eval_shape(net.init, KEY, X, T, text=TEXT, **INPUTS)
  known = {value for name, value in vars(axes).items() if name.isupper()}
  is_box = lambda leaf: isinstance(leaf, nn.LogicallyPartitioned)  # noqa: E731
  leaves = jax.tree.leaves(boxed, is_leaf=is_box)
  assert len(leaves) > 80
  for leaf in leaves:
    assert is_box(leaf)
    assert len(leaf.names) == leaf.value.ndim
    assert set(leaf.names) <= known
    assert len(set(leaf.names)) == len(leaf.names), "each axis can be sharded alone"


def test_weights_rounded_ahead_change_no_bit_and_halve_what_is_read(variables):
  net = NET.clone(dtype=jnp.bfloat16)
  ahead = {"params": net.rounded(variables["params"])}
  np.testing.assert_array_equal(
    _run(ahead, net=net, text=TEXT), _run(variables, net=net, text=TEXT)
  )
  count = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
  blocks = {name: leaf for name, leaf in variables["params"].items() if "blocks" in name}
  assert count({name: ahead["params"][name] for name in blocks}) < 0.65 * count(blocks)


def test_bfloat16_stays_near_float32_with_float32_parameters_and_output(variables):
  net = dataclasses.replace(NET, dtype=jnp.bfloat16)
  shapes = jax.eval_shape(net.init, KEY, X, T, text=TEXT, **INPUTS)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  have, want = (_run(variables, net=n, text=TEXT) for n in (net, NET))
  assert have.dtype == np.float32
  error = np.sqrt(np.mean((have - want) ** 2) / np.mean(want**2))
  assert 0 < error < 0.03


# Refusals


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"blocks": (1, 2)}, "blocks has 2 entries and strides has 1"),
    ({"width_multipliers": ()}, "width_multipliers has 0 entries"),
    ({"self_attention": (True, True)}, "self_attention has 2 entries"),
    ({"strides": (), "width_multipliers": (), "blocks": ()}, "strides is"),
    ({"blocks": (0,)}, "blocks is"),
    ({"patch": 0}, "patch is 0"),
    ({"out_channels": 5}, "at least as wide"),
    ({"self_attention": (True,), "heads": 3}, "does not divide the 4 channels at depth 1"),
    ({"text_width": 6}, "no depth has cross-attention"),
  ],
)
def test_settings_that_cannot_be_honoured_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(PLAIN, **change)


@pytest.mark.parametrize(
  ("net", "x", "inputs", "message"),
  [
    (PLAIN, X[:, :7], {}, "multiply to 2, which does not divide the signal's 7 steps"),
    (PLAIN, X, {"text": TEXT}, "no cross-attention"),
    (PLAIN, X, {"embedding": INPUTS["embedding"]}, "combine=False"),
    (PLAIN, X, {"aligned": INPUTS["aligned"]}, "aligned=False"),
    (NET, X, {"text": TEXT, "embedding": INPUTS["embedding"]}, "aligned=True"),
    (NET, X, {"text": TEXT, "aligned": INPUTS["aligned"]}, "combine=True"),
    (NET, X, {**INPUTS, "text": TEXT, "aligned": TEXT}, "4 steps for 8 of the signal"),
    (NET, X, INPUTS, "text_width is None"),
    (NET, X, {**INPUTS, "text_keep": T > 0}, "without a text"),
    (dataclasses.replace(NET, text_width=9), X, {**INPUTS, "text": TEXT}, "6 wide"),
  ],
)
def test_inputs_that_cannot_be_honoured_are_refused(net, x, inputs, message):
  with pytest.raises(UserError, match=message):
    jax.eval_shape(lambda: net.init(KEY, x, T, **inputs))
