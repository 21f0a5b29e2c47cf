"""What training minimises: the denoising loss of one stage, made from int16 audio and tokens.

Everything between the host's batch and the loss runs here, inside the jitted step: resampling,
log-mel, up-sampling, augmentation, the text encoder. Every draw is keyed by the step's key and the
clip's id, so it does not depend on where in which batch a clip lies. (Two snippets of one clip in
one batch, which takes a data set smaller than a batch, are given the same noise.)
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from noise2music import batch as batch_lib
from noise2music import typing as n2m
from noise2music.audio.framing import fit, padded_length, valid_mask
from noise2music.diffusion import gaussian, losses
from noise2music.errors import UserError
from noise2music.sharding.rows import by_rows
from noise2music.stages.conditioning import Text, align_signal, augment, network_inputs
from noise2music.stages.distillation import TEACHER, Distillation, lesson
from noise2music.stages.spec import Stage
from noise2music.stages.text_conditioner import EmbeddedAhead, TextConditioner

TEXT_ENCODER = "text_encoder"  # the room of its parameters
NOISE_LEVELS = 5  # equal intervals of diffusion time in which the loss is logged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
  """A batch as the network sees it, before noise.

  x: [batch, steps, channels], padded to the network's stride. mask: [batch, steps], 1 where x is
  real. signals: the conditions that are signals, ready for the network.
  """

  x: n2m.Signal
  mask: Float[n2m.Array, "batch time"]
  signals: Mapping[str, n2m.OtherSignal]


jax.tree_util.register_dataclass(Example, ["x", "mask", "signals"], [])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class DenoisingObjective:
  """Trains one stage; implements `typing.Objective`.

  The parameters are `{"network": ..., "text_encoder": ...}`, the latter where the stage has a text
  condition whose encoder runs in the step. sample_rate_hz: of the batches' audio. distillation: the
  stage learns from another run of it in place of the clips alone; then the teacher's network lies
  beside its own while it trains, and the text encoder, which they share, stays as it is.
  """

  stage: Stage
  text_conditioner: TextConditioner | EmbeddedAhead | None = None
  sample_rate_hz: int = 24_000
  distillation: Distillation | None = None

  def __post_init__(self):
    if (self.stage.text is None) != (self.text_conditioner is None):
      raise ValueError(
        f"stage {self.stage.name!r} "
        + ("has a text condition and needs a" if self.stage.text else "takes no text, drop the")
        + " text_conditioner"
      )
    if self.distillation is not None and self.stage.prediction == gaussian.EpsPrediction():
      raise UserError(
        "a student whose steps are long cannot predict eps, which says nothing of the signal near t"
        " = 1: set Stage.prediction to @gaussian.VPrediction(), and Teacher.prediction to what the"
        " teacher's network predicts"
      )

  def init(self, key: n2m.Key, batch: n2m.Batch) -> n2m.PyTree:
    network_key, text_key = jax.random.split(key)
    params = {}
    text = None
    if self.text_conditioner is not None:
      encoder = self.text_conditioner.init(text_key, jnp.asarray(batch[batch_lib.TOKENS]))
      if encoder is not None:
        params[TEXT_ENCODER] = encoder
      keep = jnp.ones(batch[batch_lib.CLIP_ID].shape[0], bool)
      shape = jax.eval_shape(lambda p: self.text(p, batch, keep=keep).embedding, params)
      text = Text(
        embedding=jnp.zeros(shape.shape, shape.dtype),
        mask=jnp.ones(shape.shape[:2], bool),
        keep=keep,
      )
    example = self.example({k: jnp.asarray(v) for k, v in batch.items()})
    inputs, entries = network_inputs(
      example.x, conditions=self.stage.conditions, signals=example.signals, text=text
    )
    t = jnp.zeros(inputs.shape[:1])
    params["network"] = self.stage.network.init(network_key, inputs, t, **entries)["params"]
    if self.distillation is not None:
      params[TEACHER] = params["network"]
    return params

  def pretrained(self, params: n2m.PyTree) -> n2m.PyTree:
    """Fresh parameters with those put in that begin elsewhere, outside of any jit: the teacher's,
    or those of a text encoder's checkpoint."""
    if self.distillation is not None:
      taught = self.distillation.teacher.params()
      # Copied, since training gives the student's buffers away with every step.
      return {**params, **taught, TEACHER: jax.tree.map(jnp.array, taught["network"])}
    if TEXT_ENCODER not in params:
      return params
    return {**params, TEXT_ENCODER: self.text_conditioner.pretrained(params[TEXT_ENCODER])}

  def check_data(self, dataset: Any) -> None:
    """Raises UserError where the texts of a data set were embedded by another encoder.

    dataset: its fingerprint. Reads the encoder's checkpoint, where there is something to compare.
    """
    if self.text_conditioner is not None:
      self.text_conditioner.check_data(dataset)

  def completed(self, params: n2m.PyTree, *, dataset: Any, folder: Path) -> n2m.PyTree:
    """A checkpoint's parameters with all that sampling needs beside them.

    dataset: fingerprint of what they were trained on. folder: of the run. Raises UserError where
    the encoder is not in the checkpoint and cannot be had elsewhere.
    """
    params = {room: tree for room, tree in params.items() if room != TEACHER}
    if self.text_conditioner is None:
      return params
    encoder = params.get(TEXT_ENCODER)
    encoder = self.text_conditioner.completed(encoder, dataset=dataset, folder=folder)
    return params if encoder is None else {**params, TEXT_ENCODER: encoder}

  def text(self, params: n2m.PyTree, batch: n2m.Batch, *, keep: n2m.Array) -> Text | None:
    """The texts of a batch, embedded; None where the stage takes none. keep: bool [batch]."""
    if self.text_conditioner is None:
      return None
    return self.text_conditioner.of_batch(params.get(TEXT_ENCODER), batch, keep=keep)

  def trainable(self, params: n2m.PyTree) -> n2m.PyTree:
    train_text = self.text_conditioner is not None and self.text_conditioner.trainable
    train_text &= self.distillation is None
    return {
      room: jax.tree.map(
        lambda _, room=room: room == "network" or (room == TEXT_ENCODER and train_text), tree
      )
      for room, tree in params.items()
    }

  def source_signals(self, batch: n2m.Batch) -> dict[str, n2m.OtherSignal]:
    """The conditions that are signals, made from the clips themselves, each at its own rate."""
    audio = _floats(batch)
    return {
      name: condition.source.encode(audio, sample_rate_hz=self.sample_rate_hz)
      for name, condition in self.stage.signals.items()
    }

  def example(self, batch: n2m.Batch) -> Example:
    """The clean target and its conditions, without augmentation."""
    stage, audio = self.stage, _floats(batch)
    x = stage.target.encode(audio, sample_rate_hz=self.sample_rate_hz)
    steps = padded_length(x.shape[1], stage.network.stride)
    share = batch[batch_lib.AUDIO_LENGTH] / audio.shape[1]  # of the clip that is real
    real = jnp.ceil(share * x.shape[1]).astype(jnp.int32)
    signals = {
      name: align_signal(
        signal,
        condition=stage.conditions[name],
        target=stage.target,
        steps=steps,
        stride=stage.network.stride,
      )
      for name, signal in self.source_signals(batch).items()
    }
    return Example(x=fit(x, steps, axis=1), mask=valid_mask(real, steps), signals=signals)

  def _augmented_example(
    self, batch: n2m.Batch, keys: n2m.Keys
  ) -> tuple[Example, dict[str, n2m.OtherSignal]]:
    example = self.example(batch)
    return example, augment(example.signals, conditions=self.stage.conditions, keys=keys)

  def loss(
    self, params: n2m.PyTree, batch: n2m.Batch, key: n2m.Key
  ) -> tuple[jax.Array, Mapping[str, Any]]:
    """Mean over clips of w(t) |prediction - target|^2, t ~ U[0, 1] (paper, equation 3).

    In a distillation t is drawn from the student's steps, and the target is that of its teacher.
    """
    stage = self.stage
    ids = jnp.asarray(batch[batch_lib.CLIP_ID])
    fold = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i[0]), i[1]))
    keys = jax.vmap(lambda k: jax.random.split(k, 4))(fold(ids))
    time_keys, noise_keys, drop_keys, augment_keys = (keys[:, i] for i in range(4))

    example, signals = by_rows(self._augmented_example, dict(batch), augment_keys)
    text = None
    if self.text_conditioner is not None:
      keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - stage.text.dropout))(drop_keys)
      text = self.text(params, batch, keep=keep)

    eps = jax.vmap(lambda k: jax.random.normal(k, example.x.shape[1:]))(noise_keys)
    if self.distillation is None:
      t = jax.vmap(jax.random.uniform)(time_keys)
      x = example.x
      alpha, sigma = stage.noise_schedule.alpha(t), stage.noise_schedule.sigma(t)
      x_t = gaussian.diffuse(x, eps, alpha=alpha, sigma=sigma)
    else:
      signals = example.signals  # as sampling gives them
      denoise = functools.partial(lesson, self.distillation, stage, params, text=text)
      t, x_t, x, eps = denoise(example.x, eps, keys=time_keys, signals=signals)
      alpha, sigma = stage.noise_schedule.alpha(t), stage.noise_schedule.sigma(t)
    inputs, entries = network_inputs(x_t, conditions=stage.conditions, signals=signals, text=text)
    output = stage.network.apply({"params": params["network"]}, inputs, t, **entries)
    target = stage.prediction.target(x, eps, alpha=alpha, sigma=sigma)
    weigh = functools.partial(
      losses.denoising_loss,
      target=target,
      weight=stage.loss_weight(stage.noise_schedule, t),
      mask=example.mask,
    )
    each = weigh(output)
    metrics = {**loss_by_noise_level(each, t), "chance": jnp.mean(weigh(jnp.zeros_like(target)))}
    if text is not None:
      metrics["text_dropped"] = (jnp.sum(~keep, dtype=jnp.float32), jnp.float32(len(keep)))
    return jnp.mean(each), metrics

  @property
  def text_dropout(self) -> float | None:
    """The share of texts that training drops; None without texts."""
    return None if self.stage.text is None else self.stage.text.dropout


def _floats(batch: n2m.Batch) -> n2m.Waveform:
  return jnp.asarray(batch[batch_lib.AUDIO]).astype(jnp.float32) / batch_lib.INT16_SCALE


def loss_by_noise_level(each: n2m.Level, t: n2m.Level) -> dict[str, tuple[jax.Array, jax.Array]]:
  """{"loss/t_0.1": (sum, count), ...}: to be added up over steps before they are divided."""
  level = jnp.minimum((t * NOISE_LEVELS).astype(jnp.int32), NOISE_LEVELS - 1)
  out = {}
  for index in range(NOISE_LEVELS):
    inside = (level == index).astype(jnp.float32)
    middle = (index + 0.5) / NOISE_LEVELS
    out[f"loss/t_{middle:.1f}"] = (jnp.sum(each * inside), jnp.sum(inside))
  return out
