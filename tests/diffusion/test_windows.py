"""Windowed joint denoising, with lambdas as networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from noise2music.diffusion.windows import Windows, windowed

T = jnp.array([0.3, 0.6])
LAYOUTS = [
  {"steps": 96, "length": 32, "overlap": 8, "multiple": 4},
  {"steps": 100, "length": 32, "overlap": 9, "multiple": 4},  # three windows share some steps
  {"steps": 36, "length": 32, "overlap": 16, "multiple": 4},
  {"steps": 97, "length": 31, "overlap": 0},
  {"steps": 32, "length": 32, "overlap": 5},
]


def clip(steps: int, *, channels: int = 3) -> jax.Array:
  return jax.random.normal(jax.random.key(steps), (2, steps, channels))


def of_window_number(windows: Windows, number: int) -> np.ndarray:
  """The weight of one window at each step of the clip: 1 where it is alone."""
  start = windows.starts[number]

  def eps_fn(x_t, t, signals):
    return jnp.full_like(x_t, 1.0) * (signals["place"][:, :1] == start)

  place = jnp.broadcast_to(jnp.arange(windows.steps)[None, :, None] * 1.0, (2, windows.steps, 1))
  run = windowed(eps_fn, windows=windows, signals={"place": place})
  return np.asarray(run(clip(windows.steps), T))[0, :, 0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_windows_cover_the_clip_and_share_what_they_must(layout: dict) -> None:
  windows = Windows(**layout)
  starts = np.array(windows.starts)
  assert starts[0] == 0
  assert starts[-1] + windows.length == windows.steps
  assert not (starts % windows.multiple).any()
  assert (np.diff(starts) <= windows.length - windows.overlap).all()
  fewest = 1 + -(-(windows.steps - windows.length) // (windows.length - windows.overlap))
  assert len(starts) <= fewest + (windows.multiple > 1), "no more calls than that takes"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_of_all_windows_sum_to_one_everywhere(layout: dict) -> None:
  windows = Windows(**layout)
  weights = np.stack([of_window_number(windows, n) for n in range(len(windows.starts))])
  np.testing.assert_allclose(weights.sum(0), 1, atol=1e-6)
  assert weights.min() >= 0
  if windows.overlap:
    assert np.abs(np.diff(weights, axis=1)).max() < 2 / windows.overlap, "they rise gradually"


def test_a_fade_is_a_raised_cosine_in_the_middle_of_what_is_shared() -> None:
  windows = Windows(steps=48, length=32, overlap=8)  # two windows that share 16 steps
  rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(8) + 0.5) / 8)
  want = np.concatenate([np.zeros(20), rise, np.ones(20)])
  np.testing.assert_allclose(of_window_number(windows, 1), want, atol=1e-6)
  np.testing.assert_allclose(of_window_number(windows, 0), 1 - want, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("at_once", [1, 2, 3, 7])
def test_what_looks_at_no_neighbour_is_the_same_to_the_bit(layout: dict, at_once: int) -> None:
  windows = Windows(**layout, at_once=at_once)
  x_t, low = clip(windows.steps), clip(windows.steps, channels=1)
  slow = clip(windows.steps // windows.multiple, channels=2)

  def eps_fn(x_t, t, signals):
    aligned = jnp.repeat(signals["slow"], x_t.shape[1] // signals["slow"].shape[1], axis=1)
    # Sums alone: of a product and a sum the compiler may make one step, which rounds once.
    return x_t + t[:, None, None] + signals["low"] + aligned[..., :1]

  signals = {"low": low, "slow": slow}
  got = windowed(eps_fn, windows=windows, signals=signals)(x_t, T)
  np.testing.assert_array_equal(got, eps_fn(x_t, T, signals))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_many_run_at_once_makes_no_difference(layout: dict) -> None:
  """With a network that sees its whole window, so that neighbours differ."""

  def eps_fn(x_t, t, signals):
    return x_t - jnp.mean(x_t, axis=1, keepdims=True) + jnp.cumsum(x_t, axis=1)

  x_t = clip(layout["steps"])
  one, *others = (
    windowed(eps_fn, windows=Windows(**layout, at_once=n), signals={})(x_t, T) for n in (1, 2, 3, 5)
  )
  for other in others:
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_network_never_sees_more_than_a_window() -> None:
  seen = []

  def eps_fn(x_t, t, signals):
    seen.append((x_t.shape, signals["slow"].shape))
    return x_t

  windows = Windows(steps=4_000, length=32, overlap=8, multiple=4, at_once=2)
  slow = clip(1_000)
  jax.make_jaxpr(windowed(eps_fn, windows=windows, signals={"slow": slow}))(clip(4_000), T)
  assert set(seen) == {((2, 32, 3), (2, 8, 3))}


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"length": 30}, "multiple must divide"),
    ({"steps": 98}, "multiple must divide"),
    ({"length": 100}, "no longer than the clip"),
    ({"length": 0}, "no longer than the clip"),
    ({"at_once": 0}, "at least one runs"),
    ({"overlap": -1}, "overlap must be"),
    ({"overlap": 29}, "leave a window a step on"),
  ],
)
def test_windows_that_cannot_lie_so_are_refused(settings: dict, message: str) -> None:
  with pytest.raises(ValueError, match=message):
    Windows(**{"steps": 96, "length": 32, "overlap": 8, "multiple": 4, **settings})


def test_signals_of_another_length_are_refused() -> None:
  windows = Windows(steps=96, length=32, overlap=8, multiple=4)
  run = lambda n: windowed(lambda x, t, s: x, windows=windows, signals={"s": clip(n)})  # noqa: E731
  for steps in (95, 12):
    with pytest.raises(ValueError, match="cannot be cut along with"):
      run(steps)(clip(96), T)
  with pytest.raises(ValueError, match="lie on 96 steps, x_t has 95"):
    run(96)(clip(95), T)
