"""`n2m data embed`: embeds every text that a run may train with, ahead of it, by its own encoder.

The command stands in EXAMPLE. Texts that the folder has already are left as they are, so that it
goes on where it stopped, and adds what a data set that has grown lacks.
"""

import sys
from collections.abc import Iterator, Sequence

from launch import gin_main

EXAMPLE = """\
  n2m data embed \\
      --gin_file=configs/runs/paper/waveform_generator.gin \\
      --gin_file=configs/text/t5_ahead.gin \\
      --gin.EMBEDDINGS=\\"runs/embeddings\\" \\
      --gin.DATA=\\"clips\\" --gin.T5_WEIGHTS=\\"t5\\" --gin.T5_VOCABULARY=\\"t5.model\\"
Train with the same flags and MODEL_DIR. Run it again to go on where it stopped, or to add texts.
"""
# What the batches of training have and these cannot.
NOT_YET = ("IndexBatches.embeddings = None", "BatchSpec.text_width = 0")


def main(argv: Sequence[str]) -> int:
  parser = gin_main.parser(
    prog="n2m data embed",
    description="Embed the texts of a run ahead of training.",
    example=EXAMPLE,
    runs=False,
  )
  parser.add_argument("--out", metavar="DIR", help="the folder to write, where not EMBEDDINGS")
  parser.add_argument("--batch_size", type=int, default=64, metavar="N", help="%(default)s texts")
  arguments = gin_main.parse_arguments(parser, argv)
  flags = arguments.flags
  gin_main.set_up()
  from noise2music.config import gin_utils
  from noise2music.errors import UserError

  if flags.batch_size < 1:
    raise UserError(f"batch_size is {flags.batch_size}: give at least 1")
  # Nothing is trained here, and a folder that --out names need not be named twice.
  given = ['MODEL_DIR = "unset"', *([f"EMBEDDINGS = {flags.out!r}"] if flags.out else [])]
  bindings = [*given, *arguments.bindings, *NOT_YET]
  gin_utils.parse(flags.gin_file, bindings, search_paths=flags.gin_search_paths)
  gin_utils.check_macros_read(unless=("MODEL_DIR", "EMBEDDINGS"))
  batches, conditioner = _of_run()
  path = flags.out or _embeddings_path()
  print(embed(batches, conditioner, path=path, batch_size=flags.batch_size))
  return 0


def embed(batches, conditioner, *, path: str, batch_size: int) -> str:
  """Adds what the folder `path` lacks of the texts of `batches`; a sentence on what was done.

  batches: an IndexBatches. conditioner: a TextConditioner, whose weights are read.
  """
  import jax
  import jax.numpy as jnp
  import numpy as np

  from data_pipelines.embeddings import EmbeddingWriter
  from data_pipelines.parallel import terminal_progress
  from data_pipelines.text_batches import token_rows
  from noise2music.errors import UserError

  params = jax.tree.map(jnp.asarray, conditioner.pretrained(None))
  length = batches.spec.token_length
  made_with = {
    "encoder": conditioner.fingerprint(params),
    "tokenizer": batches.tokenizer.fingerprint(),
    "token_length": length,
    "width": conditioner.encoder.config.width,
  }
  with EmbeddingWriter(path, made_with=made_with) as writer:
    texts = _texts(batches)
    if not texts:
      raise UserError("no clip of the data set has a text: there is nothing to embed")
    missing = [text for text in texts if text not in writer.found]
    done = len(texts) - len(missing)
    with terminal_progress("texts", len(texts), done) as advance:
      for part in _parts(missing, batch_size):
        # Every batch has one shape, so that the encoder is compiled once.
        filled = [*part, *[""] * (batch_size - len(part))]
        tokens, mask = token_rows(filled, tokenizer=batches.tokenizer, length=length)
        rows = np.asarray(conditioner.embed(params, tokens, mask))
        writer.add(part, [row[real] for row, real in zip(rows, mask, strict=True)][: len(part)])
        advance(len(part))
  return f"{path}: {len(missing):,} texts embedded, {done:,} were there"


def _of_run():
  """The IndexBatches and the TextConditioner that the config describes."""
  from data_pipelines.index_batches import IndexBatches
  from noise2music.config import gin_utils
  from noise2music.errors import UserError
  from noise2music.stages.text_conditioner import EmbeddedAhead
  from noise2music.training import Training

  objective = gin_utils.build_argument(Training, "objective")
  conditioner = objective.text_conditioner
  if conditioner is None:
    raise UserError(f"stage {objective.stage.name} takes no text: there is nothing to embed")
  if isinstance(conditioner, EmbeddedAhead):
    conditioner = conditioner.conditioner
  if conditioner.trainable:
    raise UserError(
      "this run trains its text encoder along, so its texts cannot be embedded ahead: add"
      " --gin_file=configs/text/t5_ahead.gin for a frozen one"
    )
  return gin_utils.build(IndexBatches), conditioner


def _embeddings_path() -> str:
  from data_pipelines.embeddings import TextEmbeddings
  from noise2music.config import gin_utils
  from noise2music.errors import UserError

  try:
    return gin_utils.build_argument(TextEmbeddings, "path")
  except UserError:
    raise UserError(
      "where to write is not said: add --out=DIR, or configs/text/t5_ahead.gin and EMBEDDINGS"
    ) from None


def _texts(batches) -> list[str]:
  """Each text that training may tokenize, once."""
  from data_pipelines.parallel import terminal_progress

  found: dict[str, None] = {}
  clips = sum(len(source) for source in batches.examples.sources)
  with terminal_progress("clips read", clips) as advance:
    for members in batches.texts():
      found |= dict.fromkeys(members)
      advance(1)
  return list(found)


def _parts(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
  for first in range(0, len(texts), size):
    yield texts[first : first + size]


if __name__ == "__main__":
  sys.exit(gin_main.run(main))
