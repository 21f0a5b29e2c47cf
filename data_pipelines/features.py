"""What a seqio Task of ours gives: audio, tokens, and the name of the clip.

The features of a Task have their own lengths; `feature_converters` makes them a batch.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from noise2music.batch import AUDIO, CLIP_ID, TOKENS, BatchSpec
from noise2music.typing import Tokenizer

_EOS_ID, _UNKNOWN_ID = 1, 2  # the convention of noise2music.typing.Tokenizer


class TokenizerVocabulary(seqio.Vocabulary):
  """One of our tokenizers as a seqio vocabulary; inside a graph it is called back in Python.

  So the ids are those of `noise2music.text.tokenizer` whatever the tokenizer, and no TensorFlow
  operation has to be written for a new one.
  """

  def __init__(self, tokenizer: Tokenizer):
    super().__init__(extra_ids=0)
    self.tokenizer = tokenizer

  @property
  def eos_id(self) -> int:
    return _EOS_ID

  @property
  def unk_id(self) -> int:
    return _UNKNOWN_ID

  @property
  def _base_vocab_size(self) -> int:
    return self.tokenizer.vocab_size

  def _encode(self, s: str) -> list[int]:
    return list(self.tokenizer.encode(s))

  def _decode(self, ids: Sequence[int]) -> str:
    return self.tokenizer.decode([int(k) for k in ids])

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    def encode(text: bytes | np.ndarray) -> np.ndarray:
      # Bytes inside a graph, an array of no dimensions outside.
      text = text if isinstance(text, bytes) else text.item()
      return np.array(self._encode(text.decode()), np.int32)

    ids = tf.numpy_function(encode, [tf.convert_to_tensor(s)], tf.int32, stateful=False)
    return tf.ensure_shape(ids, [None])

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    def decode(rows: np.ndarray) -> np.ndarray:
      texts = [self._decode(row).encode() for row in rows.reshape(-1, rows.shape[-1])]
      return np.array(texts, object).reshape(rows.shape[:-1])

    ids = tf.convert_to_tensor(ids)
    out = tf.numpy_function(decode, [ids], tf.string, stateful=False)
    return tf.ensure_shape(out, ids.shape[:-1])

  def __eq__(self, other: object) -> bool:
    return isinstance(other, TokenizerVocabulary) and other.tokenizer == self.tokenizer

  def __hash__(self) -> int:
    return hash(self.tokenizer)


def output_features(tokenizer: Tokenizer) -> dict[str, seqio.Feature]:
  """The features of a Task: int16 audio [<= samples], int32 tokens with their end, clip id [2]."""
  return {
    AUDIO: seqio.ContinuousFeature(dtype=tf.int16, rank=1),
    TOKENS: seqio.Feature(TokenizerVocabulary(tokenizer), add_eos=True, dtype=tf.int32),
    CLIP_ID: seqio.ContinuousFeature(dtype=tf.uint32, rank=1),
  }


def task_feature_lengths(spec: BatchSpec) -> Mapping[str, int]:
  """What seqio calls sequence lengths, for batches like `spec`."""
  return {AUDIO: spec.samples, TOKENS: spec.token_length, CLIP_ID: 2}
