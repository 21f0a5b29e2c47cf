"""Vectors on the disk, in shards that are whole or not there.

  FOLDER/00000.npy   float32 [n, width], rows in the order of "ids"
  FOLDER/00000.json  format, encoder (fingerprint), width, ids, stamps, failed, digest of the .npy

The .json is written last, under another name and then renamed: a shard counts when it is there and
its digest fits. Whatever kills a writer costs the shard under way. A shard that was made by another
encoder, or is damaged, is made again; rows whose id and stamp (size and time of a file) are as they
were are taken from the old one. Arrays are read through memory maps.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.manifest import atomic_text, cannot_write
from data_pipelines.parallel import Progress, no_progress
from noise2music.errors import UserError

FORMAT = 1
SHARD_ROWS = 65_536


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Item:
  """What gets a vector. id: names it. stamp: changes with its content. what: text, or a path."""

  id: str
  what: str
  stamp: str = ""


# A batch of items -> for each its vector float32 [width], or the reason why it has none.
Embed = Callable[[Sequence[Item]], Sequence[np.ndarray | str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
  """Finished shards. ids: of all rows, in order. failed: id -> reason."""

  ids: tuple[str, ...]
  failed: dict[str, str]
  shards: tuple[np.ndarray, ...]
  width: int
  made: int

  def __len__(self) -> int:
    return len(self.ids)

  def rows(self, wanted: Sequence[int] | np.ndarray) -> np.ndarray:
    """float32 [len(wanted), width]"""
    starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
    wanted = np.asarray(wanted, np.int64)
    where = np.searchsorted(starts, wanted, side="right") - 1
    out = np.zeros((len(wanted), self.width), np.float32)
    for shard in np.unique(where):
      mine = where == shard
      out[mine] = self.shards[shard][wanted[mine] - starts[shard]]
    return out

  def chunks(self, rows: int) -> Iterator[np.ndarray]:
    """Views of at most so many rows, in order."""
    for shard in self.shards:
      for start in range(0, len(shard), rows):
        yield shard[start : start + rows]


def fill_store(
  folder: str | os.PathLike,
  items: Sequence[Item],
  *,
  embed: Embed,
  fingerprint: str,
  width: int,
  shard_rows: int = SHARD_ROWS,
  batch_size: int = 64,
  progress: Progress = no_progress,
) -> Store:
  """Makes what is missing and returns all of it; `embed` sees at most batch_size items at once.

  Raises CannotWrite when the disk is full; what is finished is kept.
  """
  folder, made, count = Path(folder), 0, shard_count(len(items), shard_rows=shard_rows)
  with progress(f"embed {folder.name}", len(items), 0) as advance:
    for shard in range(count):
      mine = shard_of(items, shard, shard_rows=shard_rows)
      settings = {"embed": embed, "fingerprint": fingerprint, "width": width}
      made += fill_shard(folder, shard, mine, batch_size=batch_size, **settings)
      advance(len(mine))
  for stale in range(count, count + len(list(folder.glob("[0-9]*.json")))):
    for suffix in (".json", ".npy"):
      (folder / f"{stale:05d}{suffix}").unlink(missing_ok=True)
  return dataclasses.replace(open_store(folder, width=width), made=made)


def shard_count(items: int, *, shard_rows: int = SHARD_ROWS) -> int:
  return -(-items // shard_rows)


def shard_of(items: Sequence, shard: int, *, shard_rows: int = SHARD_ROWS) -> Sequence:
  """Those of the items that belong into a shard."""
  return items[shard * shard_rows : (shard + 1) * shard_rows]


def fill_shard(
  folder: str | os.PathLike,
  shard: int,
  items: Sequence[Item],
  *,
  embed: Embed,
  fingerprint: str,
  width: int,
  batch_size: int = 64,
) -> int:
  """One shard of `fill_store`, as for a worker of many; returns how many items were embedded."""
  path = Path(folder) / f"{shard:05d}"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise cannot_write(path, error) from error
  return _fill_shard(path, items, embed=embed, made_with=(fingerprint, width), batch=batch_size)


def open_store(folder: str | os.PathLike, *, width: int | None = None) -> Store:
  """What `fill_store` left. Raises UserError for a folder without finished shards."""
  ids, failed, shards = [], {}, []
  for path in sorted(Path(folder).glob("[0-9]*.json")):
    head = _read_head(path.with_suffix(""))
    if head is None:
      raise UserError(f"{path} is damaged: run the same command again, which makes it anew")
    width = head["width"]
    failed.update(head["failed"])
    ids += [name for name in head["ids"] if name not in head["failed"]]
    shards.append(np.load(path.with_suffix(".npy"), mmap_mode="r", allow_pickle=False))
  if width is None:
    raise UserError(f"there are no vectors in {folder}: make them with `n2m label run`")
  return Store(ids=tuple(ids), failed=failed, shards=tuple(shards), width=width, made=0)


def _fill_shard(
  path: Path, items: Sequence[Item], *, embed: Embed, made_with: tuple[str, int], batch: int
) -> int:
  """Items that were embedded: 0 where the shard was finished before."""
  old = _read_head(path, made_with=made_with)
  known = _known_rows(path, old) if old else {}
  todo = [item for item in items if (item.id, item.stamp) not in known]
  same = old is not None and old["ids"] == [item.id for item in items]
  if same and not todo and old["stamps"] == [item.stamp for item in items]:
    return 0
  found: dict[str, np.ndarray | str] = {
    item.id: known[item.id, item.stamp] for item in items if (item.id, item.stamp) in known
  }
  for start in range(0, len(todo), batch):
    some = todo[start : start + batch]
    found.update(zip([item.id for item in some], embed(some), strict=True))
  failed = {name: reason for name, reason in found.items() if isinstance(reason, str)}
  good = [found[item.id] for item in items if item.id not in failed]
  fingerprint, width = made_with
  vectors = np.stack(good).astype(np.float32) if good else np.zeros((0, width), np.float32)
  head = {
    "format": FORMAT,
    "encoder": fingerprint,
    "width": width,
    "ids": [item.id for item in items],
    "stamps": [item.stamp for item in items],
    "failed": failed,
  }
  _write_shard(path, vectors, head)
  return len(todo)


def _known_rows(path: Path, head: dict[str, Any]) -> dict[tuple[str, str], np.ndarray]:
  vectors = np.load(path.with_suffix(".npy"), allow_pickle=False)
  pairs = zip(head["ids"], head["stamps"], strict=True)
  good = [(name, stamp) for name, stamp in pairs if name not in head["failed"]]
  return dict(zip(good, vectors, strict=True))


def _write_shard(path: Path, vectors: np.ndarray, head: dict[str, Any]) -> None:
  array, part = path.with_suffix(".npy"), path.with_name(f".{path.name}.{os.getpid()}.part")
  try:
    with open(part, "wb") as out:
      np.save(out, vectors)
      out.flush()
      os.fsync(out.fileno())
    # From here to the end of the function an older .json does not fit the array, so neither counts.
    os.replace(part, array)
  except OSError as error:
    raise cannot_write(array, error, needed_bytes=vectors.nbytes) from error
  finally:
    part.unlink(missing_ok=True)
  with atomic_text(path.with_suffix(".json")) as out:
    json.dump({**head, "digest": _digest(array)}, out)


def _read_head(path: Path, *, made_with: tuple[str, int] | None = None) -> dict[str, Any] | None:
  """The .json of a shard that is whole; None for one that has to be made (again)."""
  try:
    head = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if head["format"] != FORMAT or head["digest"] != _digest(path.with_suffix(".npy")):
      return None
    if made_with is not None and (head["encoder"], head["width"]) != made_with:
      return None
    return head
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _digest(path: Path) -> str:
  with open(path, "rb") as file:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
