"""What the compiler says of a program: memory, code, traffic, collectives, estimated cycles.

Its own cost analysis takes the body of a loop once, so the text of the optimised program is read
instead, and each loop counted as often as its condition says. Bytes are those of operands and
results that lie in the chip's main memory, of slices and updates in place those alone that move.
Cycles are the compiler's estimates: no chip has run it.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_WIDTHS = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2}
_FREE = {
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
  "while", "conditional", "call", "iota",
}  # fmt: skip
_CYCLES_OF = "cycles of "
_SLICING = ("dynamic-slice", "dynamic-update-slice", "slice")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$")
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
  """Of one run on one device. peak_bytes: as a TPU's compiler counts it (its temporaries count
  twice what shares a place: it accepts programs whose temporaries are larger than the memory);
  elsewhere the sum of arguments, results that take the place of none, and temporaries, since a
  processor's peak leaves out some. traffic_bytes: read from and written to main memory. cycles:
  None where the compiler estimates none. cycles_by_kind: of fusions that multiply (`products`, with
  what the compiler computes along the way), and of others by what they end in, the largest first.
  """

  argument_bytes: int
  temporary_bytes: int
  peak_bytes: int
  code_bytes: int
  traffic_bytes: float
  cycles: float | None
  cycles_by_kind: Mapping[str, float]
  collectives: tuple[Collective, ...]


def read_program(compiled: Any) -> ProgramCost:
  """compiled: what `jax.jit(...).lower(...).compile()` returned."""
  memory = compiled.memory_analysis()
  arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
  results = memory.output_size_in_bytes - memory.alias_size_in_bytes
  total = _Text(compiled.as_text()).total()
  return ProgramCost(
    argument_bytes=arguments,
    temporary_bytes=temporary,
    peak_bytes=memory.peak_memory_in_bytes if total["cycles"] else arguments + results + temporary,
    code_bytes=memory.generated_code_size_in_bytes,
    traffic_bytes=total["bytes"],
    cycles=total["cycles"] or None,
    cycles_by_kind=_kinds(total),
    collectives=tuple(
      Collective(kind=kind, count=int(total[f"{kind} count"]), bytes=total[f"{kind} bytes"])
      for kind in COLLECTIVES
      if total[f"{kind} count"]
    ),
  )


class _Instruction(NamedTuple):
  """rest: of the line, from the opening bracket on. result: its type."""

  name: str
  opcode: str
  rest: str
  result: str
  root: bool

  @property
  def operands(self) -> list[str]:
    return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])


class _Text:
  """An optimised program, read."""

  def __init__(self, text: str):
    self._computations: dict[str, list[_Instruction]] = {}
    self._results: dict[str, str] = {}
    self._done: dict[str, Mapping[str, float]] = {}
    self._entry = ""
    lines: list[_Instruction] = []
    for line in text.splitlines():
      if begun := _COMPUTATION.match(line):
        lines = self._computations.setdefault(begun[2], [])
        self._entry = begun[2] if begun[1] else self._entry
      elif (found := _INSTRUCTION.match(line)) and (op := _OPCODE.search(found[3])):
        result, rest = found[3][: op.start(1)], found[3][op.end(1) :]
        self._results[found[2]] = result
        lines.append(_Instruction(found[2], op[1], rest, result, bool(found[1])))

  def total(self) -> Mapping[str, float]:
    return self._cost(self._entry)

  def _cost(self, name: str) -> Mapping[str, float]:
    if name not in self._done:
      total: collections.Counter = collections.Counter()
      for instruction in self._computations.get(name, ()):
        self._add(total, instruction)
      self._done[name] = total
    return self._done[name]

  def _add(self, total: collections.Counter, instruction: _Instruction) -> None:
    _, opcode, rest, result, _ = instruction
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
      total[_CYCLES_OF + self._kind(instruction)] += int(cycles[1])
    operands = [self._results.get(name, "") for name in instruction.operands]
    kind = opcode.removesuffix("-start")
    if kind in COLLECTIVES:
      given = sum(_bytes(operand, everywhere=True) for operand in operands)
      made = _bytes(result, everywhere=True)
      if opcode in ("all-gather-start", "collective-permute-start"):
        made -= given  # their result holds the operand too
      total[f"{kind} count"] += 1
      total[f"{kind} bytes"] += max(given, made)
    if opcode in ("copy-start", "slice-start"):
      # Source and destination, in either order; what arrives has the size of the smaller.
      ends = [found[0] for found in _ARRAY.finditer(result)][:2]
      size = min(_bytes(end, everywhere=True) for end in ends)
      total["bytes"] += sum(min(size, _bytes(end)) for end in ends)
    elif opcode not in _FREE and not opcode.endswith("-done"):
      inside = [instruction]
      if opcode == "fusion":
        inside = self._computations.get(_name(rest, "calls"), inside)
      total["bytes"] += self._written(inside, result)
      for index, operand in enumerate(operands):
        total["bytes"] += self._read(inside, index, operand)

  def _kind(self, instruction: _Instruction) -> str:
    inside = [instruction]
    if instruction.opcode == "fusion":
      inside = self._computations.get(_name(instruction.rest, "calls"), inside)
    if any(one.opcode in ("convolution", "dot") for one in inside):
      return "products"
    if instruction.opcode != "fusion":
      return instruction.opcode
    source = re.search(r'op_name="([^"]*)"', instruction.rest)
    return source[1].split("/")[-1] if source else "fusion"

  def _read(self, inside: Sequence[_Instruction], index: int, operand: str) -> float:
    """Of one operand of a fusion: all of it, unless only slices are looked at."""
    name = next((i.name for i in inside if i.opcode == "parameter" and _first(i) == index), None)
    if inside[0].opcode in _SLICING and len(inside) == 1:  # by itself, in no fusion
      name = inside[0].operands[0] if index == 0 else None
    names, part = {name}, 0.0
    for one in inside if name else ():
      if not names.intersection(one.operands):
        continue
      if one.opcode == "bitcast":
        names.add(one.name)
      elif one.opcode not in _SLICING or names.intersection(one.operands[1:]):
        return _bytes(operand)
      elif one.opcode != "dynamic-update-slice":
        part += _bytes(one.result, everywhere=True)
    return min(part, _bytes(operand)) if name else _bytes(operand)

  def _written(self, inside: Sequence[_Instruction], result: str) -> float:
    """All of the results, except those in which part of an operand is replaced in place."""
    made = {one.name: one for one in inside}
    root = next((one for one in inside if one.root), inside[-1])
    roots = [made.get(name) for name in root.operands] if root.opcode == "tuple" else [root]
    types = [found[0] for found in _ARRAY.finditer(result)]
    if len(types) != len(roots):
      return _bytes(result)
    return sum(self._one_written(one, of, made) for one, of in zip(roots, types, strict=True))

  def _one_written(self, root: _Instruction | None, result: str, made: Mapping) -> float:
    while root is not None and root.opcode == "bitcast":
      root = made.get(root.operands[0])
    if root is None or root.opcode != "dynamic-update-slice":
      return _bytes(result)
    update = _bytes(self._results.get(root.operands[1], ""), everywhere=True)
    return min(update, _bytes(result))

  def _trips(self, condition: str, rest: str) -> int:
    if known := re.search(r'known_trip_count[":{]+n":"(\d+)"', rest):
      return int(known[1])
    bounds = [
      int(value)
      for one in self._computations.get(condition, ())
      if one.opcode == "constant" and one.result.startswith("s32[]")
      for value in re.findall(r"^\((\d+)\)", one.rest)
    ]
    return max(bounds, default=1)


def _kinds(total: Mapping[str, float]) -> dict[str, float]:
  found = {k.removeprefix(_CYCLES_OF): v for k, v in total.items() if k.startswith(_CYCLES_OF)}
  return dict(sorted(found.items(), key=lambda item: -item[1]))


def _name(rest: str, key: str) -> str:
  return re.search(rf"{key}=%?([\w.\-]+)", rest)[1]


def _first(parameter: _Instruction) -> int:
  return int(re.match(r"\((\d+)\)", parameter.rest)[1])


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
