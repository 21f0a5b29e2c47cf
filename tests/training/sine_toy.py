"""A tiny denoiser of sines and its batches: real gradients, milliseconds to compile."""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np

SAMPLES = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class SineObjective:
  """Linear denoiser of int16 sines in two layers; `frozen` keeps the first as it is."""

  width: int = 8
  frozen: bool = False

  def init(self, key, batch):
    first, second = jax.random.split(key)
    return {
      "encoder": {"kernel": jax.random.normal(first, (SAMPLES, self.width)) / SAMPLES**0.5},
      "network": {
        "kernel": jax.random.normal(second, (self.width, SAMPLES)) * 0.1,
        "bias": jnp.zeros((SAMPLES,)),
      },
    }

  def trainable(self, params):
    return {
      room: jax.tree.map(lambda _, r=room: r == "network" or not self.frozen, tree)
      for room, tree in params.items()
    }

  def loss(self, params, batch, key):
    x = batch["audio"].astype(jnp.float32) / 32768
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch["clip_id"][:, 0])
    noise = jax.vmap(lambda k: jax.random.uniform(k, (SAMPLES,), minval=-1.0))(keys)
    hidden = jnp.tanh((x + 0.3 * noise) @ params["encoder"]["kernel"])
    out = hidden @ params["network"]["kernel"] + params["network"]["bias"]
    each = jnp.mean((out - x) ** 2, axis=-1)
    loud = (jnp.abs(x).max(axis=-1) > 0.5).astype(jnp.float32)
    return jnp.mean(each), {
      "loss/loud": (jnp.sum(each * loud), jnp.sum(loud)),
      "loss/never": (jnp.float32(0), jnp.float32(0)),
      "power": jnp.mean(x**2),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class SineBatches:
  """Batch k is a function of (seed, k).

  name: what the data set says it is. delay_seconds: after each batch. last: step at which it ends.
  """

  batch_size: int = 8
  seed: int = 0
  name: str = "sines"
  delay_seconds: float = 0.0
  last: int | None = None

  def fingerprint(self):
    return self.name

  def batches(self, start_step=0):
    step = start_step
    while step != self.last:
      yield self.batch(step)
      time.sleep(self.delay_seconds)
      step += 1

  def batch(self, step):
    rng = np.random.default_rng((self.seed, step))
    ids = rng.integers(0, 2**32, (self.batch_size, 2), dtype=np.uint32)
    phase = rng.uniform(0, 6, (self.batch_size, 1))
    gain = rng.uniform(0.1, 0.9, (self.batch_size, 1))
    audio = gain * np.sin(phase + np.arange(SAMPLES) * rng.uniform(0.1, 1, (self.batch_size, 1)))
    return {"audio": (audio * 32767).astype(np.int16), "clip_id": ids}
