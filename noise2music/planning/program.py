"""What the compiler says of a program: memory, code, traffic, collectives, estimated cycles.

Its own cost analysis takes the body of a loop once, so the text of the optimised program is read
instead, and each loop counted as often as its condition says. Bytes are those of operands and
results that lie in the chip's main memory; a fusion that reads a slice of an operand is charged
the whole, so they are an upper bound. Cycles are the compiler's estimates: no chip has run it.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2}
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
  "while", "conditional", "call", "iota",
}  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\](\{[^}]*\})?")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][\w\-]*)\(")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """kind: as in COLLECTIVES. count: how often it runs. bytes: what it takes in or gives out, the
  larger of the two, all runs together.
  """

  kind: str
  count: int
  bytes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramCost:
  """Of one run on one device. cycles: None where the compiler estimates none."""

  argument_bytes: int
  temporary_bytes: int
  peak_bytes: int
  code_bytes: int
  traffic_bytes: float
  cycles: float | None
  collectives: tuple[Collective, ...]


def read_program(compiled: Any) -> ProgramCost:
  """compiled: what `jax.jit(...).lower(...).compile()` returned."""
  memory = compiled.memory_analysis()
  arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  peak = getattr(memory, "peak_memory_in_bytes", 0) or arguments + results + temporary
  total = _Text(compiled.as_text()).total()
  return ProgramCost(
    argument_bytes=arguments,
    temporary_bytes=temporary,
    peak_bytes=peak,
    code_bytes=memory.generated_code_size_in_bytes,
    traffic_bytes=total["bytes"],
    cycles=total["cycles"] or None,
    collectives=tuple(
      Collective(kind=kind, count=int(total[f"{kind} count"]), bytes=total[f"{kind} bytes"])
      for kind in COLLECTIVES
      if total[f"{kind} count"]
    ),
  )


class _Text:
  """The computations of an optimised program, as {name: [(opcode, rest of the line, result)]}."""

  def __init__(self, text: str):
    self._computations: dict[str, list[tuple[str, str, str]]] = {}
    self._results: dict[str, str] = {}
    self._done: dict[str, Mapping[str, float]] = {}
    self._entry = ""
    lines: list[tuple[str, str, str]] = []
    for line in text.splitlines():
      if begun := _COMPUTATION.match(line):
        lines = self._computations.setdefault(begun[2], [])
        self._entry = begun[2] if begun[1] else self._entry
      elif (found := _INSTRUCTION.match(line)) and (op := _OPCODE.search(found[2])):
        result, rest = found[2][: op.start(1)], found[2][op.end(1) :]
        self._results[found[1]] = result
        lines.append((op[1], rest, result))

  def total(self) -> Mapping[str, float]:
    return self._cost(self._entry)

  def _cost(self, name: str) -> Mapping[str, float]:
    if name not in self._done:
      total: collections.Counter = collections.Counter()
      for opcode, rest, result in self._computations.get(name, ()):
        self._add(total, opcode, rest, result)
      self._done[name] = total
    return self._done[name]

  def _add(self, total: collections.Counter, opcode: str, rest: str, result: str) -> None:
    times, inner = 1, []
    if opcode == "while":
      condition, body = _name(rest, "condition"), _name(rest, "body")
      times, inner = self._trips(condition, rest), [body]
    elif opcode == "call":
      inner = [_name(rest, "to_apply")]
    elif opcode == "conditional":
      inner = re.findall(r"%([\w.\-]+)", rest.split("branch_computations=")[-1].split("}")[0])
    for other in inner:
      for key, value in self._cost(other).items():
        total[key] += times * value
    if cycles := re.search(r'"estimated_cycles":"(\d+)"', rest):
      total["cycles"] += int(cycles[1])
    names = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
    operands = [self._results.get(name, "") for name in names]
    kind = opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      given = sum(_bytes(operand, everywhere=True) for operand in operands)
      made = _bytes(result, everywhere=True)
      if opcode in ("all-gather-start", "collective-permute-start"):
        made -= given  # their result holds the operand too
      total[f"{kind} count"] += 1
      total[f"{kind} bytes"] += max(given, made)
    if opcode not in _FREE and not opcode.endswith("-done"):
      total["bytes"] += _bytes(result) + sum(map(_bytes, operands))

  def _trips(self, condition: str, rest: str) -> int:
    if known := re.search(r'known_trip_count[":{]+n":"(\d+)"', rest):
      return int(known[1])
    bounds = [
      int(value)
      for opcode, text, result in self._computations.get(condition, ())
      if opcode == "constant" and result.startswith("s32[]")
      for value in re.findall(r"^\((\d+)\)", text)
    ]
    return max(bounds, default=1)


def _name(rest: str, key: str) -> str:
  return re.search(rf"{key}=%?([\w.\-]+)", rest)[1]


def _bytes(text: str, *, everywhere: bool = False) -> float:
  """Of the arrays in a type that lie in main memory (S(n) marks the others), or of all."""
  total = 0.0
  for kind, shape, layout in _ARRAY.findall(text):
    if not everywhere and re.search(r"S\([1-9]", layout):
      continue
    bits = re.search(r"\d+", kind)
    width = _WIDTHS.get(kind, int(bits[0]) / 8 if bits else 0)
    total += width * math.prod(int(n) for n in shape.split(",") if n)
  return total
