"""What eight virtual devices make of a small stage in several layouts, as JSON: a test's script.

python tests/training/layouts.py KIND '{"name": [of MeshShape, of LogicalRules], ...}' [shallow]
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))

import tiny

from noise2music.checkpoints.leaves import named_leaves
from noise2music.nn.stacking import Scanned
from noise2music.planning.program import read_program
from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import LogicalRules
from noise2music.stages.conditioning import network_inputs
from noise2music.training.optimizer import Optimizer
from noise2music.training.setup import prepare

ROWS = 8
BATCH = tiny.batch(ROWS, seconds=0.512)


def of_layout(objective, shape: dict, rules: dict, devices=None) -> dict:
  shape = MeshShape(**shape)
  training = SimpleNamespace(
    objective=objective,
    rules=LogicalRules(**{name: tuple(axes) for name, axes in rules.items()}),
    accumulation=1,
    seed=0,
    total_steps=10,
    optimizer=Optimizer(warmup_steps=1),
  )
  setup = prepare(training, BATCH, mesh=shape.build(devices))
  program, state = setup.lower().compile(), setup.fresh()
  numbers = lambda *values: jax.device_put([*map(np.int32, values)], setup.numbers[0].sharding)  # noqa: E731
  rows = []
  for step in range(2):
    state, metrics = program(state, setup.put(BATCH), *numbers(setup.total_steps, step))
    rows.append({name: float(metrics[name]) for name in ("loss", "gradient_norm")})
  return {
    "metrics": rows,
    "bytes": {path: leaf.nbytes for path, leaf in named_leaves(state.params).items()},
    "parameters": _axes(state.params),
    "average": _axes(state.ema),
    "moments": {n: _axes(getattr(_adam(state.opt_state), n)) for n in ("mu", "nu")},
    "activations": _activations(setup, objective, state.params),
    "collectives": {c.kind: [c.count, c.bytes] for c in read_program(program).collectives},
  }


def _adam(opt_state):
  leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: hasattr(node, "mu"))
  return next(leaf for leaf in leaves if hasattr(leaf, "mu"))


def _axes(tree) -> dict[str, list]:
  """{path: mesh axes of each axis of the array}"""
  return {path: _spec(leaf) for path, leaf in named_leaves(tree).items()}


def _spec(leaf: jax.Array) -> list:
  spec = [[e] if isinstance(e, str) else list(e or ()) for e in leaf.sharding.spec]
  sizes = leaf.sharding.mesh.shape
  spec = [[name for name in names if sizes[name] > 1] for names in spec]
  return spec + [[]] * (leaf.ndim - len(spec))


def _activations(setup, objective, params) -> dict[str, list]:
  """Of what every layer of the network gives, as the compiler lays it out."""
  stage = objective.stage

  def run(params, batch):
    example = objective.example(batch)
    text = objective.text(params, batch, keep=jnp.ones(ROWS, bool))
    x, entries = network_inputs(
      example.x, conditions=stage.conditions, signals=example.signals, text=text
    )
    _, seen = stage.network.apply(
      {"params": params["network"]},
      x,
      jnp.full(ROWS, 0.5),
      **entries,
      capture_intermediates=True,
      mutable="intermediates",
    )
    return seen["intermediates"]

  with setup.activate():
    return _axes(jax.jit(run)(params, setup.put(BATCH)))


def main(kind: str, layouts: str, *options: str) -> None:
  network = tiny.objective(kind).stage.network
  if "shallow" in options:
    network = network.copy(strides=(4,), width_multipliers=(2,), blocks=(1,))
  if "scanned" in options:
    network = network.copy(stacking=Scanned(), blocks=(3,) * len(network.strides))
  objective = tiny.objective(kind, network=network)
  made = {"one": of_layout(objective, {"data": 1}, {}, jax.devices()[:1])}
  for name, (shape, rules) in json.loads(layouts).items():
    made[name] = of_layout(objective, shape, rules)
  print(json.dumps(made))


if __name__ == "__main__":
  main(*sys.argv[1:])
