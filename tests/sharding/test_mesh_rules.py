"""The mesh and the table from logical names to mesh axes, asserted on eight virtual devices."""

import dataclasses
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax.core import meta
from jax.sharding import AbstractDevice, AxisType, PartitionSpec

from noise2music.errors import UserError
from noise2music.nn import axes
from noise2music.nn.platform import platform
from noise2music.sharding.mesh import AXES, MeshShape
from noise2music.sharding.rules import LogicalRules, unbox


def on_eight_devices(code: str) -> str:
  """Runs `code` in a process with eight virtual devices; returns what it printed."""
  env = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
    "PYTHONPATH": str(Path(__file__).parents[2]),
  }
  done = subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


@pytest.mark.parametrize(
  ("shape", "devices", "sizes"),
  [
    (MeshShape(), 8, (1, 8, 1, 1)),
    (MeshShape(fsdp=4), 8, (1, 2, 4, 1)),
    (MeshShape(slice=2, data=2, fsdp=-1), 8, (2, 2, 2, 1)),
    (MeshShape(data=1), 1, (1, 1, 1, 1)),
  ],
)
def test_minus_one_takes_what_is_left(shape, devices, sizes):
  assert shape.resolve(devices) == sizes


@pytest.mark.parametrize("shape", [MeshShape(data=3), MeshShape(fsdp=3), MeshShape(data=4)])
def test_sizes_that_do_not_fit_are_refused(shape):
  with pytest.raises(UserError, match="does not fit 8 devices"):
    shape.resolve(8)


@pytest.mark.parametrize(
  ("shape", "devices", "mend"),
  [
    (MeshShape(fsdp=8), 4, "fsdp=4"),
    (MeshShape(data=2, fsdp=8), 8, "fsdp=4"),
    (MeshShape(data=16, fsdp=8), 32, "data=4"),
    (MeshShape(fsdp=3), 8, "fsdp=1"),
  ],
)
def test_the_axis_to_change_is_named(shape, devices, mend):
  with pytest.raises(UserError, match=rf"as by --gin.MeshShape.{mend}$"):
    shape.resolve(devices)
  axis, size = mend.split("=")
  dataclasses.replace(shape, **{axis: int(size)}).resolve(devices)


def test_a_mesh_of_devices_that_are_not_here_gives_their_shardings_and_their_platform():
  chips = AbstractDevice("v4", num_cores=None, platform="tpu")
  mesh = MeshShape(fsdp=8).abstract(256, kind=chips)
  rules = LogicalRules(pairs=(("batch", ("data", "fsdp")), ("out", "fsdp")))
  (sharding,) = rules.shardings([meta.Partitioned(jnp.zeros((3, 16)), (None, "out"))], mesh=mesh)
  assert sharding.shard_shape((3, 16)) == (3, 2)
  assert rules.batch_shards(mesh) == 256
  assert platform() == "cpu"
  with rules.activate(mesh):
    assert platform() == "tpu"
    assert jax.eval_shape(jax.jit(lambda x: jnp.zeros(platform() == "tpu")), 1.0).shape == (1,)
  assert platform() == "cpu"


@pytest.mark.parametrize(
  ("clips", "devices", "data", "sequence"), [(4, 4, 4, 1), (1, 4, 1, 4), (2, 8, 2, 4), (3, 4, 1, 4)]
)
def test_devices_that_clips_leave_over_share_out_their_time(clips, devices, data, sequence):
  sizes = MeshShape.sharing_out(clips, devices=devices).resolve(devices)
  assert sizes == (1, data, 1, sequence)


@pytest.mark.parametrize("sizes", [{"data": 0}, {"data": -1, "fsdp": -1}, {"fsdp": 2.0}])
@pytest.mark.usefixtures("unchecked")
def test_sizes_that_mean_nothing_are_refused(sizes):
  with pytest.raises(UserError, match="at most one -1"):
    MeshShape(**sizes)


def test_a_torus_of_4_4_4_takes_an_axis_of_8():
  """No axis of that cube is as long, so one has to be taken apart."""
  on_eight_devices("""
    import itertools
    from noise2music.sharding.mesh import MeshShape

    class Chip:
      platform, device_kind, core_on_chip, process_index = "tpu", "TPU v4", 0, 0
      def __init__(self, id, coords):
        self.id, self.coords = id, coords

    chips = [Chip(*each) for each in enumerate(itertools.product(range(4), repeat=3))]
    mesh = MeshShape(fsdp=8).build(chips)
    assert mesh.devices.shape == (1, 8, 8, 1)
    assert set(mesh.devices.flat) == set(chips)
  """)


def test_axes_are_auto_because_convolutions_fail_under_explicit_ones():
  mesh = MeshShape().build(jax.devices()[:1])
  assert mesh.axis_names == AXES
  assert set(mesh.axis_types) == {AxisType.Auto}


def test_a_rule_for_an_axis_that_is_not_there_is_refused():
  with pytest.raises(UserError, match="model"):
    LogicalRules(pairs=(("kernel_out", "model"),))


def test_unbox_gives_plain_arrays():
  boxed = {"w": meta.Partitioned(value=jax.numpy.ones(3), names=("a",)), "b": jax.numpy.ones(2)}
  plain = unbox(boxed)
  assert isinstance(plain["w"], jax.Array)
  assert plain["b"] is boxed["b"]


