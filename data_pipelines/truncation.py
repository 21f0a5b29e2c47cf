"""Tells a file that was cut off where decoders do not: wav and ogg are read as far as they go."""

import os
import struct

_CUT_OFF = "ends before the end its format marks, probably cut off; what is there is used"
_UNKNOWN_SIZES = (0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # what writers to a pipe put there
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_OGG_LAST_PAGE = 4  # bit of the header type, after "OggS" and the version


def looks_cut_off(path: str | os.PathLike) -> str | None:
  """A reason for the report, None for a whole file or a format that announces no end.

  wav: the RIFF header promises more bytes than there are. ogg and opus: the last page is not marked
  as the last. Raises OSError when the file cannot be read.
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
  return None
