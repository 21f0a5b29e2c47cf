"""From the name of an encoder that runs elsewhere, as a user gives it, to the encoder.

`launch.label.load_encoder` knows the folders of our own runs besides.
"""

from pathlib import Path

from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import AudioTextEncoder
from noise2music.joint_embedding.external import ExternalCommand
from noise2music.joint_embedding.precomputed import Precomputed
from noise2music.joint_embedding.request_folder import COMMAND, words_of


def load_encoder(name: str) -> AudioTextEncoder | Precomputed:
  """vectors.npz or `command:python my_encoder.py`.

  Raises UserError for a name that is neither, EncoderError for a command that fails.
  """
  if name.startswith(COMMAND):
    encoder = ExternalCommand(command=words_of(name))
    _ = encoder.fingerprint  # a command that cannot run is refused now
    return encoder
  path = Path(name)
  if path.is_file() and path.suffix == ".npz":
    return Precomputed(path=path)
  raise UserError(
    f"there is no encoder {name!r}: give an .npz of vectors, command:PROGRAM, or the folder of a"
    " run that trained one"
  )
