"""Reading of optimised programs: real ones for this machine, and a few lines of a TPU's."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from noise2music.planning.chips import CHIPS
from noise2music.planning.estimate import fit, step_time
from noise2music.planning.program import Collective, ProgramCost, _kinds, _Text, read_program

TPU = """\
%in (r: f32[8,128]) -> f32[8,128] {
  %r = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %m = f32[8,128]{1,0:T(8,128)} convolution(%r, %r), dim_labels=bf_io->bf
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %p = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[8,128]{1,0:T(8,128)S(1)} fusion(%x), calls=%in, backend_config={"estimated_cycles":"100"}
  %z = f32[8,128]{1,0:T(8,128)} all-reduce(%y), channel_id=1, backend_config={"flag":"0"}
  ROOT %t = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%i, %z)
}

%condition (q: (s32[], f32[8,128])) -> pred[] {
  %q = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %j = s32[]{:T(128)} get-tuple-element(%q), index=0
  ROOT %less = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %zero = s32[]{:T(128)} constant(0)
  %t0 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%zero, %a)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%t0), condition=%condition, body=%body
  %b = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
  ROOT %c = bf16[8,128]{1,0:T(8,128)(2,1)} copy(%b), backend_config={"estimated_cycles":"7"}
}
"""
SIGNAL = 8 * 128 * 4


def test_loops_multiply_cycles_collectives_and_traffic() -> None:
  total = _Text(TPU).total()
  assert total["cycles"] == 5 * 100 + 7
  assert _kinds(total) == {"products": 500, "copy": 7}
  assert total["all-reduce count"] == 5
  assert total["all-reduce bytes"] == 5 * SIGNAL
  # The fusion reads x and writes to local memory; the all-reduce reads that and writes z.
  assert total["bytes"] == 5 * (SIGNAL + SIGNAL) + SIGNAL + SIGNAL / 2


def test_a_program_for_this_machine() -> None:
  def rounds(x):
    return jax.lax.scan(lambda x, _: (jnp.sin(x @ x), None), x, None, length=6)[0]

  x = jax.ShapeDtypeStruct((256, 256), "float32")
  cost = read_program(jax.jit(rounds).lower(x).compile())
  assert cost.argument_bytes == 256 * 256 * 4
  assert cost.peak_bytes >= 2 * 256 * 256 * 4
  assert cost.cycles is None
  assert cost.collectives == ()
  # A product reads its operand and writes; the sine reads and writes: within one loop, six times.
  assert 6 * 3 * 256 * 256 * 4 <= cost.traffic_bytes <= 6 * 8 * 256 * 256 * 4


_EIGHT = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from noise2music.planning.program import read_program
mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
place = lambda shape, *axes: jax.ShapeDtypeStruct(
  shape, "float32", sharding=NamedSharding(mesh, PartitionSpec(*axes)))
weights, rows = place((64, 32)), place((80, 64), "data")
gradient = jax.grad(lambda w, x: ((x @ w) ** 2).sum())
lowered = jax.jit(gradient, out_shardings=weights.sharding).lower(weights, rows)
(one,) = read_program(lowered.compile()).collectives
print(one.kind, one.count, one.bytes)
"""


def test_the_all_reduce_of_a_data_parallel_gradient_is_found() -> None:
  result = subprocess.run(
    [sys.executable, "-c", _EIGHT],
    capture_output=True, text=True, check=True, env={**os.environ, "JAX_NUM_CPU_DEVICES": "8"},
  )  # fmt: skip
  assert result.stdout.split() == ["all-reduce", "1", str(float(64 * 32 * 4))]


COST = ProgramCost(
  argument_bytes=0,
  temporary_bytes=0,
  peak_bytes=0,
  code_bytes=0,
  traffic_bytes=1200e9,
  cycles=2.1e9,
  cycles_by_kind={"products": 2e9, "copy": 0.1e9},
  collectives=(Collective(kind="all-reduce", count=1, bytes=134.5e9),),
)


