"""Tells a file that was cut off by its first and last bytes, without decoding it.

Decoders do not say so of wav and ogg, which they read as far as they go. Of mp3 they do, once they
come to the place.
"""

import os
import struct
from typing import BinaryIO

_CUT_OFF = "ends before the end its format marks, probably cut off; what is there is used"
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # what writers to a pipe put there
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_OGG_LAST_PAGE = 4  # bit of the header type, after "OggS" and the version
_MP3_SLACK = 1_441  # the largest frame: encoders differ in whether the first one counts


def looks_cut_off(path: str | os.PathLike, *, decoded: bool = False) -> str | None:
  """A reason for the report, None for a whole file or a format that announces no end.

  wav: the RIFF header promises more bytes than there are. ogg and opus: the last page is not marked
  as the last. mp3: the encoder's tag in the first frame promises more; many files have none.

  decoded: whoever asks decodes the file as well, so mp3 is left to the decoder, which knows where.

  Raises OSError when the file cannot be read.
  """
  with open(path, "rb") as file:
    head = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
      (promised,) = struct.unpack("<I", head[4:8])
      return _CUT_OFF if promised not in _UNKNOWN_SIZES and promised + 8 > size + 1 else None
    if head[:4] == b"OggS":
      file.seek(max(0, size - _LARGEST_OGG_PAGE))
      tail = file.read()
      last = tail.rfind(b"OggS")
      marked = last >= 0 and len(tail) > last + 5 and tail[last + 5] & _OGG_LAST_PAGE
      return None if marked else _CUT_OFF
    return None if decoded or size + _MP3_SLACK >= _mp3_end(file, head) else _CUT_OFF


def _mp3_end(file: BinaryIO, head: bytes) -> int:
  """Where the audio ends according to the tag "Xing" or "Info", 0 where there is none.

  The tag stands in the first frame, after the side information, whose length hangs on the version
  of MPEG and the channels; it counts its bytes from that frame on.
  """
  start = 0
  if (
    head[:3] == b"ID3" and len(head) >= 10
  ):  # a size of four times 7 bits, after itself and the rest of its header
    start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
  file.seek(start)
  frame = file.read(4 + 32 + 16)
  if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
    return 0
  mpeg_1, mono = frame[1] & 0x18 == 0x18, frame[3] & 0xC0 == 0xC0
  side = (17 if mono else 32) if mpeg_1 else (9 if mono else 17)
  tag = frame[4 + side :][:16]
  if tag[:4] not in (b"Xing", b"Info") or len(tag) < 16:
    return 0
  flags, _, count = struct.unpack(">III", tag[4:])
  return start + count if flags & 3 == 3 else 0  # both counts are there: frames, then bytes
