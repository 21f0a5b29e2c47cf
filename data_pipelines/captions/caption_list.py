"""A caption vocabulary: `NAME.txt`, a caption a line, and `NAME.json`, which says what it is.

  {"kind": "long", "source": "...", "captions": 12, "read": 20, "dropped": {"a duplicate": 8},
   "sha256": "...", "rules": {...}, ...}

What was dropped stands in `NAME.dropped.jsonl` with its reason. The sha256 is that of the text
file: a list that was changed by hand is noticed. For a list that was written by hand
{"kind": "long"} is enough.
"""

import collections
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.captions.refine import Dropped, Rules, refine
from data_pipelines.manifest import LONG, SHORT, atomic_text
from data_pipelines.parallel import Progress, no_progress
from noise2music.errors import UserError

_MOST_LINE_BYTES = 10_000
Refine = Callable[..., Iterable[str | Dropped]]  # as `refine`


class EmptyList(UserError):
  """No caption is left of the texts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListSummary:
  """What was made; `str()` is what to print. read = captions + all that `dropped` counts."""

  path: Path
  kind: str
  captions: int
  dropped: Mapping[str, int]

  @property
  def read(self) -> int:
    return self.captions + sum(self.dropped.values())

  def __str__(self) -> str:
    reasons = "".join(f"\n  {count} {reason}" for reason, count in self.dropped.items())
    lost = sum(self.dropped.values())
    return (
      f"{self.captions} {self.kind} captions of {self.read} texts; {lost} dropped{reasons}\n"
      f"captions: {self.path}\ndropped, with reasons: {dropped_path(self.path)}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionList:
  """A vocabulary that was read. kind: "long" or "short". about: the rest of the JSON file.

  dropped: lines that are too long or no UTF-8, which are not in `captions`.
  """

  kind: str
  source: str
  captions: tuple[str, ...]
  about: Mapping[str, Any]
  dropped: int = 0


def list_path(out: str | os.PathLike) -> Path:
  """`out` if it ends in .txt. Raises UserError for other names, since three are derived from it."""
  path = Path(out)
  if path.suffix != ".txt":
    raise UserError(f"{out} is no name of a caption list; let it end in .txt")
  return path


def dropped_path(path: Path) -> Path:
  return path.with_suffix(".dropped.jsonl")


def write_list(
  out: str | os.PathLike,
  texts: Iterable,
  *,
  rules: Rules,
  source: str,
  about: Mapping[str, Any] | None = None,
  refined: Refine = refine,
  progress: Progress = no_progress,
) -> ListSummary:
  """Refines `texts` (Raw or Dropped, as they come) and writes the three files of a vocabulary.

  refined: what does it, as here or on many machines. source: what a caption from it will give as
  its source. about: more to say in the JSON file. Raises EmptyList where no caption is left; an
  older list of the name then stays as it was.
  """
  path, digest = list_path(out), hashlib.sha256()
  kept, dropped = 0, collections.Counter()
  with atomic_text(dropped_path(path)) as bad:
    try:
      with atomic_text(path) as good, progress("captions", 0.0, 0.0) as advance:
        for item in refined(texts, rules=rules):
          advance(1.0)
          if isinstance(item, Dropped):
            dropped[item.reason] += 1
            bad.write(json.dumps(item.to_json(), ensure_ascii=True) + "\n")
          else:
            kept += 1
            good.write(item + "\n")
            digest.update(item.encode() + b"\n")
        if not kept:
          raise _Empty
    except _Empty:
      pass
  summary = ListSummary(
    path=path, kind=rules.kind, captions=kept, dropped=dict(dropped.most_common())
  )
  if not kept:
    why = ", ".join(f"{count} {reason}" for reason, count in summary.dropped.items())
    raise EmptyList(f"no caption is left of {source} ({why or 'it is empty'}); give other texts")
  known = {"kind": rules.kind, "source": source, "captions": kept, "read": summary.read}
  known |= {"dropped": summary.dropped, "sha256": digest.hexdigest()}
  with atomic_text(path.with_suffix(".json")) as sidecar:
    fields = {**known, "rules": dataclasses.asdict(rules), **(about or {})}
    sidecar.write(json.dumps(fields, ensure_ascii=False, indent=2) + "\n")
  return summary


def read_list(path: str | os.PathLike) -> CaptionList:
  """The vocabulary at `path`; blank lines do not count, a caption counts once.

  Raises UserError where it is absent, empty, or not as it was made.
  """
  path = list_path(path)
  beside = path.with_suffix(".json")
  by_hand = f'write {{"kind": "long"}} or {{"kind": "short"}} into {beside}'
  try:
    raw = path.read_bytes()
    about = json.loads(beside.read_text(encoding="utf-8"))
    kind, source = about.pop("kind"), about.pop("source", "")
    digest = about.pop("sha256", None)
  except FileNotFoundError as error:
    mend = f"make both files with `n2m data captions text`, or for a list of your own {by_hand}"
    raise UserError(f"there is no file {error.filename}; {mend}") from None
  except OSError as error:
    raise UserError(f"cannot read {path} ({error.strerror}); check its permissions") from error
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    mend = f"make the list again, or for one of your own {by_hand}"
    raise UserError(f"{beside} does not say what {path.name} holds; {mend}") from error
  if kind not in (LONG, SHORT):
    raise UserError(f"{path} is said to be of kind {kind!r}, not long or short; {by_hand}")
  if digest is not None and hashlib.sha256(raw).hexdigest() != digest:
    raise UserError(
      f"{path} is not as it was made; pass it through `n2m data captions text` to use it changed"
    )
  captions, dropped = _captions(raw)
  if not captions:
    raise UserError(f"{path} holds no caption; write one a line, or make it from other texts")
  return CaptionList(kind=kind, source=str(source), captions=captions, about=about, dropped=dropped)


def _captions(raw: bytes) -> tuple[tuple[str, ...], int]:
  """Captions, and how many lines cannot be any."""
  found, dropped = {}, 0
  for line in raw.split(b"\n"):
    try:
      text = line.decode().strip().removeprefix("\ufeff")
    except UnicodeDecodeError:
      dropped += 1
      continue
    if len(line) > _MOST_LINE_BYTES:
      dropped += 1
    elif text:
      found[text] = None
  return tuple(found), dropped


class _Empty(Exception):
  """Keeps an empty list from taking the place of an older one."""
