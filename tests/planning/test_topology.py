import pytest

from noise2music.errors import UserError
from noise2music.planning.topology import parse_topology, serving


@pytest.mark.parametrize(
  ("name", "chips", "hosts"),
  [("v4:2x2x1", 4, 1), ("v4:4x4x8", 128, 32), ("v5e:16x16", 256, 32), ("v5p:8x8x16", 1024, 256)],
)
def test_a_slice_has_its_chips_and_hosts(name: str, chips: int, hosts: int) -> None:
  topology = parse_topology(name)
  assert (topology.chips, topology.hosts) == (chips, hosts)


def test_a_gpu_that_is_not_named_is_one_of_the_table() -> None:
  assert parse_topology("gpu:8") == parse_topology("h100:8")


def test_slices_multiply() -> None:
  three = parse_topology("v5e:2x2", slices=3)
  assert (three.chips, three.hosts) == (12, 3)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("v9:2x2x1", "no slice is called 'v9:2x2x1'"),
    ("v4", "no slice is called 'v4'"),
    ("v4:2x2xtwo", "no slice is called"),
    ("v4:2x2", "has 2 dimension.s. and v4 has 3"),
    ("v5e:2x2x1", "has 3 dimension.s. and v5e has 2"),
    ("v4:2x0x1", "has no chips: give each of its dimensions at least 1"),
    ("gpu:0", "'gpu:0' has no chips"),
    ("h100:2x4", "has 2 dimension.s. and h100 has 1"),
  ],
)
def test_a_name_that_says_no_slice_is_refused(name: str, message: str) -> None:
  with pytest.raises(UserError, match=message):
    parse_topology(name)


def test_slices_are_for_tpus() -> None:
  with pytest.raises(UserError, match="2 slices of h100:8"):
    parse_topology("h100:8", slices=2)


def test_four_clips_are_sampled_on_one_host() -> None:
  assert serving(parse_topology("v4:4x4x8")).name == "v4:2x2x1"
  assert serving(parse_topology("v5e:16x16")).name == "v5e:2x2"
  assert serving(parse_topology("cpu:8")).chips == 1
  assert serving(parse_topology("v5e:1x1")).chips == 1


def test_more_processors_than_jax_has_are_asked_for_in_another_process() -> None:
  with pytest.raises(UserError, match="JAX_NUM_CPU_DEVICES=4096"):
    parse_topology("cpu:4096").devices()


def test_what_cannot_be_compiled_here_is_said() -> None:
  assert "arithmetic alone" in parse_topology("h100:8").why_not_compiled()
  assert parse_topology("cpu:1").why_not_compiled() is None
