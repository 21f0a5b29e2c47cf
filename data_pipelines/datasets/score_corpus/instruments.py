"""The instruments that play the corpus: General MIDI programs that still differ at 3.2 kHz.

A 3.2 kHz waveform keeps what lies under 1.6 kHz, so melodies are laid where several partials of
each instrument survive: `centre` says where its notes should lie on average.
"""

import dataclasses

from noise2music.errors import UserError

KEYBOARD, STRINGS, WOODWIND, BRASS = "keyboard", "strings", "woodwind", "brass"
PLUCKED, MALLETS = "plucked", "mallets"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instrument:
  """One General MIDI program.

  Attributes:
    name: what captions call it.
    program: General MIDI program, counted from 0.
    family: coarse group, what a classifier may fall back to.
    low, high: MIDI keys it can play, both included.
    centre: MIDI key around which melodies are laid by whole octaves.
    polyphonic: may play several parts at once.
    gate: share of a written note for which the key is held.
    character: adjectives that captions may use.
  """

  name: str
  program: int
  family: str
  low: int
  high: int
  centre: int
  polyphonic: bool = False
  gate: float = 0.94
  character: tuple[str, ...] = ()

  def __post_init__(self):
    if not 0 <= self.low <= self.centre <= self.high <= 127:
      raise UserError(f"{self.name}: low <= centre <= high must lie within 0-127.")


_ALL = (
  Instrument(
    name="piano",
    program=0,
    family=KEYBOARD,
    low=28,
    high=96,
    centre=64,
    polyphonic=True,
    gate=1.0,
    character=("warm", "clear"),
  ),
  Instrument(
    name="harpsichord",
    program=6,
    family=KEYBOARD,
    low=29,
    high=89,
    centre=60,
    polyphonic=True,
    gate=0.9,
    character=("bright", "crisp"),
  ),
  Instrument(
    name="organ",
    program=19,
    family=KEYBOARD,
    low=36,
    high=84,
    centre=60,
    polyphonic=True,
    character=("full", "solemn"),
  ),
  Instrument(
    name="violin",
    program=40,
    family=STRINGS,
    low=55,
    high=96,
    centre=70,
    character=("singing", "expressive"),
  ),
  Instrument(
    name="cello",
    program=42,
    family=STRINGS,
    low=36,
    high=72,
    centre=52,
    character=("deep", "rich"),
  ),
  Instrument(
    name="string ensemble",
    program=48,
    family=STRINGS,
    low=36,
    high=91,
    centre=62,
    polyphonic=True,
    character=("lush", "soft"),
  ),
  Instrument(
    name="flute",
    program=73,
    family=WOODWIND,
    low=60,
    high=94,
    centre=76,
    character=("airy", "pure"),
  ),
  Instrument(
    name="clarinet",
    program=71,
    family=WOODWIND,
    low=50,
    high=89,
    centre=62,
    character=("mellow", "hollow"),
  ),
  Instrument(
    name="oboe",
    program=68,
    family=WOODWIND,
    low=58,
    high=89,
    centre=70,
    character=("nasal", "plaintive"),
  ),
  Instrument(
    name="trumpet",
    program=56,
    family=BRASS,
    low=54,
    high=86,
    centre=67,
    character=("brassy", "bold"),
  ),
  Instrument(
    name="trombone",
    program=57,
    family=BRASS,
    low=40,
    high=72,
    centre=54,
    character=("broad", "dark"),
  ),
  Instrument(
    name="acoustic guitar",
    program=24,
    family=PLUCKED,
    low=40,
    high=83,
    centre=57,
    polyphonic=True,
    gate=1.0,
    character=("gentle", "plucked"),
  ),
  Instrument(
    name="harp",
    program=46,
    family=PLUCKED,
    low=36,
    high=96,
    centre=66,
    polyphonic=True,
    gate=1.0,
    character=("delicate", "rippling"),
  ),
  Instrument(
    name="marimba",
    program=12,
    family=MALLETS,
    low=45,
    high=89,
    centre=62,
    polyphonic=True,
    gate=1.0,
    character=("woody", "short"),
  ),
  Instrument(
    name="vibraphone",
    program=11,
    family=MALLETS,
    low=53,
    high=89,
    centre=70,
    polyphonic=True,
    gate=1.0,
    character=("shimmering", "metallic"),
  ),
)
INSTRUMENTS = {instrument.name: instrument for instrument in _ALL}


def instrument(name: str) -> Instrument:
  """The instrument of that name; UserError lists those that exist."""
  if name not in INSTRUMENTS:
    raise UserError(f"No instrument {name!r} here: choose from {', '.join(INSTRUMENTS)}.")
  return INSTRUMENTS[name]
