"""From the name of an encoder, as a user gives it, to the encoder."""

import shlex
from pathlib import Path

from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import AudioTextEncoder
from noise2music.joint_embedding.external import ExternalCommand
from noise2music.joint_embedding.precomputed import Precomputed

_COMMAND = "command:"


def load_encoder(name: str) -> AudioTextEncoder | Precomputed:
  """vectors.npz, `command:python my_encoder.py`, or the folder of a run that trained one.

  Raises UserError for a name that is none of the three, EncoderError for a command that fails.
  """
  if name.startswith(_COMMAND):
    try:
      words = shlex.split(name.removeprefix(_COMMAND))
    except ValueError as error:
      raise UserError(f"the encoder {name!r} is no command line ({error}): mend it") from error
    encoder = ExternalCommand(command=tuple(words))
    _ = encoder.fingerprint  # a command that cannot run is refused now
    return encoder
  path = Path(name)
  if path.is_file() and path.suffix == ".npz":
    return Precomputed(path=path)
  if not path.is_dir():
    raise UserError(
      f"there is no encoder {name!r}: give an .npz of vectors, command:PROGRAM, "
      "or the folder of a run that trained one"
    )
  try:
    from noise2music.joint_embedding import trained
  except ImportError as error:
    if error.name != "noise2music.joint_embedding":
      raise  # it is there, and something that it needs is not
    raise UserError(
      f"this version reads no trained encoder, as in {name}: give an .npz or command:PROGRAM"
    ) from error
  return trained.load(path)
