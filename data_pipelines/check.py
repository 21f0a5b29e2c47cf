"""Looks at a manifest and the audio it names before training does: the work of `n2m data check`."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_pipelines.importers.run import file_sha256
from data_pipelines.manifest import Clip, ManifestError, manifest_path, scan_manifest
from data_pipelines.parallel import Progress, no_progress, ordered_map
from data_pipelines.report import NOTED, REFUSED, Problem, count_by_status, describe_error
from data_pipelines.truncation import looks_cut_off
from noise2music.audio.wav_io import probe, read_audio

_WINDOW_SECONDS = 30.0
_SILENCE_PEAK = 1e-3
_LONG_TEXT = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckSummary:
  """What a check found; `str()` is what to print.

  problems: status refused would break or spoil training, noted is worth a look. splits: {split: n}.
  """

  manifest: Path
  clips: int
  seconds: float
  splits: dict[str | None, int]
  problems: tuple[Problem, ...]

  @property
  def ok(self) -> bool:
    return not any(problem.status == REFUSED for problem in self.problems)

  def __str__(self) -> str:
    splits = ", ".join(
      f"{name or 'no split'} {n}" for name, n in sorted(self.splits.items(), key=str)
    )
    counts = count_by_status(self.problems)
    verdict = "ready to train on" if self.ok else f"{counts[REFUSED]} lines or files cannot be used"
    return (
      f"{self.manifest}: {self.clips} clips, {self.seconds / 60:.1f} minutes ({splits})\n"
      f"{verdict}; {counts[NOTED]} notes"
    )


def check_manifest(
  source: str | os.PathLike,
  *,
  decode: bool = True,
  workers: int | None = None,
  progress: Progress = no_progress,
) -> CheckSummary:
  """Checks every line of the manifest at `source` (a file, or a folder that holds manifest.jsonl).

  Each line: fields, the file, its length, rate and sha256, captions. The whole: ids that appear
  twice; the same audio or the same source file in two splits. decode: also read all audio, for
  samples that are not finite, silence and files that break off. UserError: no such manifest.
  """
  manifest = manifest_path(source)
  problems: list[Problem] = []
  clips = list(_usable_lines(manifest, problems))
  total = sum(clip.duration for clip in clips)

  def check(clip: Clip) -> tuple[Clip, list[Problem]]:
    return clip, list(_check_clip(clip, folder=manifest.parent, decode=decode))

  with progress("check", total, 0.0) as advance:
    for clip, found in ordered_map(check, clips, workers=workers):
      problems += found
      advance(clip.duration)
  problems += _check_together(clips)
  return CheckSummary(
    manifest=manifest,
    clips=len(clips),
    seconds=total,
    splits=dict(collections.Counter(clip.split for clip in clips)),
    problems=tuple(problems),
  )


def _usable_lines(manifest: Path, problems: list[Problem]) -> Iterator[Clip]:
  for number, clip in scan_manifest(manifest):
    place = f"{manifest}:{number}"
    if isinstance(clip, ManifestError):
      problems.append(Problem(path=place, reason=str(clip).removeprefix(f"{place}: ")))
    else:
      yield clip


def _check_clip(clip: Clip, *, folder: Path, decode: bool) -> Iterator[Problem]:
  audio = os.fspath(clip.audio_path(folder))
  try:
    for status, reason in _audio_flaws(Path(audio), clip, decode=decode):
      yield Problem(path=audio, reason=reason, status=status)
  except Exception as error:  # one bad file, whatever is wrong with it, must not end the check
    yield Problem(path=audio, reason=describe_error(error))
  for reason in _caption_flaws(clip):
    yield Problem(path=audio, reason=reason, status=NOTED)


def _audio_flaws(audio: Path, clip: Clip, *, decode: bool) -> Iterator[tuple[str, str]]:
  if not audio.is_file():
    yield REFUSED, "there is no such file"
    return
  info = probe(audio)
  if info.sample_rate != clip.sample_rate:
    yield REFUSED, f"is at {info.sample_rate} Hz, the manifest says {clip.sample_rate}"
  # Lossy formats round their length to a frame of up to 50 ms.
  if abs(info.duration - clip.duration) > 0.05 + 1e-3 * clip.duration:
    yield REFUSED, f"is {info.duration:.2f} s long, the manifest says {clip.duration:.2f}"
  if clip.sha256 and file_sha256(audio) != clip.sha256:
    yield REFUSED, "the file has changed since the manifest was made (sha256)"
  cut_off = looks_cut_off(audio, decoded=decode)
  if cut_off:
    yield NOTED, cut_off
  if decode:
    yield from _sound_flaws(audio, seconds=info.duration)


def _sound_flaws(audio: Path, *, seconds: float) -> Iterator[tuple[str, str]]:
  """Reads the whole file a window at a time; what cannot be read raises AudioError."""
  heard, peak = 0.0, 0.0
  while heard < seconds:
    sound, rate = read_audio(audio, start_seconds=heard, seconds=_WINDOW_SECONDS)
    peak = max(peak, float(np.abs(sound).max()))
    heard += max(sound.size / rate, _WINDOW_SECONDS)
  if peak <= _SILENCE_PEAK:
    yield NOTED, "is silent"


def _caption_flaws(clip: Clip) -> Iterator[str]:
  if not clip.captions:
    yield "has no captions"
  for caption in clip.captions:
    if "\ufffd" in caption.text:
      yield f"a caption lost characters to a wrong encoding: {caption.text[:60]!r}"
    if len(caption.text) > _LONG_TEXT:
      yield f"a caption has {len(caption.text)} characters, only the first tokens are ever seen"


def _check_together(clips: Iterable[Clip]) -> Iterator[Problem]:
  ids = collections.Counter(clip.id for clip in clips)
  for name, count in ids.items():
    if count > 1:
      yield Problem(path=name, reason=f"the id appears {count} times; ids must differ")
  for what, key in (("audio", lambda c: c.sha256), ("source", lambda c: c.extra.get("source_id"))):
    splits = collections.defaultdict(lambda: collections.defaultdict(str))
    for clip in clips:
      if key(clip) is not None:
        splits[str(key(clip))][clip.split] = clip.path
    for paths in splits.values():
      if len(paths) > 1:
        places = " and ".join(f"{split} ({path})" for split, path in paths.items())
        path = next(iter(paths.values()))
        yield Problem(path=path, reason=f"the same {what} is in {places}; tests would be too easy")
