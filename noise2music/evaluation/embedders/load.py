"""From the name of an encoder of clips, as a user types it, to the encoder."""

import dataclasses
import re
from collections.abc import Callable, Container
from pathlib import Path

from noise2music.errors import UserError
from noise2music.evaluation.embedders.command import AudioCommand
from noise2music.evaluation.embedders.encoder import AudioEncoder
from noise2music.evaluation.embedders.joint import JointAudio
from noise2music.evaluation.embedders.log_mel_statistics import LogMelStatistics
from noise2music.evaluation.embedders.stored import Stored, StoredJoint
from noise2music.evaluation.embedders.trill import FETCH as FETCH_TRILL
from noise2music.evaluation.embedders.trill import LAYER, Trill
from noise2music.evaluation.embedders.vggish import PROTOCOLS, TFHUB, VGGish
from noise2music.evaluation.embedders.vggish_weights import load_vggish
from noise2music.joint_embedding.encoder import AudioTextEncoder
from noise2music.joint_embedding.request_folder import COMMAND, words_of

CHOICES = (
  f"log_mel, vggish[:WEIGHTS][:{'|'.join(PROTOCOLS)}], trill:FOLDER[:LAYER], joint:RUN_FOLDER,"
  " command:PROGRAM ARGUMENTS, or the path of an .npz of vectors"
)


def load_audio_encoder(
  text: str, *, load_joint: Callable[[str], AudioTextEncoder] | None = None
) -> AudioEncoder | Stored:
  """log_mel, vggish[:WEIGHTS][:tfhub|google], trill:FOLDER[:LAYER], joint:RUN_FOLDER,
  command:PROGRAM ARGUMENTS or PATH.npz; OTHER_NAME= before the first two and joint renames them.

  load_joint: gives the joint embedding that a run trained, by its folder. What cannot run is
  refused now. Raises UserError for a text that is none of these, and as each encoder says.
  """
  if renamed := re.fullmatch(r"(\w+)=(.+)", text):
    return _renamed(load_audio_encoder(renamed[2], load_joint=load_joint), renamed[1])
  if text == "log_mel":
    return LogMelStatistics()
  kind, _, rest = text.partition(":")
  if kind == "vggish":
    weights, variant = _last_of(rest, among=PROTOCOLS)
    return VGGish(params=load_vggish(weights or None), variant=PROTOCOLS[variant or TFHUB.name])
  if kind == "trill":
    return _trill(rest)
  if text.startswith(COMMAND):
    encoder = AudioCommand(command=words_of(text))
    _ = encoder.fingerprint  # a command that cannot run is refused now
    return encoder
  if kind == "joint" and rest.endswith(".npz"):
    return StoredJoint(path=rest)
  if kind == "joint" and rest and load_joint is not None:
    return JointAudio(encoder=load_joint(rest))
  if text.endswith(".npz"):
    return Stored(path=text)
  raise UserError(f"there is no encoder {text!r}: give {CHOICES}")


def _renamed(encoder: AudioEncoder | Stored, name: str) -> AudioEncoder | Stored:
  if not isinstance(encoder, VGGish | Trill | JointAudio):
    raise UserError(f"{encoder.name} says itself what it is called: rename it there")
  return dataclasses.replace(encoder, name=name)


def _last_of(text: str, *, among: Container[str]) -> tuple[str, str | None]:
  """(what stands before the last colon, what stands behind it) if that is one of `among`."""
  before, _, last = text.rpartition(":")
  return (before, last) if last in among else (text, None)


def _trill(rest: str) -> Trill:
  if not rest:
    raise UserError(f"TRILL has no folder: {FETCH_TRILL}")
  folder, colon, layer = rest.rpartition(":")
  # A colon may be part of a folder's name.
  if not colon or Path(rest).is_dir():
    return Trill(folder=rest)
  return Trill(folder=folder, layer=layer or LAYER)
