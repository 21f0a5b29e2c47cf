"""A state split over eight devices: where its parts lie, and that one device can take over."""

import dataclasses
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


def run(folder, *, total_steps, mesh=None, hooks=()):
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
      rules=LogicalRules(pairs=(("batch", ("data", "fsdp")), ("samples", "fsdp"))),
      hooks=hooks,
    )
  )
  return losses


def check_shardings(moment):
  """Parameter, average and both moments are split alike; a bias without a name is whole."""
  adam = moment.state.opt_state[1][0]
  for tree in (moment.state.params, moment.state.ema, adam.mu, adam.nu):
    for kernel, shape in (("encoder", (8, 8)), ("network", (8, 8))):
      shards = tree[kernel]["kernel"].addressable_shards
      assert {s.data.shape for s in shards} == {shape}, (kernel, shards)
    assert tree["network"]["bias"].sharding.is_fully_replicated


def test_eight_devices_split_the_state_and_one_goes_on(tmp_path):
  straight = run(tmp_path / "straight", total_steps=6)
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
  }
  folder = tmp_path / "split"
  done = subprocess.run(
    [sys.executable, __file__, str(folder)], env=env, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  losses = [float(x) for x in done.stdout.split()[-3:]]
  losses += run(folder, total_steps=6)
  assert losses == pytest.approx(straight, rel=1e-5)


if __name__ == "__main__":
  assert jax.device_count() == 8
  shape = MeshShape(data=2, fsdp=4)
  print(*run(Path(sys.argv[1]), total_steps=3, mesh=shape, hooks=(check_shardings,)))
