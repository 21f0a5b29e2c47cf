"""Reads a SoundFont 2 file and makes single tones from it: in tune, with their envelopes.

Written here because the synthesizer that was at hand (symusic 0.5) ignores the root key that a
zone may override (generator 58), skips decays and releases, and rounds loops to whole output
samples: with the sound font inside pretty_midi an A4 on the piano came out at 1,655 Hz, marimbas
never faded, and every note ended in a click. What is honoured: zones, ranges, tuning, loops, the
volume envelope, attenuation, the low-pass filter with its envelope. What is left out: vibrato and
tremolo oscillators, filter resonance, pan (the result is mono), modulators, reverb, chorus.

Source: SoundFont Technical Specification 2.04 (generators 8.1.3, envelopes 8.1.2, units 8.1.1).
"""

import dataclasses
import functools
import importlib.util
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import soxr

from noise2music.errors import UserError

_KEY_RANGE, _VELOCITY_RANGE, _INSTRUMENT, _SAMPLE = 43, 44, 41, 53
_RECORDS = {
  "phdr": "<20sHHHIII",
  "pbag": "<HH",
  "pgen": "<Hh",
  "inst": "<20sH",
  "ibag": "<HH",
  "igen": "<Hh",
  "shdr": "<20sIIIIIBbHH",
}
# Generators whose preset value replaces nothing but is added to the instrument's (9.4).
_NOT_ADDED = {_KEY_RANGE, _VELOCITY_RANGE, _INSTRUMENT, _SAMPLE, 0, 1, 2, 3, 4, 12, 45, 50, 54, 58}
_DEFAULTS = {8: 13500, 25: -12000, 26: -12000, 27: -12000, 28: -12000, 30: -12000, 33: -12000}
_DEFAULTS |= {34: -12000, 35: -12000, 36: -12000, 38: -12000, 56: 100, 58: -1}
_ATTENUATION_SCALE = 0.4  # what sound cards did with the attenuation unit, and fonts rely on


