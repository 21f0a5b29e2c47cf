"""Samples one stage: seeds, text and conditioning signals in, a signal out.

Noise is a function of (seed of the clip, name of the stage, step), never of the position in a
batch, so a clip is the same alone, among others and on any number of devices.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer

from noise2music import typing as n2m
from noise2music.audio.framing import fit, padded_length
from noise2music.audio.resample import resample, resample_in_blocks
from noise2music.diffusion import editing, guidance
from noise2music.diffusion.windows import Windows, windowed
from noise2music.sharding.rows import by_rows
from noise2music.stages.conditioning import Text, align_signal, network_inputs
from noise2music.stages.edits import Blended, Edited
from noise2music.stages.spec import Sampling, Stage


def clip_keys(seeds: Sequence[int] | Integer[np.ndarray, "batch"], *, stage_name: str) -> n2m.Keys:
  """One key for each clip: [batch] seeds in [0, 2^63) -> [batch] keys that differ by stage."""
  seeds = np.asarray(seeds, np.uint64)
  halves = np.stack([seeds >> np.uint64(32), seeds & np.uint64(0xFFFFFFFF)], -1).astype(np.uint32)
  base = jax.random.key(zlib.crc32(stage_name.encode()))
  return jax.vmap(lambda h: jax.random.fold_in(jax.random.fold_in(base, h[0]), h[1]))(halves)


def sample(
  stage: Stage,
  network_params: n2m.PyTree,
  *,
  keys: n2m.Keys,
  steps: int,
  text: Text | None = None,
  negative_text: Text | None = None,
  signals: Mapping[str, n2m.OtherSignal] | None = None,
  sampling: Sampling | None = None,
  blend: Blended | None = None,
  edited: Edited | None = None,
) -> n2m.Signal:
  """A signal [batch, steps, channels] drawn from the stage.

  keys: [batch], from `clip_keys`. steps: length of the signal. signals: the conditions that are
  signals, at the rates of their sources. negative_text: what guidance leads away from; no text
  where None. sampling: the stage's own where None. blend: another text, mixed in. edited: what is
  given of the signal, and how it is used.

  Raises ValueError where the stage's conditions are not what is given.
  """
  request = {"text": text, "negative_text": negative_text, "signals": signals, "sampling": sampling}
  request |= {"blend": blend, "edited": edited}
  return _sample(*_checked(stage, network_params, keys=keys, steps=steps, **request))


def lower_sample(stage: Stage, network_params: n2m.PyTree, **request) -> jax.stages.Lowered:
  """The program that `sample` runs, given its arguments or only their shapes and shardings."""
  return _sample.lower(*_checked(stage, network_params, **request))


def _checked(
  stage,
  network_params,
  *,
  keys,
  steps,
  text=None,
  negative_text=None,
  signals=None,
  sampling=None,
  blend=None,
  edited=None,
) -> tuple:
  """The arguments of `_sample`; raises as `sample` says."""
  signals = dict(signals or {})
  if signals.keys() != stage.signals.keys():
    raise ValueError(
      f"stage {stage.name!r} is conditioned on {sorted(stage.signals)}, given {sorted(signals)}"
    )
  if (text is None) != (stage.text is None):
    raise ValueError(f"stage {stage.name!r} {'needs' if stage.text else 'takes no'} text")
  if blend is not None and stage.text is None:
    raise ValueError(f"stage {stage.name!r} takes no text to blend with another")
  if sampling is not None:
    stage.check_sampling(sampling)
  if negative_text is not None and (sampling or stage.sampling).guidance_scale == 1:
    raise ValueError(f"stage {stage.name!r}: without guidance a negative text leads nowhere")
  if negative_text is not None and negative_text.embedding.shape != text.embedding.shape:
    raise ValueError(
      f"the negative text is {negative_text.embedding.shape}, the text {text.embedding.shape}: "
      "embed both with the same number of tokens"
    )
  sampling = sampling or stage.sampling
  scale = sampling.guidance_scale
  # The scale itself is data, so that trying several compiles nothing anew.
  program = dataclasses.replace(sampling, guidance_scale=0.0 if scale != 1 else 1.0)
  texts = text, negative_text, blend
  edited = edited or Edited()
  return stage, steps, program, network_params, keys, scale, texts, signals, edited


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sample(stage, steps, sampling, network_params, keys, scale, texts, signals, edited):
  network_params = stage.network.rounded(network_params)
  padded = padded_length(steps, stage.network.stride)
  length = steps if edited.circular else padded  # of what is sampled
  windows = sampling.windows and sampling.windows.on(stage, steps=padded)
  signals = {
    name: by_rows(
      functools.partial(
        align_signal,
        condition=stage.conditions[name],
        target=stage.target,
        steps=length,
        stride=stage.network.stride,
        resampling=_resampling(windows),
      ),
      signal,
    )
    for name, signal in signals.items()
  }
  shape = (length, stage.target.channels)

  def noise_fn(step):
    """Step -1 is the start; the sampler's own steps count from 0."""
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, step + 1), shape))(keys)

  def eps_fn(x_t, t, signals):
    text, negative_text, blend = texts
    denoise = guided_denoiser(
      stage,
      network_params,
      sampling=sampling,
      scale=scale,
      text=text,
      negative_text=negative_text,
      blend=blend,
      signals=signals,
      steps=padded,
    )
    return denoise(x_t, t)

  times = sampling.time_steps.times(stage.noise_schedule)
  return _sample_edited(
    stage,
    sampling,
    eps_fn,
    noise_fn,
    signals=signals,
    edited=edited,
    steps=steps,
    times=editing.grid_from(times, edited.strength, schedule=stage.noise_schedule),
  )


