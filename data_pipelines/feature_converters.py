"""From the features of a Task to the arrays of `noise2music/batch.py`."""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines.embeddings import TextEmbeddings
from data_pipelines.preprocessors import TEXT
from noise2music.batch import AUDIO, AUDIO_LENGTH, CLIP_ID, TEXT_EMBEDDING, TOKEN_MASK, TOKENS


class BatchFeatureConverter(seqio.FeatureConverter):
  """Pads audio and tokens by zeros and says how much of each is real; nothing is packed.

  embeddings: of the texts, where they were made ahead of training.
  """

  _Spec = seqio.FeatureConverter.FeatureSpec
  TASK_FEATURES = {  # noqa: RUF012 (seqio declares it so)
    AUDIO: _Spec(dtype=tf.int16),
    TOKENS: _Spec(dtype=tf.int32),
    CLIP_ID: _Spec(dtype=tf.uint32),
  }
  MODEL_FEATURES = {  # noqa: RUF012
    **TASK_FEATURES,
    AUDIO_LENGTH: _Spec(dtype=tf.int32, rank=0),
    TOKEN_MASK: _Spec(dtype=tf.bool),
  }
  PACKING_FEATURE_DTYPES = None

  def __init__(self, *, embeddings: TextEmbeddings | None = None):
    super().__init__(pack=False)
    self._embeddings = embeddings
    if embeddings is not None:
      embedding = self._Spec(dtype=tf.float16, rank=2)
      self.MODEL_FEATURES = {**self.MODEL_FEATURES, TEXT_EMBEDDING: embedding}

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
    lengths = {
      **task_feature_lengths,
      AUDIO_LENGTH: 1,  # a scalar, which seqio leaves out of its check
      TOKEN_MASK: task_feature_lengths[TOKENS],
      TEXT_EMBEDDING: task_feature_lengths[TOKENS],
    }
    return {name: lengths[name] for name in self.MODEL_FEATURES}

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    def padded(values: tf.Tensor, length: int) -> tf.Tensor:
      return tf.ensure_shape(tf.pad(values, [[0, length - tf.size(values)]]), [length])

    def convert(features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      audio, tokens = features[AUDIO], features[TOKENS]
      token_length = task_feature_lengths[TOKENS]
      out = {
        AUDIO: padded(audio, task_feature_lengths[AUDIO]),
        AUDIO_LENGTH: tf.size(audio),
        TOKENS: padded(tokens, token_length),
        TOKEN_MASK: tf.range(token_length) < tf.size(tokens),
        CLIP_ID: features[CLIP_ID],
      }
      if self._embeddings is not None:
        row = tf.numpy_function(embedding, [features[TEXT]], tf.float16, stateful=False)
        out[TEXT_EMBEDDING] = tf.ensure_shape(row, [token_length, self._embeddings.width])
      return out

    def embedding(text: bytes) -> np.ndarray:
      return self._embeddings.padded([text.decode()])[0]

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
