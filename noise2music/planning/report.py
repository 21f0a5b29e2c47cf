"""A plan as text; the numbers themselves are in `planning.plan`."""

from noise2music.planning.chips import GIB
from noise2music.planning.plan import Plan, ProgramPlan

TERA, GIGA, MEGA, KILO = 1e12, 1e9, 1e6, 1e3


def as_text(plan: Plan) -> str:
  """Some forty lines: what is planned, what it costs, whether it fits."""
  slices = f"{plan.slices} slices of " if plan.slices > 1 else ""
  lines = [
    f"{plan.stage} on {slices}{plan.topology}: {_some(plan.chips, 'chip')},"
    f" {_some(plan.hosts, 'host')}",
    *([f"note: {plan.note}"] if plan.note else []),
    "",
    f"parameters     {sum(plan.parameters.values()) / MEGA:,.1f} M",
    *(f"  {room:24} {count / MEGA:9,.2f} M" for room, count in plan.parameters.items()),
    f"checkpoint     {plan.checkpoint_bytes / GIGA:,.2f} GB",
    _input(plan),
    "",
    "train step",
    f"  batch        {plan.batch_size} clips of {plan.seconds:g} s, {plan.rows_per_chip:g} a chip",
    *_program(plan.train),
  ]
  if plan.days is not None:
    low, high = plan.days
    lines += [
      f"  {plan.total_steps:,} steps take {low:.1f} to {high:.1f} days,"
      f" {low * 24 * plan.chips:,.0f} to {high * 24 * plan.chips:,.0f} chip-hours"
    ]
  if plan.sample is not None:
    lines += [
      "",
      f"sampling step: {_some(plan.clips, 'clip')} of {plan.clip_seconds:g} s on"
      f" {_some(plan.sample_chips, 'chip')}, {_some(plan.sampling_steps, 'step')}",
      *_program(plan.sample),
    ]
  return "\n".join(lines)


def _some(count: int, name: str) -> str:
  return f"{count} {name}{'s' * (count != 1)}"


def _input(plan: Plan) -> str:
  line = f"input          {plan.input_bytes_per_step / MEGA:,.1f} MB a step and host"
  if (rates := plan.input_bytes_per_second) is None:
    return line
  low, high = rates
  return f"{line}, {low / MEGA:,.0f} to {high / MEGA:,.0f} MB/s"


def _program(part: ProgramPlan) -> list[str]:
  work, each = part.flops / TERA, part.flops_per_clip / TERA
  lines = [
    f"  work         {work:,.3f} TFLOP a step, {each:,.4f} a clip",
    f"  state        {part.state_bytes / GIB:,.2f} GiB a chip",
  ]
  if part.activation_bytes is not None:
    kept = part.activation_bytes / GIB
    lines.append(f"  activations  {kept:,.2f} GiB a chip, kept for the gradient")
  if (program := part.program) is not None:
    peak, given, temporary = (
      f"{n / GIB:,.2f}"
      for n in (program.peak_bytes, program.argument_bytes, program.temporary_bytes)
    )
    lines += [
      f"  program      peak {peak} GiB a chip ({given} arguments, {temporary} temporary)",
      f"               {program.code_bytes / MEGA:,.1f} MB of code, compiled in"
      f" {part.compile_seconds:,.0f} s",
      f"               {program.traffic_bytes / GIGA:,.1f} GB read and written a chip, in all",
    ]
    lines += [
      f"  {c.kind:20} {c.count:5} of {c.bytes / MEGA:,.1f} MB in all" for c in program.collectives
    ]
    if program.cycles:
      shares = {kind: n / program.cycles for kind, n in list(program.cycles_by_kind.items())[:6]}
      told = ", ".join(f"{kind} {share:.0%}" for kind, share in shares.items())
      lines.append(f"  cycles       {program.cycles:,.0f} in all: {told}")
  if (time := part.time) is not None:
    roofs = {
      "roof": time.roof, "multiplying": time.multiply, "memory": time.memory,
      "links": time.collectives, "compiler": time.compiler,
    }  # fmt: skip
    told = ", ".join(f"{k} {v * KILO:,.2f}" for k, v in roofs.items() if v is not None)
    low, high = time.range
    lines.append(f"  a step       {low * KILO:,.2f} to {high * KILO:,.2f} ms ({told})")
  return [*lines, *(f"  {line}" for line in part.advice)]
