"""A state split over eight devices: where its parts lie, and that one device can take over."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import pytest
from sine_toy import SineBatches, SineObjective

from noise2music.training import (
  CheckpointPolicy,
  LogicalRules,
  MeshShape,
  Optimizer,
  Training,
  train,
)

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(SineObjective):
  """The toy with logical names on its kernels, as a flax module would give them."""

  def init(self, key, batch):
    params = super().init(key, batch)
    for room, names in (("encoder", ("samples", "width")), ("network", ("width", "samples"))):
      kernel = params[room]["kernel"]
      params[room]["kernel"] = nn.LogicallyPartitioned(kernel, names=names)
    return params


def run(folder, *, total_steps, mesh=None, hooks=(), optimizer_axes=()):
  losses = []
  hooks = (*hooks, lambda m: losses.append(m.row["loss"]))
  train(
    Training(
      model_dir=str(folder),
      objective=Named(),
      batches=SineBatches(),
      total_steps=total_steps,
      optimizer=Optimizer(peak_learning_rate=1e-2, warmup_steps=2, decay_steps=6),
      log_every=1,
      checkpoints=CheckpointPolicy(every=3),
      mesh=mesh or MeshShape(data=1),
      rules=LogicalRules(
        pairs=(("batch", ("data", "fsdp")), ("samples", "fsdp")), optimizer_axes=optimizer_axes
      ),
      hooks=hooks,
    )
  )
  return losses


def check_shardings(moment, *, of_optimizer):
  """Average and both moments are split as their parameter is, or further; so is a bias."""
  adam = moment.state.opt_state[1][0]
  for tree in (moment.state.params, moment.state.ema, adam.mu, adam.nu):
    shape = (8, 8) if tree is moment.state.params else of_optimizer
    for kernel in ("encoder", "network"):
      shards = tree[kernel]["kernel"].addressable_shards
      assert {s.data.shape for s in shards} == {shape}, (kernel, shards)
    whole = tree is moment.state.params or of_optimizer == (8, 8)
    assert tree["network"]["bias"].sharding.is_fully_replicated == whole


@pytest.mark.parametrize("further", [False, True])
def test_eight_devices_split_the_state_and_one_goes_on(tmp_path, further):
  straight = run(tmp_path / "straight", total_steps=6)
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
  }
  folder = tmp_path / "split"
  done = subprocess.run(
    [sys.executable, __file__, str(folder), *(["data"] if further else [])],
    env=env,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  losses = [float(x) for x in done.stdout.split()[-3:]]
  losses += run(folder, total_steps=6)
  assert losses == pytest.approx(straight, rel=1e-5)


if __name__ == "__main__":
  assert jax.device_count() == 8
  shape, axes = MeshShape(data=2, fsdp=4), tuple(sys.argv[2:])
  check = functools.partial(check_shardings, of_optimizer=(4, 8) if axes else (8, 8))
  done = run(Path(sys.argv[1]), total_steps=3, mesh=shape, hooks=(check,), optimizer_axes=axes)
  print(*done)
