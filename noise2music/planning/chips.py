"""What one accelerator chip can do, from its vendor's public documentation.

TPU v4, v5e, v5p, v6e: cloud.google.com/tpu/docs, the page of each version. Clock rates follow from
the peak and the number of multipliers. H100 and A100: NVIDIA's data sheets, SXM form, dense.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """name: as in a slice's name. flops: a second, bfloat16 matrix products. memory_bytes and
  memory_bytes_per_second: of HBM. link_bytes_per_second: to all neighbours together, one way.
  clock_hz: of the tensor cores, what the compiler's estimated cycles count; None where it gives
  none. chips_per_host: that one host feeds. runtime_bytes: of the memory, not for programs.
  """

  name: str
  flops: float
  memory_bytes: float
  memory_bytes_per_second: float
  link_bytes_per_second: float
  clock_hz: float | None = None
  chips_per_host: int = 4
  runtime_bytes: float = 0.5 * GIB


_ALL = (
  Chip(
    name="v4",
    flops=275e12,
    memory_bytes=32 * GIB,
    memory_bytes_per_second=1228e9,
    link_bytes_per_second=300e9,
    clock_hz=1.05e9,
  ),
  Chip(
    name="v5e",
    flops=197e12,
    memory_bytes=16 * GIB,
    memory_bytes_per_second=819e9,
    link_bytes_per_second=200e9,
    clock_hz=1.5e9,
    chips_per_host=8,
  ),
  Chip(
    name="v5p",
    flops=459e12,
    memory_bytes=95 * GIB,
    memory_bytes_per_second=2765e9,
    link_bytes_per_second=600e9,
    clock_hz=1.75e9,
  ),
  Chip(
    name="v6e",
    flops=918e12,
    memory_bytes=32 * GIB,
    memory_bytes_per_second=1640e9,
    link_bytes_per_second=448e9,
    clock_hz=1.75e9,
    chips_per_host=8,
  ),
  Chip(
    name="a100",
    flops=312e12,
    memory_bytes=80e9,
    memory_bytes_per_second=2039e9,
    link_bytes_per_second=300e9,
    chips_per_host=8,
  ),
  Chip(
    name="h100",
    flops=989e12,
    memory_bytes=80e9,
    memory_bytes_per_second=3350e9,
    link_bytes_per_second=450e9,
    chips_per_host=8,
  ),
)
CHIPS = {chip.name: chip for chip in _ALL}
