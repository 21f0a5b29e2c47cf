"""Text to token ids, in the convention of T5: 0 pads, 1 ends, 2 is unknown.

`ByteTokenizer` needs no file and knows every language; `SentencePieceTokenizer` reads the `.model`
file that a published T5 comes with. `tokenize` turns texts into the arrays of a batch.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsIndex

import numpy as np
import sentencepiece

from noise2music.errors import UserError
from noise2music.typing import Tokenizer

PAD_ID, EOS_ID, UNKNOWN_ID = 0, 1, 2
_FIRST_BYTE_ID = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByteTokenizer:
  """UTF-8 bytes as tokens, with the ids of ByT5 (Xue et al., 2022): byte b is id b + 3.

  The vocabulary has 384 ids: 3 special ones, 256 bytes, and 125 that ByT5 keeps as sentinels of
  its pre-training and that text never produces.
  """

  @property
  def vocab_size(self) -> int:
    return 384

  def encode(self, text: str, *, limit: int | None = None) -> list[int]:
    """Ids of `text` without an end; at most `limit`, cut where a character ends."""
    data = text.encode("utf-8")
    if limit is not None and len(data) > limit:
      data = data[: _last_character_end(lambda k: data[k], limit)]
    return [byte + _FIRST_BYTE_ID for byte in data]

  def decode(self, ids: Iterable[SupportsIndex]) -> str:
    """Text of `ids`; special ids and sentinels are skipped, broken characters become U+FFFD."""
    bytes_and_others = (int(k) - _FIRST_BYTE_ID for k in ids)
    data = bytes(k for k in bytes_and_others if 0 <= k < 256)
    return data.decode("utf-8", errors="replace")

  def fingerprint(self) -> str:
    return "bytes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentencePieceTokenizer:
  """The pieces of a sentencepiece `.model` file trained in T5's convention (0 pads, 1 ends).

  path: the file. Raises UserError where there is none, it is of another kind, or its pad and end
  ids are others.
  """

  path: str | os.PathLike

  def __post_init__(self):
    path = Path(self.path)
    if not path.is_file():
      raise UserError(
        f"no sentencepiece model at {path}: give the path of a .model file, or use the byte "
        "tokenizer, which needs none"
      )
    pieces = sentencepiece.SentencePieceProcessor()
    try:
      # From bytes, not from the name, so that no message goes to stderr behind our back.
      model = path.read_bytes()
      pieces.LoadFromSerializedProto(model)
      ids = (pieces.pad_id(), pieces.eos_id())
    except Exception as error:
      raise UserError(
        f"{path} is not a sentencepiece model: give the .model file that the text encoder came with"
      ) from error
    if ids != (PAD_ID, EOS_ID):
      raise UserError(
        f"{path} pads with id {ids[0]} and ends with id {ids[1]}, T5 with 0 and 1: give a model "
        "trained with pad_id=0 and eos_id=1"
      )
    object.__setattr__(self, "_pieces", pieces)
    object.__setattr__(self, "_digest", hashlib.sha256(model).hexdigest())

  @property
  def vocab_size(self) -> int:
    return self._pieces.vocab_size()

  def encode(self, text: str, *, limit: int | None = None) -> list[int]:
    """Ids of `text` without an end; at most `limit`, cut where a character ends."""
    ids = self._pieces.encode(text)
    if limit is not None and len(ids) > limit:
      ids = ids[: _last_character_end(lambda k: self._byte(ids[k]), limit)]
    return ids

  def decode(self, ids: Iterable[SupportsIndex]) -> str:
    """Text of `ids`; padding, ends and ids beyond the pieces are skipped."""
    return self._pieces.decode([k for k in map(int, ids) if EOS_ID < k < self.vocab_size])

  def fingerprint(self) -> str:
    return f"sentencepiece {self._digest}"

  def _byte(self, piece: int) -> int:
    """The byte of a fall-back piece such as `<0xE3>`; 0 for an ordinary one."""
    if not self._pieces.is_byte(piece):
      return 0
    return int(self._pieces.id_to_piece(piece)[1:-1], 16)


def tokenize(
  texts: Sequence[str], *, tokenizer: Tokenizer, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Texts as rows of ids, ended by 1 and padded by 0.

  Over-long texts are cut at the end of a character, and the end keeps its place.

  Args:
    texts: none of them empty.
    tokenizer: see `noise2music.typing.Tokenizer`.
    length: ids in a row, the end included; at least 2.

  Returns:
    tokens int32 [len(texts), length], mask bool [len(texts), length], True on text and its end.

  Raises:
    UserError: a text is empty, only white space, not Unicode, or nothing of it is left.
  """
  if isinstance(texts, str):
    raise UserError("tokenize takes a list of texts: write [text] for a single one")
  if length < 2:
    raise UserError(f"token length {length} has no room for text: make it at least 2")
  tokens = np.full((len(texts), length), PAD_ID, np.int32)
  mask = np.zeros((len(texts), length), np.bool_)
  for row, text in enumerate(texts):
    if not text.strip():
      raise UserError(f"text {row + 1} of {len(texts)} is empty: say what the music should be like")
    try:
      text.encode("utf-8")  # sentencepiece would fail without saying why
    except UnicodeEncodeError as error:
      raise UserError(
        f"text {row + 1} of {len(texts)}, {text!a}, has a broken character: write it as UTF-8"
      ) from error
    ids = tokenizer.encode(text, limit=length - 1)
    if not ids:
      raise UserError(
        f"nothing is left of text {row + 1} of {len(texts)}, {text!a}, in {length} tokens: "
        "make the token length larger or write it in other words"
      )
    tokens[row, : len(ids) + 1] = [*ids, EOS_ID]
    mask[row, : len(ids) + 1] = True
  return tokens, mask


def _last_character_end(byte_at, limit: int) -> int:
  """The largest k <= limit at which a new character begins (UTF-8: byte k is no 10xxxxxx)."""
  end = limit
  while end > 0 and 0x80 <= byte_at(end) < 0xC0:
    end -= 1
  return end
