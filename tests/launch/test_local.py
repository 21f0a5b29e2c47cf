"""The launcher's own part; with real processes in tests/faults/test_processes.py."""

import pytest

from launch import local
from noise2music.errors import UserError


@pytest.mark.parametrize(
  ("statuses", "expected"),
  [([0, 0], 0), ([0, 75], 75), ([75, 2], 2), ([143, 143], 143), ([137, 75, 75], 137), ([1, 2], 1)],
)
def test_the_worst_is_the_first_of_those_that_are_to_blame(statuses, expected):
  assert local.worst(statuses) == expected


def test_commands_differ_in_the_index_alone():
  first, second = local.commands(2, ["--gin_file=a.gin", "--join_seconds=5"])
  assert [one for one in first if one not in second] == ["--process_index=0"]
  assert first.index("--join_seconds=5") > first.index(f"--join_seconds={local.JOIN_SECONDS}")
  (alone,) = local.commands(1, ["--gin_file=a.gin"])
  assert not [flag for flag in alone if "process" in flag]


def test_devices_are_added_to_the_flags_of_xla(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "--xla_a=1")
  monkeypatch.delenv("JAX_PLATFORMS", raising=False)
  env = local.environment(4)
  assert env["XLA_FLAGS"] == "--xla_a=1 --xla_force_host_platform_device_count=4"
  assert env["JAX_PLATFORMS"] == "cpu"
  assert local.environment(None)["XLA_FLAGS"] == "--xla_a=1"


@pytest.mark.parametrize("flags", [[], ["--processes=0"], ["--processes=2", "--devices=0"]])
def test_mistakes_are_users_errors(flags):
  with pytest.raises(UserError, match="processes"):
    local.main(flags)
