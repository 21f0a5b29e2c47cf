"""What a run of the fault suite is made of: the project's own parts, in wrappers that can fail."""

import dataclasses
import gc
import hashlib
import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from noise2music.batch import AUDIO, CLIP_ID, INT16_SCALE
from noise2music.checkpoints.leaves import fingerprint
from noise2music.training import Moment

GIVEN: dict[int, list[str]] = {}  # what `Batches` gave at each step, until it is traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """Two layers that take noise off the samples of a clip."""

  width: int = 16

  def init(self, key, batch):
    samples = batch[AUDIO].shape[1]
    first, second = jax.random.split(key)
    return {
      "encoder": {"kernel": jax.random.normal(first, (samples, self.width)) / samples**0.5},
      "network": {"kernel": 0.1 * jax.random.normal(second, (self.width, samples))},
    }

  def trainable(self, params):
    return jax.tree.map(lambda _: True, params)

  def loss(self, params, batch, key):
    x = batch[AUDIO].astype(jnp.float32) / INT16_SCALE
    fold = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, i[0]), i[1]))
    noise = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:]))(fold(batch[CLIP_ID]))
    hidden = jnp.tanh((x + 0.3 * noise) @ params["encoder"]["kernel"])
    return jnp.mean((hidden @ params["network"]["kernel"] - x) ** 2), {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches:
  """inner: the real source. delay_seconds: before each batch. stall_at: step before whose batch it
  sleeps for stall_seconds, in process stall_process alone.
  """

  inner: Any
  delay_seconds: float = 0.0
  stall_at: int | None = None
  stall_seconds: float = 3600.0
  stall_process: int = 0

  @property
  def local_spec(self):
    return self.inner.local_spec

  def fingerprint(self):
    return self.inner.fingerprint()

  def for_host(self, index: int, count: int) -> "Batches":
    return dataclasses.replace(self, inner=self.inner.for_host(index, count))

  def batches(self, start_step: int = 0):
    for step, batch in enumerate(self.inner.batches(start_step), start=start_step):
      time.sleep(self.delay_seconds)
      if step == self.stall_at and jax.process_index() == self.stall_process:
        time.sleep(self.stall_seconds)
      GIVEN[step] = digests(batch)
      yield batch


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
  """inner: the real one. poison: step (from 0) at which the loss is no number, whichever of the
  host's batches it is given there; times: of how many tries.
  """

  inner: Any
  poison: int | None = None
  times: int = 1_000_000

  def __post_init__(self):
    object.__setattr__(self, "_tries", [0])

  def __getattr__(self, name: str) -> Any:
    return getattr(self.inner, name)

  def init(self, key, batch):
    return self.inner.init(key, batch)

  def trainable(self, params):
    return self.inner.trainable(params)

  def loss(self, params, batch, key):
    loss, metrics = self.inner.loss(params, batch, key)
    if self.poison is None:
      return loss, metrics
    here = jnp.all(jax.random.key_data(key) == jax.random.key_data(self._key_of(self.poison)))
    bad = jax.lax.cond(
      here,
      lambda: jax.pure_callback(self._fails, jax.ShapeDtypeStruct((), np.bool_)),
      lambda: jnp.bool_(False),
    )
    return jnp.where(bad, jnp.nan, loss), metrics

  def _key_of(self, step: int):
    return jax.random.fold_in(jax.random.key(0), step)  # of runs with SEED 0

  def _fails(self) -> np.bool_:
    self._tries[0] += 1
    return np.bool_(self._tries[0] <= self.times)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Memory:
  """A hook that writes what the process holds every so many steps: bytes resident, open files."""

  folder: str
  every: int = 20

  def __call__(self, moment: Moment) -> None:
    if moment.step % self.every:
      return
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    row = {"step": moment.step, "bytes": resident, "files": len(os.listdir("/proc/self/fd"))}
    with open(Path(self.folder).with_suffix(".memory.jsonl"), "a") as out:
      out.write(json.dumps(row) + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Trace:
  """A hook that writes a line for each update: its step, a fingerprint of the state after it, and
  one of each row that this process gave it.
  """

  folder: str

  def __call__(self, moment: Moment) -> None:
    state, folder = moment.state, Path(self.folder)
    row = {
      "step": moment.step,
      "state": fingerprint([state.params, state.ema]),
      "rows": GIVEN.pop(moment.step - 1),
      "pid": os.getpid(),
    }
    path = folder.with_name(f"{folder.name}-trace-{jax.process_index()}.jsonl")
    with open(path, "a") as out:
      out.write(json.dumps(row) + "\n")


def digests(batch) -> list[str]:
  """Of each row."""
  names, out = sorted(batch), []
  for row in range(len(batch[names[0]])):
    whole = hashlib.sha256()
    for name in names:
      whole.update(np.ascontiguousarray(batch[name][row]).tobytes())
    out.append(whole.hexdigest()[:16])
  return out
