"""From the features of a Task to the arrays of `noise2music/batch.py`."""

from collections.abc import Mapping

import seqio
import tensorflow as tf

from noise2music.batch import AUDIO, AUDIO_LENGTH, CLIP_ID, TOKEN_MASK, TOKENS


class BatchFeatureConverter(seqio.FeatureConverter):
  """Pads audio and tokens by zeros and says how much of each is real; nothing is packed."""

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

  def __init__(self):
    super().__init__(pack=False)

  def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
    return {
      **task_feature_lengths,
      AUDIO_LENGTH: 1,  # a scalar, which seqio leaves out of its check
      TOKEN_MASK: task_feature_lengths[TOKENS],
    }

  def _convert_features(
    self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
  ) -> tf.data.Dataset:
    def padded(values: tf.Tensor, length: int) -> tf.Tensor:
      return tf.ensure_shape(tf.pad(values, [[0, length - tf.size(values)]]), [length])

    def convert(features: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
      audio, tokens = features[AUDIO], features[TOKENS]
      token_length = task_feature_lengths[TOKENS]
      return {
        AUDIO: padded(audio, task_feature_lengths[AUDIO]),
        AUDIO_LENGTH: tf.size(audio),
        TOKENS: padded(tokens, token_length),
        TOKEN_MASK: tf.range(token_length) < tf.size(tokens),
        CLIP_ID: features[CLIP_ID],
      }

    return ds.map(convert, num_parallel_calls=tf.data.AUTOTUNE)
