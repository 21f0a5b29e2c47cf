"""A made-up piece, for tests that need no real one."""

from data_pipelines.datasets.score_corpus.scores import TICKS, Score


def scale(*, bars: int = 8, parts: int = 1) -> Score:
  """A made-up piece: four quarter notes a bar, the parts a tenth apart."""
  steps = (60, 62, 64, 65, 67, 69, 71, 72)
  notes = [
    (k * TICKS, TICKS, steps[k % 8] - 16 * part, part)
    for k in range(4 * bars)
    for part in range(parts)
  ]
  return Score(
    notes=tuple(notes),
    bars=tuple(range(0, 4 * bars * TICKS, 4 * TICKS)),
    length=4 * bars * TICKS,
    metre="4/4",
    beat=TICKS,
    key="C",
    mode="major",
    parts=parts,
  )
