"""From a collection in any known layout to one manifest: the work of `n2m data import`."""

import collections
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_pipelines.importers.audiocraft import AudiocraftImporter, data_files
from data_pipelines.importers.audiofolder import AudioFolderImporter, is_metadata, metadata_files
from data_pipelines.importers.audioset import AudioSetImporter
from data_pipelines.importers.fma import FmaImporter
from data_pipelines.importers.folder import FolderImporter
from data_pipelines.importers.found import Found, Importer, audio_files
from data_pipelines.importers.jamendo import JamendoImporter, SongDescriberImporter
from data_pipelines.importers.joined import is_named
from data_pipelines.importers.magnatagatune import MagnaTagATuneImporter
from data_pipelines.importers.musiccaps import MusicCapsImporter
from data_pipelines.importers.webdataset import WebDatasetImporter
from data_pipelines.manifest import (
  MANIFEST_NAME,
  Clip,
  json_lines,
  portable_path,
  write_manifest,
)
from data_pipelines.parallel import Progress, no_progress, ordered_map
from data_pipelines.report import (
  NOTED,
  REFUSED,
  REPORT_NAME,
  Problem,
  count_by_status,
  describe_error,
  write_report,
)
from data_pipelines.splits import HashSplits
from data_pipelines.truncation import looks_cut_off
from noise2music.audio.wav_io import AUDIO_SUFFIXES, probe
from noise2music.errors import UserError