def test_where_parameters_and_batches_lie_on_eight_devices():
  printed = on_eight_devices("""
    import jax, jax.numpy as jnp
    import flax.linen as nn
    from jax.sharding import PartitionSpec as P
    from noise2music.sharding.mesh import MeshShape
    from noise2music.sharding.rules import LogicalRules

    mesh = MeshShape(data=2, fsdp=4).build()
    boxed = {
      "kernel": nn.LogicallyPartitioned(jnp.ones((7, 16, 32)), names=("tap", "inside", "outside")),
      "narrow": nn.LogicallyPartitioned(jnp.ones((3,)), names=("outside",)),
      "plain": jnp.ones((4, 4)),
    }
    default = LogicalRules()
    assert all(s.is_fully_replicated for s in default.shardings(boxed, mesh=mesh).values())
    assert default.batch_sharding(mesh).spec == P(("slice", "data", "fsdp"))
    assert default.batch_shards(mesh) == 8

    split = LogicalRules(pairs=(("outside", "fsdp"), ("inside", "fsdp")))
    found = split.shardings(boxed, mesh=mesh)
    # One mesh axis cannot split two axes of an array: the first that wants it has it.
    assert found["kernel"].spec == P(None, "fsdp"), found
    assert found["narrow"].spec == P(), found
    assert found["plain"].spec == P(), found
    assert MeshShape(slice=2).build().devices.shape == (2, 4, 1, 1)

    # Moments go on splitting, along the longest axis that divides.
    moments = LogicalRules(pairs=(("outside", "fsdp"),), optimizer_axes=("data", "fsdp"))
    for name, want in {
      "kernel": P(None, "data", "fsdp"), "narrow": P(), "plain": P("data", "fsdp"),
    }.items():
      shape = getattr(boxed[name], "value", boxed[name]).shape
      own = moments.shardings(boxed, mesh=mesh)[name]
      have = moments.of_optimizer(own, shape=shape)
      assert have.is_equivalent_to(jax.sharding.NamedSharding(mesh, want), len(shape)), have
      assert LogicalRules().of_optimizer(own, shape=shape) == own

    # A constraint inside a jitted function follows the active rules.
    def f(x):
      return nn.with_logical_constraint(x * 2, ("batch", None))
    with default.activate(mesh):
      out = jax.jit(f)(jnp.ones((8, 3)))
    assert {s.data.shape for s in out.addressable_shards} == {(1, 3)}
    print("ok")
  """)
  assert printed.strip() == "ok"


def test_rows_are_transformed_where_they_are_and_weights_whole_where_they_are_used():
  on_eight_devices("""
    import jax, jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec as P
    from noise2music.nn.axes import gathered
    from noise2music.planning.program import read_program
    from noise2music.sharding.mesh import MeshShape
    from noise2music.sharding.rows import by_rows
    from noise2music.sharding.rules import LogicalRules

    rules = LogicalRules(parameter_axes=("fsdp",))
    mesh = MeshShape(data=2, fsdp=4).build()

    def program(function, *args):
      with rules.activate(mesh):
        return jax.jit(function).lower(*args).compile()

    def sent(function, *args):
      return {c.kind for c in read_program(program(function, *args)).collectives}

    batch = jax.device_put(jnp.arange(64.0).reshape(8, 8), rules.batch_sharding(mesh))
    spectrum = lambda x: jnp.abs(jnp.fft.rfft(x))
    assert sent(spectrum, batch) == {"all-gather"}, "by_rows is not needed any more"
    ours = program(lambda x: by_rows(spectrum, x), batch)
    assert not read_program(ours).collectives
    assert jnp.allclose(ours(batch), spectrum(batch), atol=1e-4)
    assert by_rows(spectrum, batch).shape == (8, 5)  # no rules in force

    kernel = jax.device_put(jnp.ones((8, 16)), NamedSharding(mesh, P(None, "fsdp")))
    layer = lambda w, x: jnp.tanh(x @ gathered(w))
    assert sent(layer, kernel, batch) == {"all-gather"}
    out = program(layer, kernel, batch)(kernel, batch)
    assert out.sharding.spec == P(("data", "fsdp")), out.sharding  # where the rows were
  """)


def test_batches_have_one_shape_and_every_device_its_part():
  printed = on_eight_devices("""
    import jax, numpy as np
    from noise2music.sharding.rows import in_batches, on_every_device

    rows = np.arange(26.0).reshape(13, 2)
    weights = on_every_device(np.ones((2, 3)))
    assert weights.sharding.is_fully_replicated and len(weights.devices()) == 8
    batches = list(in_batches(rows, rows[:, 0], size=5))  # of 8, since there are eight devices
    assert [len(a) for a, b in batches] == [len(b) for a, b in batches] == [8, 8]
    for a, b in batches:
      assert {s.data.shape for s in a.addressable_shards} == {(1, 2)}
    out = np.concatenate([jax.jit(lambda w, x: x @ w)(weights, a) for a, b in batches])
    assert (out[:13] == rows @ np.ones((2, 3))).all()
    assert (np.asarray(batches[1][0])[5:] == rows[-1]).all()  # filled up with the last row
    print("ok")
  """)
  assert printed.strip() == "ok"


def test_weights_are_split_along_no_axis_that_counts_layers():
  chips = AbstractDevice("v4", num_cores=None, platform="tpu")
  mesh = MeshShape(fsdp=4).abstract(8, kind=chips)
  boxed = {
    "stacked": axes.Named(jnp.ones((8, 3, 4)), (axes.LAYERS, axes.CHANNELS_IN, axes.CHANNELS_OUT)),
    "kernel": axes.Named(jnp.ones((8, 4)), (axes.CHANNELS_IN, axes.CHANNELS_OUT)),
    "scale": axes.Named(jnp.ones(8), (axes.CHANNELS,)),
  }
  found = LogicalRules(parameter_axes=("fsdp",)).shardings(boxed, mesh=mesh)
  assert found["stacked"].spec == PartitionSpec(None, None, "fsdp")
  assert found["kernel"].spec == PartitionSpec("fsdp", None)
  assert not any(found["scale"].spec)
