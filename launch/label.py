"""`n2m label`: the commands of data_pipelines/pseudo_label, with towers that a run trained besides.

`n2m label beam` and `duplicates-beam` are `run` and `duplicates` on many machines.
"""

from collections.abc import Sequence
from pathlib import Path

from noise2music.joint_embedding import load
from noise2music.joint_embedding.embedder import Embedder
from noise2music.joint_embedding.encoder import AudioTextEncoder
from noise2music.joint_embedding.precomputed import Precomputed


def main(argv: Sequence[str]) -> int:
  from launch import gin_main

  gin_main.set_up()
  if argv[:1] == ["beam"]:
    from data_pipelines.pseudo_label import beam

    return beam.main(argv[1:], load=load_encoder)
  if argv[:1] == ["duplicates-beam"]:
    from data_pipelines import duplicates_beam

    return duplicates_beam.main(argv[1:], load=load_encoder)
  from data_pipelines.pseudo_label import command

  return command.main(argv, load=load_encoder)


def load_encoder(name: str) -> AudioTextEncoder | Precomputed | Embedder:
  """As `joint_embedding.load.load_encoder`; a folder is that of a run which trained a joint
  embedding. Raises UserError where it is none of these."""
  if not Path(name).is_dir():
    return load.load_encoder(name)
  from noise2music.pipeline import load_embedder

  return load_embedder(name)
