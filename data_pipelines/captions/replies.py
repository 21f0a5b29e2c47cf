"""Replies of a language model on disk: one JSON line each, appended when it has arrived.

A run that was killed has lost what was under way and nothing else: a line is written in one go and
synced, half a line at the end is passed over. Replies are found by what they answer, so the file
serves any list of songs, and runs with another model or prompt add to it.
"""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.captions.chat import Reply
from data_pipelines.captions.spending import Spent
from data_pipelines.manifest import ManifestError, cannot_write, json_lines
from noise2music.errors import UserError

try:
  import fcntl
except ImportError:  # Windows: no lock, the rest works.
  fcntl = None


def request_key(body: Mapping[str, Any]) -> str:
  """sha256 of what is asked: model, messages and settings, in a canonical form."""
  text = json.dumps(body, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
  return hashlib.sha256(text.encode()).hexdigest()


class Replies:
  """Context manager; a second process with the same file is refused with a UserError.

  spent: by all requests in the file. damaged: lines that are not what they should be.
  """

  def __init__(self, path: Path):
    self.path = path
    self.spent, self.damaged = Spent(), 0
    self._known: dict[str, Reply] = {}
    self._lock = threading.Lock()
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> "Replies":
    with contextlib.ExitStack() as stack:
      try:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = stack.enter_context(open(self.path, "ab", buffering=0))
      except OSError as error:
        raise cannot_write(self.path, error) from error
      self._claim()
      for _, line in json_lines(self.path):
        self._remember(line)
      with open(self.path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
          self._write(b"\n")  # a run was killed within a line
      self._stack = stack.pop_all()
    return self

  def __exit__(self, *_) -> None:
    self._stack.close()

  def __len__(self) -> int:
    return len(self._known)

  def get(self, key: str) -> Reply | None:
    with self._lock:
      return self._known.get(key)

  def add(self, key: str, reply: Reply, *, spent: Spent) -> None:
    """Keeps a reply. Raises CannotWrite where it could not be."""
    fields = {"key": key, "text": reply.text, "finish": reply.finish, **vars(spent)}
    with self._lock:
      self._write(json.dumps(fields).encode() + b"\n")
      self._known[key] = reply

  def add_failure(self, *, spent: Spent) -> None:
    """Keeps what requests without a reply may have cost, for the limit."""
    with self._lock:
      self._write(json.dumps({"key": None, **vars(spent)}).encode() + b"\n")

  def _remember(self, line: Any) -> None:
    try:
      if isinstance(line, ManifestError):
        raise ValueError
      self.spent += Spent(
        **{name: int(line[name]) for name in ("requests", "prompt_tokens", "reply_tokens")}
      )
      if line["key"] is not None:
        self._known[str(line["key"])] = Reply(text=str(line["text"]), finish=str(line["finish"]))
    except (ValueError, KeyError, TypeError):
      self.damaged += 1

  def _write(self, line: bytes) -> None:
    end = os.fstat(self._file.fileno()).st_size
    try:
      written = 0
      while written < len(line):  # a write may take a part, as on a disk that is nearly full
        written += self._file.write(line[written:])
      os.fsync(self._file.fileno())
    except OSError as error:
      with contextlib.suppress(OSError):
        self._file.truncate(end)  # or the next line would be lost with the half of this one
      raise cannot_write(self.path, error) from error

  def _claim(self) -> None:
    if fcntl is None:
      return
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f"another process is adding to {self.path}: wait for it, or give another --out"
      ) from None
    except OSError:
      return  # a file system without locks