def _sample_edited(
  stage: Stage,
  sampling: Sampling,
  eps_fn: editing.HearingEpsFn,
  noise_fn: Callable[[Integer[jax.Array, ""] | int], n2m.Signal],
  *,
  signals: Mapping[str, n2m.OtherSignal],
  edited: Edited,
  steps: int,
  times: np.ndarray,
) -> n2m.Signal:
  """[batch, steps, channels]. The edits lie outside of all that makes up the denoiser."""
  schedule, stride = stage.noise_schedule, stage.network.stride
  if edited.circular:
    length = padded_length(steps, stride)
    eps_fn = editing.circular(eps_fn, signals, times=times, length=length, multiple=stride)
  else:
    eps_fn = functools.partial(eps_fn, signals=signals)
  start = sampling.start_noise * noise_fn(-1)
  given = None if edited.given is None else fit(edited.given, start.shape[1], axis=1)
  if edited.strength < 1:
    start = editing.noised(given, start, time=edited.strength, schedule=schedule)
  keep = None if edited.keep is None else fit(edited.keep, start.shape[1])
  if keep is not None:
    eps_fn = editing.keeping(eps_fn, given, keep=keep, schedule=schedule)
  x = sampling.sampler(eps_fn, start, times=times, schedule=schedule, noise_fn=noise_fn)
  if keep is not None:
    x = editing.replaced(x, given, keep)
  return x[:, :steps]