# Data sets whose rows are joined with a folder of audio; known by the names of their tables.
TABLED = {
  "audioset": AudioSetImporter,
  "fma": FmaImporter,
  "jamendo": JamendoImporter,
  "magnatagatune": MagnaTagATuneImporter,
  "musiccaps": MusicCapsImporter,
  "songdescriber": SongDescriberImporter,
}
_MARKS = {"audioset": b"# YTID", "fma": b",set,"}  # at the top of tables whose names others use
LAYOUTS = {
  "folder": FolderImporter,
  "audiofolder": AudioFolderImporter,
  "audiocraft": AudiocraftImporter,
  "webdataset": WebDatasetImporter,
  **TABLED,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportSummary:
  """What an import gave; `str()` is what to print.

  seconds: of audio. splits: {split: (files, seconds)}. captions: {kind: number of texts}.
  problems: all of them, also in `report`.
  """

  manifest: Path
  report: Path
  files: int
  seconds: float
  without_captions: int
  splits: dict[str, tuple[int, float]]
  captions: dict[str, int]
  problems: tuple[Problem, ...]

  def __str__(self) -> str:
    splits = ", ".join(f"{name} {files}" for name, (files, _) in sorted(self.splits.items()))
    texts = ", ".join(f"{count} {kind}" for kind, count in sorted(self.captions.items()))
    counts = ", ".join(f"{n} {status}" for status, n in count_by_status(self.problems).items())
    return (
      f"{self.files} files, {self.seconds / 60:.1f} minutes ({splits})\n"
      f"captions: {texts or 'none'}; {self.without_captions} files without any\n"
      f"{counts}: {self.report}\n"
      f"manifest: {self.manifest}"
    )


def import_dataset(
  source: str | os.PathLike,
  *,
  out_dir: str | os.PathLike,
  importer: Importer | None = None,
  splits: HashSplits | None = None,
  license: str | None = None,
  workers: int | None = None,
  progress: Progress = no_progress,
) -> ImportSummary:
  """Writes `out_dir/manifest.jsonl` and `out_dir/report.jsonl` for the collection at `source`.

  source: a folder, a metadata.csv or .jsonl, or a data.jsonl(.gz). importer: the layout, None looks
  at what is there. splits: for files whose split nobody gave. license: for files without one.
  Audio stays where it is, but for that of archives, which goes to `out_dir/unpacked`; headers are
  read and every file is hashed. Files with equal bytes are noted and share the first one's split;
  files that were cut off are noted where first and last bytes tell, and kept.
  Raises UserError when there is no audio at all.
  """
  source, out_dir = Path(source), Path(out_dir)
  importer = importer or detect_layout(source)
  if isinstance(importer, WebDatasetImporter) and importer.unpack_to is None:
    importer = dataclasses.replace(importer, unpack_to=out_dir / "unpacked")
  root = source.parent if source.is_file() and isinstance(importer, AudioFolderImporter) else source
  problems: list[Problem] = []
  items = _without_problems(importer(root), problems)
  totals = _Totals()
  with progress("import", 0.0, 0.0) as advance:

    def clips() -> Iterator[Clip]:
      described = ordered_map(_describe, items, workers=workers)
      for clip in _with_splits(described, splits=splits or HashSplits(), problems=problems):
        totals.add(clip)
        advance(1.0)
        path = portable_path(clip.path, folder=out_dir)
        yield dataclasses.replace(clip, path=path, license=clip.license or license)

    stream = clips()
    first = next(stream, None)
    if first is None:
      raise _nothing_usable(source, out_dir, problems)
    try:
      write_manifest(out_dir / MANIFEST_NAME, itertools.chain([first], stream))
    finally:
      write_report(out_dir / REPORT_NAME, problems)
  return totals.summary(out_dir, problems)


def detect_layout(source: str | os.PathLike) -> Importer:
  """The importer that fits what lies at `source`. Raises UserError when nothing does."""
  source = Path(source)
  around = sorted(source.iterdir()) if source.is_dir() else [source]
  for name, importer in TABLED.items():
    mark = _MARKS.get(name, b"")
    if any(is_named(path, importer.TABLES) and _has(path, mark) for path in around):
      return importer()
  if source.is_file():
    if is_named(source, (WebDatasetImporter.SHARDS,)):
      return WebDatasetImporter()
    if source.suffix.lower() in AUDIO_SUFFIXES:
      raise UserError(f"{source} is one audio file; give the folder that holds it")
    if source.suffix.lower() != ".csv" and not source.name.endswith((".jsonl", ".jsonl.gz")):
      raise UserError(f"{source} is no folder, .csv or .jsonl; give the folder of the music")
    if is_metadata(source):
      return AudioFolderImporter(metadata=source)
    _, first = next(json_lines(source), (0, None))
    if isinstance(first, dict) and "captions" in first:
      raise UserError(f"{source} is a manifest already; use `n2m data check` or `n2m data cut`")
    return AudiocraftImporter()
  if not source.is_dir():
    raise UserError(f"there is no folder {source}; check the spelling of the path")
  if next(metadata_files(source), None):
    return AudioFolderImporter()
  if next(data_files(source), None):
    return AudiocraftImporter()
  # An archive among music is left alone; a folder of archives is a data set.
  if any(is_named(path, (WebDatasetImporter.SHARDS,)) for path in around) and not any(
    isinstance(path, Path) for path in audio_files(source)
  ):
    return WebDatasetImporter()
  return FolderImporter()


def _has(table: Path, mark: bytes) -> bool:
  with open(table, "rb") as file:
    return mark in file.read(1 << 14)


def file_sha256(path: str | os.PathLike) -> str:
  with open(path, "rb") as audio:
    return hashlib.file_digest(audio, "sha256").hexdigest()


def _describe(found: Found) -> tuple[Found, Clip | Problem, list[Problem]]:
  """The clip, or why there is none; and what to note of it."""
  path = os.fspath(found.audio)
  try:
    digest = file_sha256(found.audio)  # first: decoders hide that it is the rights that are missing
    info = probe(found.audio)
    cut_off = looks_cut_off(found.audio)
    clip = Clip(
      path=os.path.abspath(found.audio),
      duration=info.duration,
      sample_rate=info.sample_rate,
      captions=found.captions,
      license=found.license,
      split=found.split,
      sha256=digest,
      id=found.id,
      extra=found.extra,
    )
    return found, clip, [Problem(path=path, reason=cut_off, status=NOTED)] if cut_off else []
  except Exception as error:  # one bad file, whatever is wrong with it, must not end the import
    return found, Problem(path=path, reason=describe_error(error)), []


def _without_problems(items: Iterable[Found | Problem], problems: list[Problem]) -> Iterator[Found]:
  for item in items:
    if isinstance(item, Problem):
      problems.append(item)
    else:
      yield item


def _with_splits(
  described: Iterable[tuple[Found, Clip | Problem, list[Problem]]],
  *,
  splits: HashSplits,
  problems: list[Problem],
) -> Iterator[Clip]:
  ids: set[str] = set()
  first_with: dict[str, tuple[str, str]] = {}  # sha256 -> (id, split)
  for found, clip, notes in described:
    problems += notes
    if isinstance(clip, Problem):
      problems.append(clip)
      continue
    if clip.id in ids:
      reason = f"listed twice under the id {clip.id}; the first is kept"
      problems.append(Problem(path=os.fspath(found.audio), reason=reason))
      continue
    ids.add(clip.id)
    split = clip.split or splits(clip.id)
    if clip.sha256 in first_with:
      twin, twin_split = first_with[clip.sha256]
      reason = f"the same bytes as {twin}"
      if split != twin_split:
        reason += f"; put in its split {twin_split}, not in {split}"
        split = twin_split
      problems.append(Problem(path=os.fspath(found.audio), reason=reason, status=NOTED))
    first_with.setdefault(clip.sha256, (clip.id, split))
    yield dataclasses.replace(clip, split=split)


def _nothing_usable(source: Path, out_dir: Path, problems: list[Problem]) -> UserError:
  refused = [problem for problem in problems if problem.status == REFUSED]
  if not refused:
    looked_for = ", ".join(AUDIO_SUFFIXES)
    return UserError(
      f"there is no audio in {source} (looked for {looked_for}); give another folder"
    )
  write_report(out_dir / REPORT_NAME, problems)
  return UserError(
    f"none of the {len(refused)} files or rows in {source} could be used, for example "
    f"{refused[0].path} ({refused[0].reason}); see {out_dir / REPORT_NAME} and mend them"
  )


class _Totals:
  """Counts kept while clips stream by."""

  def __init__(self):
    self.files, self.without_captions = 0, 0
    self.seconds = collections.Counter()
    self.per_split = collections.Counter()
    self.captions = collections.Counter()

  def add(self, clip: Clip) -> None:
    self.files += 1
    self.without_captions += not clip.captions
    self.per_split[clip.split] += 1
    self.seconds[clip.split] += clip.duration
    self.captions.update(caption.kind for caption in clip.captions)

  def summary(self, out_dir: Path, problems: list[Problem]) -> ImportSummary:
    return ImportSummary(
      manifest=out_dir / MANIFEST_NAME,
      report=out_dir / REPORT_NAME,
      files=self.files,
      seconds=float(sum(self.seconds.values())),
      without_captions=self.without_captions,
      splits={name: (count, self.seconds[name]) for name, count in self.per_split.items()},
      captions=dict(self.captions),
      problems=tuple(problems),
    )
