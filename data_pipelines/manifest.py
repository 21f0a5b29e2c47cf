"""The one record format of a clip: a line of `manifest.jsonl`.

  {"path": "clips/00/a-000.flac", "duration": 29.44, "sample_rate": 24000,
   "captions": [{"text": "...", "kind": "long", "source": "caption", "score": null}],
   "license": "CC-BY-4.0", "split": "train", "sha256": "...", "id": "a@0.00", ...}

`path` is relative to the manifest's folder, or absolute. `duration` is in seconds. The first three
fields are those of audiocraft's manifests. Fields that this module does not know are kept in
`extra` and written back unchanged, so a later step may add what it likes.

`kind` matters: a text batch is made of the long captions one by one, and of all the short ones
(short, title, entity) joined together.
"""

import dataclasses
import errno
import gzip
import json
import os
import shutil
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from noise2music.errors import UserError

LONG, SHORT, TITLE, ENTITY = KINDS = ("long", "short", "title", "entity")
MANIFEST_NAME = "manifest.jsonl"

_FULL = (errno.ENOSPC, errno.EDQUOT)


_MOST_LINE_BYTES = 16 << 20


class ManifestError(UserError):
  """A line of a manifest that cannot be used; the text begins with `file:line:`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
  """One text of a clip.

  text: not empty. kind: one of KINDS. source: where it came from (a column, a vocabulary, a rater).
  score: how well it fits, higher is better, None where nobody measured. extra: unknown fields.
  """

  text: str
  kind: str
  source: str = ""
  score: float | None = None
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _expect_text("caption text", self.text)
    if self.kind not in KINDS:
      raise UserError(f"caption kind {self.kind!r} is none of {', '.join(KINDS)}")
    _expect_text("caption source", self.source, empty=True)
    if self.score is not None:
      _expect_number("caption score", self.score)

  @classmethod
  def from_json(cls, record: Any) -> "Caption":
    if not isinstance(record, dict):
      raise UserError(f"a caption must be an object with text and kind, not {_show(record)}")
    record = dict(record)
    for name in ("text", "kind"):
      if name not in record:
        raise UserError(f"a caption has no {name!r}")
    return cls(
      text=record.pop("text"),
      kind=record.pop("kind"),
      source=record.pop("source", None) or "",
      score=record.pop("score", None),
      extra=record,
    )

  def to_json(self) -> dict[str, Any]:
    known = {"text": self.text, "kind": self.kind, "source": self.source, "score": self.score}
    return {**known, **self.extra}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
  """One piece of audio with what is known about it.

  path: relative to the manifest's folder, with forward slashes, or absolute.
  duration: seconds, above 0. sample_rate: Hz. split: train, validation, test or a name of your own.
  sha256: of the file, 64 hexadecimal digits. id: names the clip in data order and random draws,
  `path` when left out; it should survive a move to another machine. extra: unknown fields.
  Raises UserError naming the first field that cannot be.
  """

  path: str
  duration: float
  sample_rate: int
  captions: tuple[Caption, ...] = ()
  license: str | None = None
  split: str | None = None
  sha256: str | None = None
  id: str = ""
  extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    _expect_text("path", self.path)
    _expect_number("duration", self.duration)
    if self.duration <= 0:
      raise UserError(f"duration must be above 0 seconds, not {self.duration:g}")
    _expect_number("sample_rate", self.sample_rate)
    if self.sample_rate < 1 or self.sample_rate != int(self.sample_rate):
      raise UserError(f"sample_rate must be a whole number of Hz, not {self.sample_rate:g}")
    object.__setattr__(self, "sample_rate", int(self.sample_rate))
    for name in ("license", "split", "sha256"):
      value = getattr(self, name)
      if value is not None:
        _expect_text(name, value)
    if self.sha256 is not None and not _is_sha256(self.sha256):
      raise UserError(f"sha256 must be 64 hexadecimal digits, not {_show(self.sha256)}")
    _expect_text("id", self.id, empty=True)
    if not self.id:
      object.__setattr__(self, "id", self.path)

  @classmethod
  def from_json(cls, record: Any) -> "Clip":
    if not isinstance(record, dict):
      raise UserError(f"a line must be a JSON object, not {_show(record)}")
    record = dict(record)
    for name in ("path", "duration", "sample_rate"):
      if record.get(name) is None:
        raise UserError(f"the field {name!r} is missing")
    captions = record.pop("captions", None) or []
    if not isinstance(captions, list):
      raise UserError(f"captions must be a list, not {_show(captions)}")
    known = {f.name for f in dataclasses.fields(cls)} - {"captions", "extra"}
    fields = {name: record.pop(name) for name in known & record.keys()}
    fields["id"] = fields.get("id") or ""
    return cls(**fields, captions=tuple(map(Caption.from_json, captions)), extra=record)

  def to_json(self) -> dict[str, Any]:
    known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "extra"}
    known["captions"] = [caption.to_json() for caption in self.captions]
    return {**known, **self.extra}

  def audio_path(self, folder: str | os.PathLike) -> Path:
    """Where the audio lies, given the folder that holds the manifest."""
    return Path(folder) / self.path


def scan_manifest(path: str | os.PathLike) -> Iterator[tuple[int, Clip | ManifestError]]:
  """Yields (line number from 1, Clip or what is wrong with the line), one line at a time.

  Blank lines and a byte order mark are skipped; a name that ends in .gz is unpacked on the way.
  Raises UserError when there is no such file.
  """
  for number, line in json_lines(path):
    if isinstance(line, ManifestError):
      yield number, line
      continue
    try:
      yield number, Clip.from_json(line)
    except UserError as error:
      yield number, ManifestError(f"{path}:{number}: {error}")


def read_manifest(path: str | os.PathLike) -> Iterator[Clip]:
  """Streams the clips of a manifest; raises ManifestError with file:line at the first bad line."""
  for _, clip in scan_manifest(path):
    if isinstance(clip, ManifestError):
      raise clip
    yield clip


def write_manifest(path: str | os.PathLike, clips: Iterable[Clip]) -> int:
  """Writes `clips` as they come and returns how many; the file appears whole or not at all."""
  return write_json_lines(path, (clip.to_json() for clip in clips))


def manifest_path(path: str | os.PathLike) -> Path:
  """`path` itself, or the manifest.jsonl in it when it is a folder; raises UserError if absent."""
  path = Path(path)
  found = path / MANIFEST_NAME if path.is_dir() else path
  if not found.is_file():
    raise UserError(f"there is no manifest at {found}; make one with `n2m data import`")
  return found


def portable_path(audio: str | os.PathLike, *, folder: str | os.PathLike) -> str:
  """What to store as `path`: relative when the audio lies under `folder`, else absolute."""
  audio, folder = Path(os.path.abspath(audio)), Path(os.path.abspath(folder))
  return audio.relative_to(folder).as_posix() if audio.is_relative_to(folder) else audio.as_posix()


def json_lines(path: str | os.PathLike) -> Iterator[tuple[int, Any]]:
  """Yields (line number, value), or (line number, ManifestError) for a line that is not JSON."""
  path = Path(path)
  if not path.is_file():
    raise UserError(f"there is no file {path}; check the spelling of the path")
  opener = gzip.open if path.suffix == ".gz" else open
  try:
    with opener(path, "rb") as lines:
      for number, raw in enumerate(_bounded_lines(lines), start=1):
        where = f"{path}:{number}"
        if raw is None:
          limit = f"{_MOST_LINE_BYTES >> 20} MB"
          yield (
            number,
            ManifestError(f"{where}: the line is longer than {limit}; mend or remove it"),
          )
          continue
        if number == 1:
          raw = raw.removeprefix(b"\xef\xbb\xbf")
        if raw.strip():
          yield number, _parse(raw, where=where)
  except (EOFError, gzip.BadGzipFile, zlib.error) as error:
    raise UserError(f"{path} is damaged ({error}); make or copy it again") from error
  except OSError as error:
    raise UserError(f"cannot read {path} ({error.strerror}); check its permissions") from error


def _bounded_lines(file: IO[bytes]) -> Iterator[bytes | None]:
  """The lines; None for one that would fill the memory, as a few bytes of gzip can hold."""
  while raw := file.readline(_MOST_LINE_BYTES):
    if len(raw) < _MOST_LINE_BYTES or raw.endswith(b"\n"):
      yield raw
      continue
    while (rest := file.readline(_MOST_LINE_BYTES)) and not rest.endswith(b"\n"):
      pass
    yield None


def write_json_lines(path: str | os.PathLike, records: Iterable[Mapping[str, Any]]) -> int:
  """Writes one JSON object a line, atomically, and returns how many."""
  count = 0
  with atomic_text(path) as out:
    for record in records:
      out.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
      count += 1
  return count


@contextmanager
def atomic_text(path: str | os.PathLike) -> Iterator[IO[str]]:
  """Opens a temporary neighbour of `path` that takes its place only when all went well."""
  path = Path(path)
  opener = gzip.open if path.suffix == ".gz" else open
  temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Half of a surrogate pair (an undecodable file name) becomes its JSON escape.
    with opener(temporary, "wt", encoding="utf-8", errors="backslashreplace", newline="\n") as out:
      yield out
      out.flush()
      os.fsync(out.fileno())
    os.replace(temporary, path)
  except OSError as error:
    raise cannot_write(path, error) from error
  finally:
    with suppress(OSError):
      temporary.unlink(missing_ok=True)


class CannotWrite(UserError):
  """The place for the output is full, read-only or forbidden: nothing that a retry would mend."""


def cannot_write(
  path: str | os.PathLike, error: Exception, *, needed_bytes: int = 1 << 16
) -> CannotWrite:
  """One sentence for an error met while writing `needed_bytes` to `path`.

  Encoders hide why a write failed, so the disk counts as full when that much is not free.
  """
  full = getattr(error, "errno", None) in _FULL
  with suppress(OSError):
    full = full or shutil.disk_usage(Path(path).parent).free < needed_bytes
  if full:
    return CannotWrite(
      f"the disk that holds {path} is full; free some space and run the same command again, "
      "what is finished is kept"
    )
  reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
  return CannotWrite(f"cannot write {path} ({reason}); choose another output folder")


def _parse(raw: bytes, *, where: str) -> Any:
  try:
    text = raw.decode().rstrip()
    return json.loads(text, parse_constant=_refuse_constant)
  except UnicodeDecodeError:
    return ManifestError(f"{where}: the line is not UTF-8; save the file as UTF-8")
  except json.JSONDecodeError as error:
    cut_off = error.pos >= len(text) - 1 or error.msg.startswith("Unterminated")
    mend = "the file may be cut off there" if cut_off else "mend the line"
    return ManifestError(f"{where}: not valid JSON ({error.msg}, column {error.colno}); {mend}")
  except (ValueError, RecursionError) as error:
    return ManifestError(f"{where}: not valid JSON ({error}); mend the line")


def _refuse_constant(name: str):
  raise ValueError(f"{name} is not a JSON number")


def _expect_text(name: str, value: Any, *, empty: bool = False) -> None:
  if not isinstance(value, str):
    raise UserError(f"{name} must be text, not {_show(value)}")
  if not value.strip() and not empty:
    raise UserError(f"{name} must not be empty")
  if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
    raise UserError(f"{name} is not valid Unicode: {value[:40]!a}")


def _expect_number(name: str, value: Any) -> None:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not abs(value) <= sys.float_info.max:  # an int may be too large for a float
    raise UserError(f"{name} must be a finite number, not {_show(value)}")


def _is_sha256(text: str) -> bool:
  return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


def _show(value: Any) -> str:
  text = ascii(value)
  return text if len(text) <= 40 else text[:37] + "..."
