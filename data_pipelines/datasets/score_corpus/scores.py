"""From a music21 score to a compact one: notes in ticks, bars, key, metre. Cached as JSON."""

import dataclasses
import hashlib
import json
import re
import statistics
from pathlib import Path

from data_pipelines.datasets.score_corpus.catalogue import Work, tidy_title
from data_pipelines.manifest import atomic_text

TICKS = 5040  # a quarter note; divisible by whatever tuplets scores hold
VERSION = 4  # of the cached form


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """A piece as a list of notes.

  Attributes:
    notes: (onset, length, MIDI key, part) in ticks, by onset; part 0 is the highest.
    bars: onsets of the bars, in ticks.
    length: of the whole, in ticks.
    metre: such as "6/8". beat: ticks of the beat that a listener would count.
    key: such as "B flat". mode: such as "major", "dorian".
    parts: number of parts.
    title: as the score gives it, or None.
  """

  notes: tuple[tuple[int, int, int, int], ...]
  bars: tuple[int, ...]
  length: int
  metre: str
  beat: int
  key: str
  mode: str
  parts: int
  title: str | None = None

  def melody(self) -> "Score":
    """The top part alone, its highest note where several sound together."""
    best: dict[int, tuple[int, int, int, int]] = {}
    top = min(note[3] for note in self.notes)  # the first part may be silent
    for note in self.notes:
      if note[3] == top and (note[0] not in best or note[2] > best[note[0]][2]):
        best[note[0]] = note
    line = sorted(best.values())
    # A held note stops where the next begins: one line sounds one note at a time.
    cut = [
      (onset, min(length, following[0] - onset), key, 0)
      for (onset, length, key, _), following in zip(line, [*line[1:], (1 << 60,)], strict=True)
    ]
    return dataclasses.replace(self, notes=tuple(cut), parts=1)


def read_score(work: Work, *, cache: Path | None) -> Score | None:
  """Parses a work, or reads it from `cache`; None when music21 cannot make sense of it."""
  digest = hashlib.sha256(f"{VERSION}:{work.id}".encode()).hexdigest()[:24]
  stored = cache / digest[:2] / f"{digest}.json" if cache else None
  if stored and stored.is_file():
    try:
      record = json.loads(stored.read_text("utf-8"))
      return _from_json(record) if record else None
    except (ValueError, TypeError, KeyError):
      pass  # a damaged cache entry is parsed again and replaced
  try:
    score = _parse(work)
  except Exception:  # music21 raises whatever its many readers raise; a bad piece is left out
    score = None
  if stored:
    with atomic_text(stored) as out:
      json.dump(dataclasses.asdict(score) if score else None, out, separators=(",", ":"))
  return score


def _from_json(record: dict) -> Score:
  record["notes"] = tuple(map(tuple, record["notes"]))
  record["bars"] = tuple(record["bars"])
  return Score(**record)


def _parse(work: Work) -> Score | None:
  from music21 import converter  # heavy: two seconds, and only needed where nothing is cached

  if work.text is not None:
    stream = converter.parseData(work.text, format="abc")
  else:
    stream = converter.parse(work.path, forceSource=True, storePickle=False)
  return compact(stream, analysed=work.collection.analysed)


def compact(stream, *, analysed: bool = False) -> Score | None:
  """A music21 Score as `Score`: repeats played once, with their last ending; ties joined."""
  from music21 import key, meter

  parts = list(stream.parts) or [stream]
  cuts = _first_endings(parts[0])
  notes = {note for index, part in enumerate(parts) for note in _notes(part, index, cuts)}
  if not notes:
    return None
  signature = next(iter(stream.recurse().getElementsByClass(meter.TimeSignature)), None)
  signature = signature or meter.TimeSignature("4/4")
  tonality = next(iter(stream.recurse().getElementsByClass(key.Key)), None)
  if tonality is None or analysed:
    tonality = stream.analyze("key")
  bars = [
    _keep(round(float(m.offset) * TICKS), cuts) for m in parts[0].getElementsByClass("Measure")
  ]
  beat = round(float(signature.beatDuration.quarterLength) * TICKS)
  typical = statistics.median(sorted(length for _, length, _, _ in notes))
  if typical * 3.5 <= beat and signature.beatDivisionCount != 3:
    beat //= 2  # four notes to the written beat: listeners count twice as fast
  ordered = sorted(notes)
  return Score(
    notes=tuple(ordered),
    bars=tuple(sorted({bar for bar in bars if bar is not None})),
    length=max(onset + length for onset, length, _, _ in ordered),
    metre=signature.ratioString,
    beat=beat,
    key=tonality.tonic.name.replace("-", " flat").replace("#", " sharp"),
    mode=tonality.mode,
    parts=len({part for _, _, _, part in ordered}),
    title=_title(stream),
  )


def _notes(part, index: int, cuts: list[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
  """What a part plays. (music21's stripTies copies the whole part: twice as slow as parsing it.)"""
  from music21 import chord, harmony, note

  found: list[tuple[int, int, int, int]] = []
  last: dict[int, int] = {}  # MIDI key -> where in `found` it was struck last
  for element in part.flatten().notes:
    if isinstance(element, harmony.Harmony) or not isinstance(element, note.Note | chord.Chord):
      continue
    onset = _keep(round(float(element.offset) * TICKS), cuts)
    length = round(float(element.quarterLength) * TICKS)
    if onset is None or length <= 0:  # left out, or a grace note
      continue
    for member in element.notes if isinstance(element, chord.Chord) else (element,):
      midi, tie = member.pitch.midi, member.tie
      if tie is not None and tie.type != "start" and midi in last:
        struck, held, _, _ = found[last[midi]]
        if struck + held == onset:
          found[last[midi]] = (struck, held + length, midi, index)
          continue
      last[midi] = len(found)
      found.append((onset, length, midi, index))
  return found


def _title(stream) -> str | None:
  """What the score calls itself, unless that is a file's name or a voice's ("Can")."""
  about = stream.metadata
  names = (about.title, about.movementName) if about is not None else ()
  titles = (tidy_title(name) for name in names if name and not re.search(r"\.\w{3}$", name))
  return next((title for title in titles if len(title) > 3), None)


def _first_endings(part) -> list[tuple[int, int]]:
  """[start, stop) in ticks of endings that the last time through leaves out."""
  cuts = []
  for bracket in part.recurse().getElementsByClass("RepeatBracket"):
    if str(bracket.number) != "1":
      continue
    for measure in bracket.getSpannedElements():
      start = round(float(measure.getOffsetInHierarchy(part)) * TICKS)
      cuts.append((start, start + round(float(measure.duration.quarterLength) * TICKS)))
  return sorted(set(cuts))


def _keep(onset: int, cuts: list[tuple[int, int]]) -> int | None:
  """Where an onset comes to lie when `cuts` are taken out, None inside one."""
  shift = 0
  for start, stop in cuts:
    if onset >= stop:
      shift += stop - start
    elif onset >= start:
      return None
  return onset - shift
