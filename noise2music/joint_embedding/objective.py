"""What training minimises: a contrastive loss of clips and texts, from int16 audio and tokens.

The batch is the whole one, among however many devices it is shared out: every clip is compared with
the texts of all.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from noise2music import batch as batch_lib
from noise2music import typing as n2m
from noise2music.audio.framing import fit, padded_length
from noise2music.audio.log_mel import LogMel
from noise2music.audio.resample import resample
from noise2music.joint_embedding.audio_tower import AudioTower
from noise2music.joint_embedding.contrastive import Contrast, InfoNCE, Temperature, ranks
from noise2music.joint_embedding.spec_augment import SpecAugment
from noise2music.joint_embedding.text_tower import TextTower
from noise2music.sharding.rows import by_rows
from noise2music.text.tokenizer import ByteTokenizer

RETRIEVED = (1, 10)  # the nearest so many clips to a text, among which its own may be


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class JointEmbeddingObjective:
  """Trains the two towers; implements `typing.Objective`.

  The parameters are `{"audio": ..., "text": ..., "temperature": ...}`. backbone: from log-mel to
  [batch, channels]. text_encoder: a module with the call of `text.T5Encoder`; tokenizer: its own.
  width: of the space. log_mel: what the backbone sees. sample_rate_hz: of the batches' audio.
  window_seconds: of which the vectors of a longer clip are averaged, when it is embedded.
  """

  backbone: nn.Module
  text_encoder: nn.Module
  tokenizer: n2m.Tokenizer = ByteTokenizer()
  token_length: int = 64
  width: int = 128
  contrast: Contrast = InfoNCE()
  temperature: Temperature = Temperature()
  spec_augment: SpecAugment | None = SpecAugment()
  log_mel: LogMel = LogMel(bands=64, window_seconds=0.025, min_hz=60.0, max_hz=7800.0)
  sample_rate_hz: int = 24_000
  window_seconds: float = 10.0

  compares_rows = True  # so a batch cannot be worked through in parts

  def __post_init__(self):
    if hasattr(self.text_encoder, "config"):
      self.text_encoder.config.check_tokenizer(self.tokenizer)

  @functools.cached_property
  def audio_tower(self) -> AudioTower:
    return AudioTower(backbone=self.backbone, width=self.width)

  @functools.cached_property
  def text_tower(self) -> TextTower:
    return TextTower(encoder=self.text_encoder, width=self.width)

  def init(self, key: n2m.Key, batch: n2m.Batch) -> n2m.PyTree:
    audio_key, text_key = jax.random.split(key)
    mel = self.spectrogram(_floats(batch[batch_lib.AUDIO]))
    tokens = jnp.asarray(batch[batch_lib.TOKENS])
    mask = jnp.ones(tokens.shape, bool)
    return {
      "audio": self.audio_tower.init(audio_key, mel)["params"],
      "text": self.text_tower.init(text_key, tokens, mask)["params"],
      "temperature": self.temperature.init(),
    }

  def trainable(self, params: n2m.PyTree) -> n2m.PyTree:
    return jax.tree.map(lambda _: True, params)

  def loss(
    self, params: n2m.PyTree, batch: n2m.Batch, key: n2m.Key
  ) -> tuple[jax.Array, Mapping[str, Any]]:
    """Mean over the clips that have a text; `chance` is the loss where all pairs look alike."""
    ids = jnp.asarray(batch[batch_lib.CLIP_ID])
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i[0]), i[1]))(ids)
    mel = by_rows(self._augmented, batch[batch_lib.AUDIO], keys)
    mask = jnp.asarray(batch[batch_lib.TOKEN_MASK])
    audio = self.audio_tower.apply({"params": params["audio"]}, mel)
    text = self.embed_tokens(params, jnp.asarray(batch[batch_lib.TOKENS]), mask)
    temperature = self.temperature(params["temperature"])
    keep = jnp.any(mask, axis=1)
    count = jnp.maximum(jnp.sum(keep), 2).astype(jnp.float32)
    mean = lambda x: jnp.sum(jnp.where(keep, x, 0)) / count  # noqa: E731
    rank = ranks(audio, text, keep=keep)
    metrics = {"chance": self.contrast.chance(count), "temperature": temperature}
    for k in RETRIEVED:
      metrics[f"retrieval@{k}"] = mean((rank < k).astype(jnp.float32))
      metrics[f"retrieval@{k}/chance"] = jnp.minimum(1.0, k / count)
    return mean(self.contrast(audio, text, temperature=temperature, keep=keep)), metrics

  def spectrogram(self, audio: n2m.Waveform) -> n2m.LogMel:
    """[batch, samples] at `sample_rate_hz` -> [batch, frames, bands]; what is no whole frame is
    completed with zeros."""
    rate = self.log_mel.sample_rate_hz
    audio = resample(audio, from_hz=self.sample_rate_hz, to_hz=rate)
    return self.log_mel(fit(audio, padded_length(audio.shape[-1], self.log_mel.hop)))

  def embed_windows(self, params: n2m.PyTree, audio: n2m.Array) -> jax.Array:
    """[batch, samples] of one window each -> [batch, width] unit vectors."""
    mel = by_rows(self.spectrogram, jnp.asarray(audio, jnp.float32))
    return self.audio_tower.apply({"params": params["audio"]}, mel)

  def embed_tokens(self, params: n2m.PyTree, tokens: n2m.Tokens, mask: n2m.Mask) -> jax.Array:
    """[batch, tokens] -> [batch, width] unit vectors, zeros where there is no token."""
    return self.text_tower.apply({"params": params["text"]}, tokens, mask)

  def _augmented(self, audio: n2m.Array, keys: n2m.Keys) -> n2m.LogMel:
    mel = self.spectrogram(_floats(audio))
    return mel if self.spec_augment is None else self.spec_augment(mel, keys)


def _floats(audio: n2m.Array) -> jax.Array:
  return jnp.asarray(audio).astype(jnp.float32) / batch_lib.INT16_SCALE
