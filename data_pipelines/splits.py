"""Which split a file belongs to, decided by its name alone."""

import dataclasses
import hashlib

from noise2music.errors import UserError

TRAIN, VALIDATION, TEST = "train", "validation", "test"

_SPELLINGS = {
  **dict.fromkeys(("train", "training"), TRAIN),
  **dict.fromkeys(("validation", "valid", "val", "dev"), VALIDATION),
  **dict.fromkeys(("test", "testing", "eval", "evaluation"), TEST),
}


def known_split(name: str) -> str | None:
  """The split that `name` usually stands for ("valid" -> "validation"), None for other words."""
  return _SPELLINGS.get(name.strip().lower())


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashSplits:
  """Gives a share of all ids to validation and test, the same on every machine and every run.

  An id's place in [0, 100) is a hash of it, so adding files moves none of the others, and raising
  a percentage only moves files out of train. Shares hold on average: of ten files none may be
  in test. salt: another word draws other files. Raises UserError for shares that cannot be.
  """

  validation_percent: float = 5.0
  test_percent: float = 5.0
  salt: str = ""

  def __post_init__(self):
    low = min(self.validation_percent, self.test_percent)
    if not (low >= 0 and self.validation_percent + self.test_percent <= 100):
      raise UserError(
        "validation_percent and test_percent must be 0 or more and at most 100 together, "
        f"not {self.validation_percent:g} and {self.test_percent:g}"
      )

  def __call__(self, clip_id: str) -> str:
    digest = hashlib.sha256(f"{self.salt}\0{clip_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") * 100 / 2**64
    if place < self.test_percent:
      return TEST
    # From the other end, so that changing the share of test leaves validation as it is.
    return VALIDATION if place >= 100 - self.validation_percent else TRAIN
