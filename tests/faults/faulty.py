"""What a run of the fault suite is made of: the project's own parts, in wrappers that can fail."""

import ctypes
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
  """inner: the real source. delay_seconds: before each batch, in delay_process alone where given.
  stall_at: step before whose batch it sleeps for stall_seconds, in process stall_process alone.
  """

  inner: Any
  delay_seconds: float = 0.0
  delay_process: int | None = None
  stall_at: int | None = None
  stall_seconds: float = 3600.0
  stall_process: int = 0

  @property
  def local_spec(self):
    return self.inner.local_spec

  def fingerprint(self):
    return self.inner.fingerprint()

  def names(self, step: int) -> list[str]:
    return self.inner.names(step)

  def for_host(self, index: int, count: int) -> "Batches":
    return dataclasses.replace(self, inner=self.inner.for_host(index, count))

  def batches(self, start_step: int = 0):
    for step, batch in enumerate(self.inner.batches(start_step), start=start_step):
      if self.delay_process in (None, jax.process_index()):
        time.sleep(self.delay_seconds)
      if step == self.stall_at and jax.process_index() == self.stall_process:
        time.sleep(self.stall_seconds)
      GIVEN[step] = digests(batch)
      yield batch


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Objective:
  """inner: the real one. poison: step (from 0) at which the loss of one row of the batch, the last,
  is no number; times: of how many tries, all where None. compile_seconds: that it takes longer to
  compile, in process compile_process alone.
  """

  inner: Any
  compile_seconds: float = 0.0
  compile_process: int = 0
  poison: int | None = None
  times: int | None = None

  def __post_init__(self):
    object.__setattr__(self, "_tries", [0])

  def __getattr__(self, name: str) -> Any:
    return getattr(self.inner, name)

  def init(self, key, batch):
    return self.inner.init(key, batch)

  def trainable(self, params):
    return self.inner.trainable(params)

  def loss(self, params, batch, key):
    if self.compile_process == jax.process_index():
      time.sleep(self.compile_seconds)
    loss, metrics = self.inner.loss(params, batch, key)
    if self.poison is None:
      return loss, metrics
    poisoned = jax.random.fold_in(jax.random.key(0), self.poison)  # of runs with SEED 0
    bad = jnp.all(jax.random.key_data(key) == jax.random.key_data(poisoned))
    if self.times is not None:
      fails = lambda: jax.pure_callback(self._fails, jax.ShapeDtypeStruct((), np.bool_))  # noqa: E731
      bad = jax.lax.cond(bad, fails, lambda: jnp.bool_(False))
    rows = batch[CLIP_ID].shape[0]
    each = jnp.where(bad & (jnp.arange(rows) == rows - 1), jnp.nan, 0.0)
    return loss + jnp.mean(each), metrics

  def _fails(self) -> np.bool_:
    self._tries[0] += 1
    return np.bool_(self._tries[0] <= self.times)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FlipBit:
  """A hook that makes the memory of one device of one process go wrong after a step."""

  step: int
  process: int
  device: int

  def __call__(self, moment: Moment) -> None:
    if moment.step != self.step or jax.process_index() != self.process:
      return
    kernel = moment.state.params["network"]["kernel"]
    shard = kernel.addressable_shards[self.device]
    address = shard.data.unsafe_buffer_pointer()
    ctypes.c_uint32.from_address(address + 4 * 7).value ^= 1 << 3


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

  def __call__(self, moment: Moment) -> None:
    state, folder = moment.state, Path(os.environ["TRACED"])  # no setting: it may change
    row = {
      "step": moment.step,
      "state": fingerprint([state.params, state.ema]),
      "rows": GIVEN.pop(moment.step - 1),
      "pid": os.getpid(),
    }
    path = folder.with_name(f"{folder.name}-trace-{jax.process_index()}.jsonl")
    with open(path, "a") as out:
      out.write(json.dumps(row) + "\n")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stall:
  """A hook that sleeps for `seconds` after step `at`, in `process` alone. holding: Python's lock.

  fail: raises in place of sleeping.
  """

  at: int | None = None
  seconds: float = 3600.0
  process: int = 0
  holding: bool = False
  fail: bool = False

  def __call__(self, moment: Moment) -> None:
    if moment.step != self.at or jax.process_index() != self.process:
      return
    if self.fail:
      raise RuntimeError("the hook fails")
    if self.holding:
      ctypes.PyDLL(None).sleep(round(self.seconds))
    time.sleep(self.seconds)


def digests(batch) -> list[str]:
  """Of each row."""
  names, out = sorted(batch), []
  for row in range(len(batch[names[0]])):
    whole = hashlib.sha256()
    for name in names:
      whole.update(np.ascontiguousarray(batch[name][row]).tobytes())
    out.append(whole.hexdigest()[:16])
  return out
