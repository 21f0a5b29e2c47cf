"""Steps of a Task between an index source and its features.

They call the numpy code that `index_batches` uses, so a Task cannot differ from it. What is random
is named by the example's own seed and global index, which the source hands on; seqio's seeds are
not used, because they depend on the number of hosts.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines.manifest import Caption
from data_pipelines.seqio_source import CAPTION_KINDS, CAPTION_TEXTS, GLOBAL_INDEX, SEED
from data_pipelines.text_batches import TextBatch, token_rows
from noise2music.batch import TOKENS
from noise2music.errors import UserError

TEXT = "text"


def draw_text(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  sequence_length: Mapping[str, int] | None,
  *,
  text_batch: TextBatch,
) -> tf.data.Dataset:
  """Adds `text`: one member of the text batch of the example's captions, "" where it has none."""
  tokenizer = output_features[TOKENS].vocabulary.tokenizer
  length = _token_length(sequence_length)

  def draw(texts: np.ndarray, kinds: np.ndarray, seed: np.ndarray, index: np.ndarray) -> bytes:
    captions = [
      Caption(text=text.decode(), kind=kind.decode())
      for text, kind in zip(texts, kinds, strict=True)
    ]
    return text_batch.draw(
      captions, tokenizer=tokenizer, token_length=length, seed=int(seed), global_index=int(index)
    ).encode()

  def add(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    arguments = [example[name] for name in (CAPTION_TEXTS, CAPTION_KINDS, SEED, GLOBAL_INDEX)]
    text = tf.numpy_function(draw, arguments, tf.string, stateful=False)
    return {**example, TEXT: tf.ensure_shape(text, [])}

  return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)


def encode_text(
  dataset: tf.data.Dataset,
  output_features: Mapping[str, seqio.Feature],
  sequence_length: Mapping[str, int] | None,
) -> tf.data.Dataset:
  """Adds `tokens`, int32 with their end, cut to the length asked for; none for the text ""."""
  tokenizer = output_features[TOKENS].vocabulary.tokenizer
  length = _token_length(sequence_length)

  def encode(text: bytes) -> np.ndarray:
    tokens, mask = token_rows([text.decode()], tokenizer=tokenizer, length=length)
    return tokens[0, : int(mask.sum())]

  def add(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    tokens = tf.numpy_function(encode, [example[TEXT]], tf.int32, stateful=False)
    return {**example, TOKENS: tf.ensure_shape(tokens, [None])}

  return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)


def _token_length(sequence_length: Mapping[str, int] | None) -> int:
  if not sequence_length or TOKENS not in sequence_length:
    raise UserError(
      f"sequence_length has no {TOKENS!r}; give task_feature_lengths(spec), the text is cut to it"
    )
  return sequence_length[TOKENS]
