"""Text embeddings made once, ahead of training: a folder that grows, and is looked up by text.

  manifest.json  what they were made with: encoder, tokenizer, token length, width, dtype
  rows.f16       the embeddings of real tokens one after another, [rows, width] float16
  index.bin      for each text its id and the row at which it ends; the next one begins there

A text is known by 16 bytes of the sha256 of its UTF-8, so clips that say the same share one entry.
Both files only grow, and an entry is written when its rows are on the disk: whatever kills a writer
leaves a folder in which every entry can be read, and the next writer cuts off what hangs over.

float16 and not bfloat16: a final norm keeps what T5 gives far below 65,504, and it is eight times
finer. numpy alone; the encoder runs in `launch/embed.py`.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_pipelines.manifest import atomic_text, cannot_write
from noise2music.batch import TEXT_EMBEDDING, BatchSpec
from noise2music.errors import UserError
from noise2music.typing import Tokenizer

try:
  import fcntl
except ImportError:  # Windows: no lock, the rest works.
  fcntl = None

FORMAT = 1
MANIFEST, INDEX, ROWS = "manifest.json", "index.bin", "rows.f16"
_ENTRY = np.dtype([("id", "S16"), ("end", "<u8")])
_DTYPE = np.dtype("<f2")
_MADE_WITH = ("encoder", "tokenizer", "token_length", "width", "dtype")


def caption_id(text: str) -> np.bytes_:
  """The name of a text, equal on every machine."""
  # Through an array, as those of the index are: numpy drops zero bytes at the end.
  return np.array(hashlib.sha256(text.encode()).digest()[:16], _ENTRY["id"])[()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEmbeddings:
  """What `n2m data embed` wrote into the folder `path`, read from the disk as it is asked for.

  Raises UserError where there is no such folder, or it is damaged.
  """

  path: str | Path

  def __post_init__(self):
    _ = self._rows

  @functools.cached_property
  def made_with(self) -> Mapping[str, Any]:
    """encoder, tokenizer, token_length, width, dtype."""
    return _read_manifest(Path(self.path))

  @property
  def width(self) -> int:
    return self.made_with["width"]

  def fingerprint(self) -> dict[str, Any]:
    """For that of a batch source; it stays when texts are added."""
    return {TEXT_EMBEDDING: dict(self.made_with)}

  def __len__(self) -> int:
    return len(self._ends)

  def __contains__(self, text: str) -> bool:
    return self._find(text) is not None

  def padded(self, texts: Sequence[str]) -> np.ndarray:
    """float16 [texts, token_length, width], 0 on padding and for the text "".

    Raises UserError for a text that was not embedded.
    """
    out = np.zeros((len(texts), self.made_with["token_length"], self.width), np.float16)
    for row, text in enumerate(texts):
      if not text:
        continue
      k = self._find(text)
      if k is None:
        raise UserError(
          f"the text {text!r} is not among the embeddings in {self.path}; run the same `n2m data"
          " embed` again, which adds what is missing"
        )
      begin, end = int(self._ends[k - 1]) if k else 0, int(self._ends[k])
      out[row, : end - begin] = self._rows[begin:end]
    return out

  def _find(self, text: str) -> int | None:
    wanted = caption_id(text)
    place = int(np.searchsorted(self._sorted, wanted))
    found = place < len(self._sorted) and self._sorted[place] == wanted
    return int(self._order[place]) if found else None

  @functools.cached_property
  def _index(self) -> np.ndarray:
    path = Path(self.path) / INDEX
    whole = path.stat().st_size // _ENTRY.itemsize if path.is_file() else 0
    return np.fromfile(path, _ENTRY, count=whole) if whole else np.zeros(0, _ENTRY)

  @functools.cached_property
  def _ends(self) -> np.ndarray:
    return self._index["end"].astype(np.int64)

  @functools.cached_property
  def _order(self) -> np.ndarray:
    return np.argsort(self._index["id"], kind="stable")

  @functools.cached_property
  def _sorted(self) -> np.ndarray:
    return self._index["id"][self._order]

  @functools.cached_property
  def _rows(self) -> np.ndarray:
    """Mapped after the index was read: a writer at work adds rows first."""
    path, width, ends = Path(self.path) / ROWS, self.width, self._ends
    if not len(ends):
      return np.zeros((0, width), _DTYPE)
    rows = path.stat().st_size // (width * _DTYPE.itemsize) if path.is_file() else 0
    if rows < ends[-1]:
      raise UserError(
        f"{path} is cut off; copy it again, or run the same `n2m data embed` again, which makes"
        " what is missing"
      )
    return np.memmap(path, _DTYPE, mode="r", shape=(rows, width))


def check_embeddings(
  embeddings: TextEmbeddings | None, *, spec: BatchSpec, tokenizer: Tokenizer
) -> None:
  """Raises UserError unless batches of `spec` and `tokenizer` can hold these embeddings."""
  if embeddings is None:
    if spec.text_width:
      raise UserError(
        f"a batch with text_width {spec.text_width} needs embeddings: bind IndexBatches.embeddings,"
        " or set text_width to 0"
      )
    return
  wanted = {
    "tokenizer": tokenizer.fingerprint(),
    "token_length": spec.token_length,
    "width": spec.text_width,
  }
  for name, want in wanted.items():
    if (have := embeddings.made_with[name]) != want:
      raise UserError(
        f"the embeddings in {embeddings.path} were made with {name} {have}, the run has {want};"
        " give the run the same, or embed its texts into another folder"
      )


def _read_manifest(folder: Path) -> dict[str, Any]:
  path = folder / MANIFEST
  if not path.is_file():
    raise UserError(f"there are no text embeddings in {folder}; make them with `n2m data embed`")
  try:
    read = json.loads(path.read_text(encoding="utf-8"))
    version, made_with = read["format"], {name: read[name] for name in _MADE_WITH}
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f"{path} is damaged; copy the folder again or embed into another") from error
  if version != FORMAT:
    raise UserError(f"{folder} has format {version}, not {FORMAT}; embed into another folder")
  return made_with


class EmbeddingWriter:
  """Adds embeddings to the folder `path`, made where it is absent; a context manager.

  made_with: encoder, tokenizer, token_length and width. Raises UserError where the folder holds
  embeddings of another kind or is being written to, and where it cannot be written.
  """

  def __init__(self, path: str | Path, *, made_with: Mapping[str, Any]):
    self.path = Path(path)
    self._made_with = json.loads(json.dumps({**made_with, "dtype": _DTYPE.name}))

  def __enter__(self) -> "EmbeddingWriter":
    if not (self.path / MANIFEST).is_file():
      # A writer killed at once leaves a hidden file.
      if self.path.is_dir() and any(p.name[0] != "." for p in self.path.iterdir()):
        raise UserError(f"{self.path} holds other files: give a folder of its own")
      with atomic_text(self.path / MANIFEST) as out:
        out.write(json.dumps({"format": FORMAT, **self._made_with}, indent=1) + "\n")
    self._check()
    try:
      with contextlib.ExitStack() as files:
        self._rows, self._index = (
          files.enter_context(_locked(self.path / name)) for name in (ROWS, INDEX)
        )
        self._end = self._cut()
        self._files = files.pop_all()
    except OSError as error:
      raise cannot_write(self.path, error) from error
    self.found = TextEmbeddings(path=self.path)
    return self

  def __exit__(self, *_) -> None:
    self._files.close()

  def add(self, texts: Iterable[str], rows: Iterable[np.ndarray]) -> None:
    """One [tokens, width] array for each text, on the disk when this returns."""
    entries, parts = [], []
    for text, row in zip(texts, rows, strict=True):
      with np.errstate(over="ignore"):
        part = np.asarray(row).astype(_DTYPE)
      if not np.isfinite(part).all():
        raise UserError(
          f"the embedding of {text!r} is not finite in float16: check the encoder's checkpoint"
        )
      self._end += len(part)
      entries.append((caption_id(text), self._end))
      parts.append(part)
    try:
      _append(self._rows, np.concatenate(parts))
      _append(self._index, np.array(entries, _ENTRY))
    except OSError as error:
      raise cannot_write(self.path, error) from error

  def _cut(self) -> int:
    """Cuts off what a killed writer left over, half an entry or rows without one: rows left."""
    row_bytes = self._made_with["width"] * _DTYPE.itemsize
    rows = os.fstat(self._rows.fileno()).st_size // row_bytes
    whole = os.fstat(self._index.fileno()).st_size // _ENTRY.itemsize
    ends = np.fromfile(self.path / INDEX, _ENTRY, count=whole)["end"]
    kept = int(np.searchsorted(ends, rows, side="right"))
    self._index.truncate(kept * _ENTRY.itemsize)
    end = int(ends[kept - 1]) if kept else 0
    self._rows.truncate(end * row_bytes)
    return end

  def _check(self) -> None:
    have, want = _read_manifest(self.path), self._made_with
    if names := [name for name in want if have.get(name) != want[name]]:
      raise UserError(
        f"{self.path} holds embeddings made with another {' and '.join(names)}: give another folder"
      )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
  """A file to append to, by nobody else; the lock dies with the process."""
  with open(path, "ab", buffering=0) as file:
    if fcntl is not None:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise UserError(f"another process is embedding into {path.parent}; wait for it") from None
    yield file


def _append(file: IO[bytes], array: np.ndarray) -> None:
  """Returns when it is on the disk. The file has no buffer: a full disk may take a part only."""
  data = memoryview(array.tobytes())
  while data:
    data = data[file.write(data) :]
  os.fsync(file.fileno())