def guided_denoiser(
  stage: Stage,
  network_params: n2m.PyTree,
  *,
  sampling: Sampling,
  scale: guidance.Scale,
  text: Text | None,
  negative_text: Text | None = None,
  blend: Blended | None = None,
  signals: Mapping[str, n2m.OtherSignal],
  steps: int,
) -> n2m.EpsFn:
  """The network with all that `sampling` wraps around it: guidance, the low band, clipping.

  scale: of guidance, where `sampling` guides at all. blend: another text, mixed into what guidance
  leads to. signals: as the network takes them. steps: length of x_t.
  """
  windows = sampling.windows and sampling.windows.on(stage, steps=steps)
  predict = functools.partial(denoiser, stage, network_params, windows=windows)
  towards = predict(text=text, signals=signals)
  if blend is not None:
    other = predict(text=blend.text, signals=signals)
    towards = editing.mixed(towards, other, weight=blend.along(steps, rate_hz=stage.target.rate_hz))
  if sampling.guidance_scale == 1:
    eps_fn = towards
  else:
    away = negative_text or dataclasses.replace(text, keep=jnp.zeros_like(text.keep))
    seen = windows.length * windows.at_once if windows else steps
    if blend is None and stage.network.weights_prevail(network_params, steps=seen):
      texts = jax.tree.map(guidance.paired, text, away)
      twice = {name: guidance.paired(signal, signal) for name, signal in signals.items()}
      both = guidance.in_one(predict(text=texts, signals=twice))
    else:
      both = guidance.in_turn(towards, predict(text=away, signals=signals))
    guided = functools.partial(
      guidance.guide, both, rescale=sampling.guidance_rescale, schedule=stage.noise_schedule
    )
    eps_fn = guided(scale=scale)
    if sampling.guidance_interval is not None:
      eps_fn = guidance.within(
        lambda scale: guided(scale=scale),
        towards,
        scale=scale,
        logsnr=sampling.guidance_interval,
        schedule=stage.noise_schedule,
      )
  if sampling.keep_low_band:
    eps_fn = _keeping_low_band(
      eps_fn, stage, signals[stage.low_band], resampling=_resampling(windows)
    )
  if sampling.clip_percentile is not None:
    eps_fn = guidance.dynamic_clip(
      eps_fn,
      schedule=stage.noise_schedule,
      percentile=sampling.clip_percentile,
      limit=stage.target.limit,
    )
  return eps_fn


def _resampling(windows: Windows | None) -> Callable[..., jax.Array]:
  """Whose memory does not grow with the clip where that is made in windows."""
  return resample if windows is None else resample_in_blocks


def _keeping_low_band(
  eps_fn: n2m.EpsFn, stage: Stage, low: n2m.Signal, *, resampling: Callable[..., jax.Array]
) -> n2m.EpsFn:
  """low: the condition, already at the target's rate, [batch, steps, 1]."""
  source, target = stage.conditions[stage.low_band].source, stage.target

  def keep(x: n2m.Signal, low: n2m.Signal) -> n2m.Signal:
    ours = resampling(x[..., 0], from_hz=target.rate_hz, to_hz=source.rate_hz)
    ours = fit(resampling(ours, from_hz=source.rate_hz, to_hz=target.rate_hz), x.shape[1])
    return x + low * (target.gain / source.gain) - ours[..., None]

  kept = lambda x: by_rows(keep, x, low)  # noqa: E731
  return guidance.change_prediction(eps_fn, kept, schedule=stage.noise_schedule)


def denoiser(
  stage: Stage,
  network_params: n2m.PyTree,
  *,
  text: Text | None,
  signals: Mapping[str, n2m.OtherSignal],
  windows: Windows | None = None,
) -> n2m.EpsFn:
  """The network as eps(x_t, t), its conditions bound; `signals` as the network takes them.

  windows: on the clips; None where the network is to see them whole.
  """

  def eps_fn(x_t: n2m.Signal, t: n2m.Level, signals: Mapping[str, n2m.OtherSignal]) -> n2m.Signal:
    inputs, entries = network_inputs(x_t, conditions=stage.conditions, signals=signals, text=text)
    output = stage.network.apply({"params": network_params}, inputs, t, **entries)
    alpha, sigma = stage.noise_schedule.alpha(t), stage.noise_schedule.sigma(t)
    return stage.prediction.to_eps(output, x_t, alpha=alpha, sigma=sigma)

  if windows is not None:
    return windowed(eps_fn, windows=windows, signals=signals)
  return functools.partial(eps_fn, signals=signals)
