"""Cuts a whole collection on this machine: the work of `n2m data cut`.

  out_dir/clips/..         the clips
  out_dir/manifest.jsonl   written when every file had its turn
  out_dir/report.jsonl     one line for each file that was refused or repaired
  out_dir/journal.jsonl    finished files, a line each, as they finish

A run that was killed goes on where it stood: files whose line is in the journal, whose size and
time are as before and whose clips are there are not cut again. Refused files are tried again. The
journal is read into memory, about a kilobyte a file.
"""

import collections
import dataclasses
import json
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from data_pipelines.importers.run import import_dataset
from data_pipelines.ingest import CutResult, CutSpec, clips_of, cut_file
from data_pipelines.manifest import (
  MANIFEST_NAME,
  Clip,
  ManifestError,
  cannot_write,
  json_lines,
  scan_manifest,
  write_manifest,
)
from data_pipelines.parallel import Progress, no_progress, ordered_map
from data_pipelines.report import (
  REFUSED,
  REPORT_NAME,
  Problem,
  count_by_status,
  write_report,
)
from noise2music.errors import UserError

JOURNAL_NAME = "journal.jsonl"


class Stopped(KeyboardInterrupt):
  """Ctrl-C, after everything was put in order; the text says how to go on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutSummary:
  """What cutting gave; `str()` is what to print.

  files: that gave clips. already_done: of these, by an earlier run. seconds: of the clips.
  dropped_seconds: of ends too short to keep. splits: {split: clips}. problems: as in `report`.
  """

  manifest: Path
  report: Path
  files: int
  already_done: int
  clips: int
  seconds: float
  dropped_seconds: float
  splits: dict[str | None, int]
  problems: tuple[Problem, ...]

  def __str__(self) -> str:
    splits = ", ".join(
      f"{name or 'no split'} {n}" for name, n in sorted(self.splits.items(), key=str)
    )
    counts = ", ".join(f"{n} {status}" for status, n in count_by_status(self.problems).items())
    done = f" ({self.already_done} of them by an earlier run)" if self.already_done else ""
    return (
      f"{self.clips} clips, {self.seconds / 60:.1f} minutes, from {self.files} files{done}\n"
      f"splits: {splits}\n"
      f"left over at the ends of files: {self.dropped_seconds / 60:.1f} minutes\n"
      f"{counts}: {self.report}\n"
      f"manifest: {self.manifest}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """The files to cut, each id once, and what was wrong with the list. folder: of the manifest."""

  clips: tuple[Clip, ...]
  folder: Path
  problems: tuple[Problem, ...] = ()


def cut_dataset(
  source: str | os.PathLike,
  *,
  out_dir: str | os.PathLike,
  spec: CutSpec | None = None,
  workers: int | None = None,
  progress: Progress = no_progress,
) -> CutSummary:
  """Cuts every file of `source`: a manifest, a folder that holds one, or a collection to import.

  Raises UserError for a bad source, CannotWrite when the disk is full (what is finished is kept),
  Stopped on Ctrl-C after the clips under way were finished.
  """
  spec, out_dir = spec or CutSpec(), Path(out_dir)
  plan = plan_cut(source, out_dir=out_dir, workers=workers, progress=progress)
  with Journal(out_dir, spec) as journal:
    audio = {clip.id: clip.audio_path(plan.folder) for clip in plan.clips}
    results = {name: journal.finished(name, path) for name, path in audio.items()}
    results = {name: result for name, result in results.items() if result is not None}
    already_done = len(results)
    todo = [clip for clip in plan.clips if clip.id not in results]
    stop = threading.Event()

    def work(clip: Clip) -> tuple[Clip, CutResult]:
      path = audio[clip.id]
      result = cut_file(
        path, clip_id=clip.id, out_dir=out_dir, spec=spec, keep_going=lambda: not stop.is_set()
      )
      journal.add(clip.id, path, result)
      return clip, result

    total = sum(clip.duration for clip in plan.clips)
    done_seconds = total - sum(clip.duration for clip in todo)
    stream = ordered_map(work, todo, workers=workers, on_stop=stop.set)
    try:
      with closing(stream), progress("cut", total, done_seconds) as advance:
        for clip, result in stream:
          results[clip.id] = result
          advance(clip.duration)
    except KeyboardInterrupt as error:
      raise Stopped(
        f"stopped after {len(results)} of {len(plan.clips)} files; "
        "run the same command again to go on from there"
      ) from error
  return finish(plan, results, out_dir=out_dir, spec=spec, already_done=already_done)


def plan_cut(
  source: str | os.PathLike,
  *,
  out_dir: Path,
  workers: int | None = None,
  progress: Progress = no_progress,
) -> Plan:
  """Reads the manifest at `source`, or makes one in `out_dir/source` when it is a collection."""
  source, problems = Path(source), []
  manifest = source / MANIFEST_NAME if source.is_dir() else source
  if not _is_manifest(manifest):
    if source.is_dir() and out_dir.resolve().is_relative_to(source.resolve()):
      raise UserError(f"{out_dir} lies inside the music in {source}; choose a folder outside it")
    imported = import_dataset(
      source, out_dir=out_dir / "source", workers=workers, progress=progress
    )
    manifest, problems = imported.manifest, list(imported.problems)
  if manifest.parent.resolve() == out_dir.resolve():
    raise UserError(f"the clips would overwrite the manifest in {out_dir}; choose another folder")
  clips: dict[str, Clip] = {}
  for number, clip in scan_manifest(manifest):
    place = f"{manifest}:{number}"
    if isinstance(clip, ManifestError):
      problems.append(Problem(path=place, reason=str(clip).removeprefix(f"{place}: ")))
    elif clip.id in clips:
      problems.append(Problem(path=place, reason=f"the id {clip.id} appears twice"))
    else:
      clips[clip.id] = clip
  return Plan(clips=tuple(clips.values()), folder=manifest.parent, problems=tuple(problems))


def finish(
  plan: Plan,
  results: Mapping[str, CutResult],
  *,
  out_dir: Path,
  spec: CutSpec,
  already_done: int = 0,
) -> CutSummary:
  """Writes manifest and report, in the order of the source. Raises UserError without any clip."""
  problems = list(plan.problems)
  splits, seconds, dropped, files = collections.Counter(), 0.0, 0.0, 0
  clips = []
  for source in plan.clips:
    audio = source.audio_path(plan.folder)
    result = results.get(source.id, CutResult(reasons=("was not cut",)))
    problems += filter(None, [result.problem(audio)])
    cut = clips_of(source, result, spec=spec)
    clips += cut
    files += bool(cut)
    splits[source.split] += len(cut)
    seconds += sum(clip.duration for clip in cut)
    dropped += result.dropped_seconds if cut else 0.0
  report = out_dir / REPORT_NAME
  write_report(report, problems)
  if not clips:
    example = next((p for p in problems if p.status == REFUSED), None)
    why = f", for example {example.path} ({example.reason})" if example else ""
    raise UserError(f"none of the {len(plan.clips)} files could be cut{why}; see {report}")
  write_manifest(out_dir / MANIFEST_NAME, clips)
  return CutSummary(
    manifest=out_dir / MANIFEST_NAME,
    report=report,
    files=files,
    already_done=already_done,
    clips=len(clips),
    seconds=seconds,
    dropped_seconds=dropped,
    splits={name: count for name, count in splits.items() if count},
    problems=tuple(problems),
  )


class Journal:
  """The files that an output folder holds whole; safe to add to from several threads.

  The first line holds the settings. Raises UserError when they are not `spec`: one folder never
  mixes clips of two lengths.
  """

  def __init__(self, out_dir: Path, spec: CutSpec):
    self._path, self._out_dir = out_dir / JOURNAL_NAME, out_dir
    self._lock = threading.Lock()
    self._lines: dict[str, dict[str, Any]] = {}
    settings = dataclasses.asdict(spec)
    begun = self._path.is_file() and self._path.stat().st_size > 0
    if begun:
      self._read(settings)
    try:
      out_dir.mkdir(parents=True, exist_ok=True)
      self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
      raise cannot_write(self._path, error) from error
    if not begun:
      self._append({"settings": settings})

  def __enter__(self) -> "Journal":
    return self

  def __exit__(self, *error) -> None:
    os.close(self._file)

  def finished(self, clip_id: str, audio: Path) -> CutResult | None:
    """The earlier result for this file, None when it has to be cut (again)."""
    line = self._lines.get(clip_id)
    if line is None or line["stamp"] != _stamp(audio):
      return None
    result = CutResult.from_json(line["result"])
    there = all((self._out_dir / piece.path).is_file() for piece in result.pieces)
    return result if result.pieces and there else None

  def add(self, clip_id: str, audio: Path, result: CutResult) -> None:
    """Remembers a file whose clips are all written."""
    self._append({"id": clip_id, "stamp": _stamp(audio), "result": result.to_json()})

  def _read(self, settings: Mapping[str, Any]) -> None:
    for _, line in json_lines(self._path):
      if isinstance(line, ManifestError):
        continue  # the line that was being written when the run was killed
      before = line.get("settings")
      if before is not None and before != settings:
        changed = [
          f"{name} {before.get(name)} -> {value}"
          for name, value in settings.items()
          if before.get(name) != value
        ]
        raise UserError(
          f"{self._out_dir} holds clips cut with other settings ({', '.join(changed)}); "
          "choose another folder or delete that one"
        )
      if "id" in line:
        self._lines[line["id"]] = line

  def _append(self, record: Mapping[str, Any]) -> None:
    # The newline goes first as well: a half-written line before this one spoils only itself.
    line = ("\n" + json.dumps(record) + "\n").encode()
    try:
      with self._lock:
        while line:
          line = line[os.write(self._file, line) :]
    except OSError as error:
      raise cannot_write(self._path, error) from error


def _stamp(audio: Path) -> list[int] | None:
  """Size and time of change, which a copied or moved file keeps; None without the file."""
  try:
    status = audio.stat()
  except (OSError, ValueError):
    return None
  return [status.st_size, status.st_mtime_ns]


def _is_manifest(path: Path) -> bool:
  """Whether the first line that is JSON has a path and no sign of another layout."""
  if not path.is_file() or not path.name.endswith((".jsonl", ".jsonl.gz")):
    return False
  lines: Iterable[Any] = (line for _, line in json_lines(path))
  first = next((line for line in lines if not isinstance(line, ManifestError)), None)
  return isinstance(first, dict) and "path" in first and ("captions" in first or "id" in first)
