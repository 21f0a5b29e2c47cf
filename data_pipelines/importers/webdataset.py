"""WebDataset shards: `.tar` files whose members share a key, `000001.flac`, `000001.json`, ...

Members are copied out of the archive, audio under the folder that the caller names, and read as
`folder` reads the files beside a track: `.txt` holds long captions, `.json` columns. An archive is
a stranger's: links, devices and names that lead elsewhere are refused, sizes are checked before
anything is written, and a damaged member costs itself.
"""

import collections
import dataclasses
import errno
import json
import os
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from data_pipelines.importers.fields import clean_text, read_fields
from data_pipelines.importers.found import Found, relative_id
from data_pipelines.manifest import LONG, CannotWrite, Caption, cannot_write
from data_pipelines.report import NOTED, Problem, describe_error
from data_pipelines.splits import known_split
from noise2music.audio.wav_io import AUDIO_SUFFIXES
from noise2music.errors import UserError

_BLOCK = 512
_CHUNK = 1 << 20
_MOST_TEXT_BYTES = 1 << 20
_TEXTS = (".txt", ".json")
# What a member's name can be to blame for; any other error in writing is one for all members.
_OF_NAMES = {
  errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL,
  errno.EILSEQ,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebDatasetImporter:
  """unpack_to: the folder for the audio, one in it of the name of each shard; it must be given.

  most_audio_bytes: larger members are refused. Compressed archives are not read.
  """

  SHARDS = "*.tar"
  unpack_to: Path | None = None
  most_audio_bytes: int = 1 << 31

  def __call__(self, root: Path) -> Iterator[Found | Problem]:
    if self.unpack_to is None:
      raise UserError("the audio of .tar files has to be unpacked: give unpack_to, a folder for it")
    if not root.exists():
      raise UserError(f"there is no folder {root}; check the spelling of the path")
    shards = [root] if root.is_file() else sorted(p for p in root.rglob("*.tar") if p.is_file())
    if not shards:
      raise UserError(f"there is no .tar file in {root}; unpack .tar.gz files to .tar first")
    base = root.parent if root.is_file() else root
    for shard in shards:
      # With .tar, or a folder in `a.tar` and a shard `a/b.tar` could be one place.
      yield from self._shard(shard, name=relative_id(shard, root=base))

  def _shard(self, shard: Path, *, name: str) -> Iterator[Found | Problem]:
    audio: list[tuple[str, PurePosixPath]] = []
    texts: dict[str, list[tuple[str, bytes]]] = collections.defaultdict(list)
    unread: collections.Counter[str] = collections.Counter()
    seen: set[PurePosixPath] = set()
    for item in read_members(shard):
      if isinstance(item, Problem):
        yield item
        continue
      member, file = item
      place = f"{shard}:{member.name}"
      try:
        path = _safe_path(member)
        key, suffix = _key(path), path.suffix.lower()
        if suffix not in (*AUDIO_SUFFIXES, *_TEXTS):
          unread[suffix] += 1
          continue
        if path in seen:
          raise ValueError("a second member of this name; the first is kept")
        seen.add(path)
        if suffix in _TEXTS:
          texts[key].append((suffix, _read_text(member, file)))
        else:
          self._unpack(member, file, to=self.unpack_to / name / path)
          audio.append((key, path))
      except CannotWrite:
        raise
      except (ValueError, EOFError) as error:
        yield Problem(path=place, reason=str(error))
    for suffix, count in sorted(unread.items()):
      reason = f"{count} members that end in {suffix or 'no suffix'} were not read"
      yield Problem(path=str(shard), reason=reason, status=NOTED)
    words = name.removesuffix(".tar").split("/")
    split = known_split(words[-1].split("-")[0]) or known_split(words[0])
    for key, path in audio:
      found = Found(audio=self.unpack_to / name / path, id=f"{name}/{path}", split=split)
      yield (yield from _with_texts(found, texts.pop(key, []), place=f"{shard}:{path}"))
    for key in texts:
      yield Problem(path=f"{shard}:{key}", reason="texts without audio of the same key")

  def _unpack(self, member: tarfile.TarInfo, file: IO[bytes], *, to: Path) -> None:
    """Copies to a temporary neighbour of `to`, which appears whole or not at all.

    Raises CannotWrite for what would fail for other members too, ValueError for this one.
    """
    if member.size > self.most_audio_bytes:
      raise ValueError(f"{member.size} bytes of audio, more than {self.most_audio_bytes}")
    temporary = to.with_name(f".{os.getpid()}.part")
    try:
      to.parent.mkdir(parents=True, exist_ok=True)
      if not to.parent.resolve().is_relative_to(self.unpack_to.resolve()):
        raise ValueError("a link in the output folder leads out of it; remove the link")
      with suppress(FileNotFoundError):
        temporary.unlink()
      with open(temporary, "xb") as out:
        left = member.size
        while left:
          data = _read(file, min(left, _CHUNK))
          if not data:
            raise EOFError("the archive ends within this member")
          out.write(data)
          left -= len(data)
      os.replace(temporary, to)
    except OSError as error:
      if error.errno in _OF_NAMES:
        reason = (
          f"its name cannot be that of a file here ({error.strerror}); rename it in the archive"
        )
        raise ValueError(reason) from error
      raise cannot_write(to, error, needed_bytes=member.size) from error
    finally:
      with suppress(OSError):
        temporary.unlink(missing_ok=True)


def read_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]] | Problem]:
  """Regular members with the file set to their first byte, in the archive's order.

  After damage the reading goes on at the next intact header; the bytes between are one Problem, as
  are links, devices and sparse members. Folders are passed over.
  """
  try:
    with open(path, "rb") as file:
      size = os.fstat(file.fileno()).st_size
      archive, expected = _open(file, at=0, size=size), 0
      while True:
        member, archive = _next(file, archive, expected=expected, size=size)
        begin = size if member is None else member.offset
        if _written(file, expected, begin):
          reason = f"the bytes {expected} to {begin} are damaged; the members in them are lost"
          yield Problem(path=str(path), reason=reason)
        elif member is None and size - expected < _BLOCK:
          reason = "the archive has no end; it may have been cut off"
          yield Problem(path=str(path), reason=reason, status=NOTED)
        if member is None:
          return
        expected = member.offset_data
        if member.isreg():
          expected += -(-member.size // _BLOCK) * _BLOCK
        place = f"{path}:{member.name}"
        if member.isreg() and member.offset_data + member.size > size:
          yield Problem(path=place, reason="the archive ends within this member")
          return
        if member.isreg() and not member.issparse():
          file.seek(member.offset_data)
          yield member, file
        elif not member.isdir():
          yield Problem(path=place, reason="not a regular file; links are not followed")
  except OSError as error:
    yield Problem(path=str(path), reason=describe_error(error))


def _open(file: IO[bytes], *, at: int, size: int) -> tarfile.TarFile | None:
  """The archive from the first header at `at` or behind it that can be read, None without any."""
  while at < size:
    file.seek(at)
    try:
      # Without ignore_zeros a damaged header would pass for the end of the archive.
      return tarfile.open(fileobj=file, mode="r:", ignore_zeros=True, errors="surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError):
      at += _BLOCK
  return None


def _next(
  file: IO[bytes], archive: tarfile.TarFile | None, *, expected: int, size: int
) -> tuple[tarfile.TarInfo | None, tarfile.TarFile | None]:
  """The next member with the archive that goes on behind it; None at the end."""
  while archive is not None:
    at = archive.offset
    try:
      member = archive.next()
    except (tarfile.TarError, ValueError, OverflowError):
      archive = _open(file, at=max(at, expected) + _BLOCK, size=size)
      continue
    archive.members.clear()  # or they all stay in memory
    if member is None or (member.size >= 0 and member.offset >= expected):
      return member, archive
    # A size below zero would lead backwards, and around for ever.
    archive = _open(file, at=max(member.offset, expected) + _BLOCK, size=size)
  return None, None


def _written(file: IO[bytes], begin: int, end: int) -> bool:
  """Whether any byte between the two is not zero; padding between members is."""
  file.seek(begin)
  while begin < end and (data := file.read(min(end - begin, _CHUNK))):
    if data.strip(b"\0"):
      return True
    begin += len(data)
  return False


def _safe_path(member: tarfile.TarInfo) -> PurePosixPath:
  """The member's path. Raises ValueError for one that could leave the folder or is unreadable."""
  name = member.name
  if any("\ud800" <= c <= "\udfff" for c in name) or not name.isprintable():
    raise ValueError("the name is not valid text")
  parts = name.removeprefix("./").split("/")
  if name.startswith("/") or "\\" in name or ":" in parts[0] or {"", ".", ".."} & set(parts):
    raise ValueError("the name leads out of the archive's folder")
  if max(len(part.encode()) for part in parts) > 240 or len(parts) > 32:
    raise ValueError("the name is too long")
  return PurePosixPath(*parts)


def _key(path: PurePosixPath) -> str:
  """What members of one sample share: all before the first dot of the last part."""
  return str(path.with_name(path.name.split(".")[0] or path.name))


def _read_text(member: tarfile.TarInfo, file: IO[bytes]) -> bytes:
  if member.size > _MOST_TEXT_BYTES:
    raise ValueError("a text of more than 1 MB")
  return _read(file, member.size)


def _read(file: IO[bytes], count: int) -> bytes:
  try:
    return file.read(count)
  except OSError as error:
    raise ValueError(f"the archive cannot be read there ({describe_error(error)})") from error


def _with_texts(found: Found, texts: list[tuple[str, bytes]], *, place: str):
  """Returns `found` with its texts; yields those that cannot be read."""
  for suffix, raw in texts:
    try:
      text = raw.decode("utf-8-sig")
      if suffix == ".txt":
        lines = filter(None, map(clean_text, text.splitlines()))
        captions = tuple(Caption(text=line, kind=LONG, source=".txt") for line in lines)
        found = dataclasses.replace(found, captions=(*found.captions, *captions))
        continue
      fields = json.loads(text)
      if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
      found = read_fields(fields, found)
    except (ValueError, RecursionError) as error:
      why = "not UTF-8" if isinstance(error, UnicodeDecodeError) else describe_error(error)
      reason = f"its {suffix} was not read ({why}); its audio is kept without it"
      yield Problem(path=place, reason=reason, status=NOTED)
  return found