def default_sound_font() -> Path:
  """The General MIDI font inside pretty_midi, found without importing that package.

  Raises:
    UserError: pretty_midi is not installed, or holds no font.
  """
  spec = importlib.util.find_spec("pretty_midi")
  fonts = sorted(Path(spec.origin).parent.glob("*.sf2")) if spec and spec.origin else []
  if not fonts:
    raise UserError(
      "The sound font of the demo music is missing: pip install 'noise2music[demo]' brings it."
    )
  return fonts[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Zone:
  """One stretch of keys that plays one recorded sample.

  Attributes:
    sample: [samples] float32, the recording up to its loop's end.
    loop_start: where playing goes on when the end is reached, or None for a sample without loop.
    source_hz: rate at which the sample sounds in tune at `root`.
    root: MIDI key at which it was recorded, with cents as fraction.
    generators: SoundFont generator number -> value, presets already added.
  """

  sample: np.ndarray
  loop_start: int | None
  source_hz: float
  root: float
  generators: Mapping[int, int]

  def seconds(self, generator: int) -> float:
    """A generator given in time cents, as seconds."""
    return 2.0 ** (self.generators.get(generator, _DEFAULTS.get(generator, 0)) / 1200)

  def value(self, generator: int) -> int:
    """A generator's plain value."""
    return self.generators.get(generator, _DEFAULTS.get(generator, 0))


def _chunks(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
  while start + 8 <= stop:
    size = struct.unpack_from("<I", data, start + 4)[0]
    yield data[start : start + 4], start + 8, size
    start += 8 + size + (size & 1)


class SoundFont:
  """The presets of bank 0 of one .sf2 file.

  Raises:
    UserError: not a SoundFont file.
  """

  def __init__(self, path: Path):
    self.path = Path(path)
    data = self.path.read_bytes()
    if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
      raise UserError(f"{path} is no SoundFont 2 file: give the path of an .sf2 file.")
    parts = {
      name: (at, size)
      for _, start, length in _chunks(data, 12, len(data))
      for name, at, size in _chunks(data, start + 4, start + length)
    }
    at, size = parts[b"smpl"]
    self._samples = np.frombuffer(data, "<i2", size // 2, at)
    self._tables = {
      name: list(struct.iter_unpack(form, data[slice(*_span(parts[name.encode()]))]))
      for name, form in _RECORDS.items()
    }
    headers = self._tables["phdr"]
    self._presets = {head[1]: k for k, head in enumerate(headers[:-1]) if head[2] == 0}

  def _zones_of(self, kind: str, first: int, last: int) -> Iterator[dict[int, int]]:
    """The generators of each bag, on top of those of a leading global bag."""
    bags, generators = self._tables[f"{kind}bag"], self._tables[f"{kind}gen"]
    end = _INSTRUMENT if kind == "p" else _SAMPLE
    common: dict[int, int] = {}
    for k in range(first, last):
      zone = dict(generators[bags[k][0] : bags[k + 1][0]])
      if end in zone:
        yield common | zone
      elif k == first:
        common = zone

  def zones(self, program: int, key: int, velocity: int = 96) -> tuple[Zone, ...]:
    """What sounds when `key` is struck on General MIDI `program` (0-127): one zone or a few."""
    if program not in self._presets:
      raise UserError(f"{self.path.name} has no General MIDI program {program}.")
    at = self._presets[program]
    heads, instruments = self._tables["phdr"], self._tables["inst"]
    found = []
    for preset in self._zones_of("p", heads[at][3], heads[at + 1][3]):
      if not _inside(preset, key, velocity):
        continue
      which = preset[_INSTRUMENT]
      for zone in self._zones_of("i", instruments[which][1], instruments[which + 1][1]):
        if _inside(zone, key, velocity):
          merged = dict(zone)
          for generator, value in preset.items():
            if generator not in _NOT_ADDED:
              default = _DEFAULTS.get(generator, 0)
              merged[generator] = merged.get(generator, default) + value
          found.append(self._zone(merged))
    return tuple(found)

  def _zone(self, generators: dict[int, int]) -> Zone:
    _, start, end, loop_start, loop_end, rate, key, cents, _, _ = self._tables["shdr"][
      generators[_SAMPLE]
    ]
    start += generators.get(0, 0) + 32768 * generators.get(4, 0)
    end += generators.get(1, 0) + 32768 * generators.get(12, 0)
    loop_start += generators.get(2, 0) + 32768 * generators.get(45, 0)
    loop_end += generators.get(3, 0) + 32768 * generators.get(50, 0)
    looped = generators.get(54, 0) & 1 and loop_end - loop_start > 1
    sample = self._samples[start : loop_end if looped else end]
    root = generators.get(58, -1)
    root = (key if root < 0 else root) - cents / 100
    root -= generators.get(51, 0) + generators.get(52, 0) / 100
    return Zone(
      sample=sample.astype(np.float32) / 32768,
      loop_start=loop_start - start if looped else None,
      source_hz=float(rate),
      root=root,
      generators=generators,
    )


def _span(part: tuple[int, int]) -> tuple[int, int]:
  return part[0], part[0] + part[1]


def _inside(generators: Mapping[int, int], key: int, velocity: int) -> bool:
  def holds(generator: int, value: int) -> bool:
    bounds = generators.get(generator)
    return bounds is None or (bounds & 255) <= value <= ((bounds >> 8) & 255)

  return holds(_KEY_RANGE, key) and holds(_VELOCITY_RANGE, velocity)


@functools.cache
def load_sound_font(path: Path) -> SoundFont:
  """The font at `path`, read once in a process."""
  return SoundFont(path)


def tone(zone: Zone, key: int, *, seconds: float, sample_rate_hz: int) -> np.ndarray:
  """One held key, without release: [seconds * rate] float32.

  The loop is unrolled before the rate is changed, so its length is never rounded to output samples.
  """
  scale = zone.value(56) / 100
  in_hz = zone.source_hz * 2 ** ((key - zone.root) * scale / 12)
  count = round(seconds * sample_rate_hz)
  needed = int(count * in_hz / sample_rate_hz) + 64
  raw = zone.sample
  if zone.loop_start is not None and len(raw) < needed:
    loop = raw[zone.loop_start :]
    raw = np.concatenate([raw, np.tile(loop, -(-(needed - len(raw)) // len(loop)))])
  raw = raw[:needed]
  wave = soxr.resample(raw, in_hz, sample_rate_hz, quality="HQ")[:count]
  wave = np.pad(wave, (0, count - len(wave)))
  time = np.arange(count) / sample_rate_hz
  wave = _low_pass(wave, _cutoff_hz(zone, time), sample_rate_hz)
  loudness = 10 ** (-_ATTENUATION_SCALE * zone.value(48) / 200)
  return (wave * _volume(zone, time) * loudness).astype(np.float32)


def _volume(zone: Zone, time: np.ndarray) -> np.ndarray:
  """Delay, linear attack, hold, then a decay that is linear in decibels (100 dB a decay time)."""
  start = zone.seconds(33) if zone.value(33) > -12000 else 0.0
  attack, hold, decay = zone.seconds(34), zone.seconds(35), zone.seconds(36)
  fallen = 100 * np.clip((time - start - attack - hold) / decay, 0, None)
  decibels = -np.minimum(fallen, np.clip(zone.value(37) / 10, 0, 100))
  return np.clip((time - start) / max(attack, 1e-3), 0, 1) * 10 ** (decibels / 20)


def _cutoff_hz(zone: Zone, time: np.ndarray) -> np.ndarray:
  """The filter's corner, moved by the modulation envelope (its decay is linear in cents)."""
  start = zone.seconds(25) if zone.value(25) > -12000 else 0.0
  attack, hold, decay = zone.seconds(26), zone.seconds(27), zone.seconds(28)
  rise = np.clip((time - start) / max(attack, 1e-3), 0, 1)
  fall = np.clip((time - start - attack - hold) / decay, 0, np.clip(zone.value(29) / 1000, 0, 1))
  cents = zone.value(8) + zone.value(11) * np.minimum(rise, 1 - fall)
  return 8.176 * 2 ** (cents / 1200)


def _low_pass(wave: np.ndarray, cutoff_hz: np.ndarray, sample_rate_hz: int) -> np.ndarray:
  """Two poles at a corner that moves slowly: overlapping windows, each weighted in frequency."""
  if cutoff_hz.min() >= sample_rate_hz:
    return wave
  size = 2 ** round(np.log2(sample_rate_hz * 0.02))
  hop = size // 2
  padded = np.pad(wave, (hop, size + hop))
  frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
  window = np.sin(np.pi * (np.arange(size) + 0.5) / size)
  centres = np.clip(np.arange(len(frames)) * hop, 0, len(wave) - 1)
  ratio = np.fft.rfftfreq(2 * size, 1 / sample_rate_hz) / cutoff_hz[centres][:, None]
  spectrum = np.fft.rfft(frames * window, 2 * size) / np.sqrt(1 + ratio**4)
  pieces = np.fft.irfft(spectrum, 2 * size)[:, :size] * window
  out = np.zeros(len(padded))
  for parity in (0, 1):
    block = pieces[parity::2].reshape(-1)
    out[parity * hop : parity * hop + len(block)] += block
  return out[hop : hop + len(wave)]


def release_seconds(zone: Zone) -> float:
  """Time in which the sound falls by 100 dB after the key is let go."""
  return float(np.clip(zone.seconds(38), 0.02, 4.0))
