"""What the demo-sized U-Net costs on a CPU: one training gradient and one forward pass.

  XLA_FLAGS=--xla_cpu_multi_thread_eigen=false taskset -c 0 python -m benchmarks.unet_cpu

Variants take turns within one run, and the smallest process CPU time of each counts, so that a
machine with other work gives the same order (the figures themselves are for one quiet core).
FLOPs are those of convolutions and matrix products; a gradient is taken as three forward passes.
"""

import argparse
import dataclasses
import functools
import time

import flax.linen as nn
import jax
import jax.numpy as jnp

from noise2music.nn.stacking import Scanned, Unrolled
from noise2music.nn.unet1d import UNet1D

BASE = UNet1D(
  out_channels=1,
  base_width=32,
  kernel_size=7,
  strides=(4, 4, 4, 4),
  width_multipliers=(1, 2, 4, 8),
  blocks=(2, 2, 2, 2),
  stacking=Unrolled(),
)
change = functools.partial(dataclasses.replace, BASE)
VARIANTS = {
  "base": BASE,
  "patch 2": change(patch=2, strides=(2, 4, 4, 4)),
  "patch 4": change(patch=4, strides=(1, 4, 4, 4)),
  "scanned": change(stacking=Scanned(remat=False)),
}


def cpu_ms(call) -> float:
  start = time.process_time()
  jax.block_until_ready(call())
  return 1e3 * (time.process_time() - start)


def prepare(net: UNet1D, *, batch: int, samples: int):
  """(parameters, forward GFLOP, forward call, gradient call), compiled."""
  key = jax.random.key(0)
  x, t = jax.random.normal(key, (batch, samples, 1)), jnp.linspace(0.0, 1.0, batch)
  variables = nn.meta.unbox(jax.jit(net.init)(key, x, t))
  loss = lambda variables: jnp.mean(jnp.square(net.apply(variables, x, t) - x))  # noqa: E731
  forward, gradient = jax.jit(net.apply), jax.jit(jax.grad(loss))
  calls = (lambda: forward(variables, x, t), lambda: gradient(variables))
  jax.block_until_ready([call() for call in calls])
  parameters = sum(leaf.size for leaf in jax.tree.leaves(variables))
  return parameters, forward_gflop(net, batch=batch, samples=samples), *calls


def forward_gflop(net: UNet1D, *, batch: int, samples: int) -> float:
  """2 x multiply-adds of the convolutions and dense layers (attention is off here)."""
  steps, width, total = samples // net.patch, net.base_width, 0
  total += 3 * steps * net.patch * width * (1 + net.out_channels)  # entry and exit
  for stride, multiplier, blocks in zip(
    net.strides, net.width_multipliers, net.blocks, strict=True
  ):
    steps, above, width = steps // stride, width, net.base_width * multiplier
    total += 2 * steps * stride * above * width  # down and up
    total += 2 * blocks * steps * width * width * (2 * net.kernel_size + 1)
  return 2 * batch * total / 1e9


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--batch", type=int, default=8)
  parser.add_argument("--samples", type=int, default=4096)
  parser.add_argument("--rounds", type=int, default=15)
  parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
  options = parser.parse_args()

  square = jax.random.normal(jax.random.key(1), (1024, 1024))
  matmul = jax.jit(jnp.matmul)
  calls, facts = {"matmul": lambda: matmul(square, square)}, {}
  jax.block_until_ready(calls["matmul"]())
  for name in options.variants:
    start = time.perf_counter()
    parameters, gflop, forward, gradient = prepare(
      VARIANTS[name], batch=options.batch, samples=options.samples
    )
    calls[f"{name} forward"], calls[f"{name} gradient"] = forward, gradient
    facts[name] = (parameters, gflop, time.perf_counter() - start)
  best = {name: float("inf") for name in calls}
  for _ in range(options.rounds):
    best = {name: min(best[name], cpu_ms(call)) for name, call in calls.items()}

  print(f"matrix product of 1024: {2 * 1.024**3 / best['matmul'] * 1e3:.0f} GFLOP/s")
  print("variant    M params  compile s  forward ms  GFLOP/s  gradient ms  GFLOP/s")
  for name, (parameters, gflop, compile_s) in facts.items():
    forward, gradient = best[f"{name} forward"], best[f"{name} gradient"]
    print(
      f"{name:10} {parameters / 1e6:8.2f} {compile_s:10.1f} {forward:11.1f} "
      f"{gflop / forward * 1e3:8.0f} {gradient:12.1f} {3 * gflop / gradient * 1e3:8.0f}"
    )


if __name__ == "__main__":
  main()