def test_times_of_a_step_by_hand() -> None:
  time = step_time(CHIPS["v4"], flops_per_chip=137.5e12, program=COST)
  assert time.multiply == pytest.approx(0.5)
  assert time.memory == pytest.approx(1.0)
  assert time.collectives == pytest.approx(1.0)
  assert time.compiler == pytest.approx(2.0)
  assert time.roof == pytest.approx(1.0)
  assert time.range == (pytest.approx(1.0), pytest.approx(3.0))


def test_without_cycles_the_range_ends_at_nine_times_the_multiplying() -> None:
  plain = step_time(CHIPS["v4"], flops_per_chip=137.5e12, program=None)
  assert plain.range == (pytest.approx(0.5), pytest.approx(4.5))
  unclocked = step_time(CHIPS["v6e"], flops_per_chip=1e12, program=COST)
  assert unclocked.compiler is None
  assert unclocked.range == (unclocked.roof, max(unclocked.roof, 9 * unclocked.multiply))


def test_steps_within_one_program_share_its_time() -> None:
  one = step_time(CHIPS["v4"], flops_per_chip=1e12, program=COST)
  ten = step_time(CHIPS["v4"], flops_per_chip=1e12, program=COST, loops=10)
  assert ten.compiler == pytest.approx(one.compiler / 10)
  assert ten.memory == pytest.approx(one.memory / 10)


def test_memory_of_the_runtime_is_not_for_programs() -> None:
  gib = 2**30
  assert fit(CHIPS["v5e"], 15.4 * gib).fits
  assert not fit(CHIPS["v5e"], 15.6 * gib).fits


SLICES = """\
%part (p0: f32[9,8,128], p1: s32[]) -> f32[8,128] {
  %p0 = f32[9,8,128]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  %one = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1,8,128}
  ROOT %flat = f32[8,128]{1,0:T(8,128)} bitcast(%one)
}

%put (q0: f32[9,8,128], q1: f32[8,128], q2: s32[]) -> f32[9,8,128] {
  %q0 = f32[9,8,128]{2,1,0:T(8,128)} parameter(0)
  %q1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %q2 = s32[]{:T(128)} parameter(2)
  %q3 = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%q1)
  ROOT %q4 = f32[9,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%q0, %q3, %q2)
}

%both (s0: f32[9,8,128], s1: f32[8,128], s2: s32[]) -> (f32[8,128], f32[9,8,128]) {
  %s0 = f32[9,8,128]{2,1,0:T(8,128)} parameter(0)
  %s1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %s2 = s32[]{:T(128)} parameter(2)
  %s3 = f32[8,128]{1,0:T(8,128)} negate(%s1)
  %s4 = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%s1)
  %s5 = f32[9,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%s0, %s4, %s2)
  ROOT %s6 = (f32[8,128]{1,0:T(8,128)}, f32[9,8,128]{2,1,0:T(8,128)}) tuple(%s3, %s5)
}

ENTRY %main (a: f32[9,8,128], k: s32[]) -> f32[9,8,128] {
  %a = f32[9,8,128]{2,1,0:T(8,128)} parameter(0)
  %k = s32[]{:T(128)S(6)} parameter(1)
  %got = f32[8,128]{1,0:T(8,128)} fusion(%a, %k), kind=kLoop, calls=%part
  %sent = ((f32[9,8,128]{2,1,0:T(8,128)}), f32[1,8,128]{2,1,0:T(8,128)S(3)}) slice-start(%a)
  %near = f32[1,8,128]{2,1,0:T(8,128)S(3)} slice-done(%sent)
  %two = (f32[8,128]{1,0}, f32[9,8,128]{2,1,0}) fusion(%a, %got, %k), kind=kLoop, calls=%both
  ROOT %done = f32[9,8,128]{2,1,0:T(8,128)} fusion(%a, %got, %k), kind=kLoop, calls=%put
}
"""


def test_slices_and_updates_in_place_move_what_they_touch() -> None:
  # Read a slice, write it; send one to local memory; read it, write its negative and itself in its
  # place; read it again, write it in its place.
  assert _Text(SLICES).total()["bytes"] == (2 + 1 + 3 + 2) * SIGNAL
