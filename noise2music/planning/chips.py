"""What one accelerator chip can do, by its vendor's public documentation.

TPU: the pages v4, v5e, v5p and v6e of Google Cloud's TPU documentation; v4's links are the pod's
all-reduce bandwidth over its chips. A clock follows from the peak and the documented number of
128 x 128 multipliers, and is left out for v6e, whose multipliers are not. GPU: NVIDIA's data
sheets of A100 80 GB, H100 and H200, SXM, without sparsity.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """name: as in a slice's name. flops: a second, bfloat16 matrix products. memory_bytes and
  memory_bytes_per_second: of HBM. link_bytes_per_second: to all neighbours together, one way.
  clock_hz: of the tensor cores, what the compiler's estimated cycles count; None where unknown.
  chips_per_host: that one host feeds. runtime_bytes: of the memory, not for programs (a guess).
  """

  name: str
  flops: float
  memory_bytes: float
  memory_bytes_per_second: float
  link_bytes_per_second: float
  clock_hz: float | None
  chips_per_host: int
  runtime_bytes: float = 0.5 * GIB


_COLUMNS = ("flops", "memory_bytes", "memory_bytes_per_second", "link_bytes_per_second",
            "clock_hz", "chips_per_host")  # fmt: skip
_TABLE = {
  "v4": (275e12, 32 * GIB, 1200e9, 269e9, 1.05e9, 4),
  "v5e": (197e12, 16 * GIB, 819e9, 200e9, 1.5e9, 8),
  "v5p": (459e12, 95 * GIB, 2765e9, 600e9, 1.75e9, 4),
  "v6e": (918e12, 32 * GIB, 1600e9, 400e9, None, 8),
  "a100": (312e12, 80e9, 2039e9, 300e9, None, 8),
  "h100": (989e12, 80e9, 3350e9, 450e9, None, 8),
  "h200": (989e12, 141e9, 4800e9, 450e9, None, 8),
}
CHIPS = {
  name: Chip(name=name, **dict(zip(_COLUMNS, row, strict=True))) for name, row in _TABLE.items()
}
