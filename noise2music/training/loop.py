"""The training loop: short, and in an order that matters.

A step, then the log line, then the save, then the hooks, then the next batch:
  * the log is flushed before the save, so no checkpoint knows of a step that the log lacks;
  * the save comes before the hooks, so a sampler that runs out of memory costs no training, and
    the files are written while it samples;
  * the next batch is drawn after the save, so that batch k is the first one a restart at k sees.
"""

import contextlib
import dataclasses
import errno
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from noise2music.checkpoints.manager import FOLDER, CheckpointManager, CheckpointPolicy
from noise2music.errors import UserError
from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import LogicalRules
from noise2music.training import progress as progress_lib
from noise2music.training.describe import describe, parameter_counts, summary
from noise2music.training.hooks import Hook, Moment
from noise2music.training.interrupts import Interrupts
from noise2music.training.optimizer import Optimizer
from noise2music.training.run_folder import RunFolder
from noise2music.training.setup import Setup, prepare
from noise2music.training.state import TrainState
from noise2music.training.window import Window
from noise2music.training.writers import JsonLines, SampleFiles, TensorBoard, Writer
from noise2music.typing import Batch, BatchSource, Objective

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Training:
  """A training run as a value.

  model_dir: folder of the run; running again with the same one goes on from its newest checkpoint.
  objective, batches: what is trained, on what. total_steps: updates. seed: of everything random.
  accumulation: parts in which a batch is worked through. log_every: steps between lines.
  hooks: called after every step. allow_new_data: go on although the data set is not the one the
  checkpoint was trained on. lease_seconds: without a sign of life after which a trainer on another
  machine that shares the folder counts as dead.
  """

  model_dir: str
  objective: Objective
  batches: BatchSource
  total_steps: int
  optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
  seed: int = 0
  accumulation: int = 1
  log_every: int = 100
  checkpoints: CheckpointPolicy = dataclasses.field(default_factory=CheckpointPolicy)
  mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
  rules: LogicalRules = dataclasses.field(default_factory=LogicalRules)
  hooks: Sequence[Hook] = ()
  allow_new_data: bool = False
  lease_seconds: float = 60.0

  def __post_init__(self):
    for name in ("total_steps", "accumulation", "log_every"):
      value = getattr(self, name)
      if not isinstance(value, int) or value < 1:
        flag = "TRAIN_STEPS" if name == "total_steps" else name.upper()
        raise UserError(
          f"{name} is {value!r}: give a whole number of at least 1, as by --gin.{flag}=..."
        )
    if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
      raise UserError(f"seed is {self.seed!r}: give a whole number from 0 to 2^32 - 1")
    if not isinstance(self.model_dir, str) or not self.model_dir:
      raise UserError(f"model_dir is {self.model_dir!r}: give the path of a folder")
    if not isinstance(self.lease_seconds, int | float) or not 0 < self.lease_seconds < 86_400:
      raise UserError(f"lease_seconds is {self.lease_seconds!r}: give seconds, less than a day")
    self.optimizer.check(self.total_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
  """How a run ended. step: updates done. signal: its number if one ended it, else None."""

  step: int
  signal: int | None = None


def inspect(training: Training) -> Setup:
  """Everything that a run needs short of training: shapes, shardings, batch. Writes nothing."""
  return prepare(training, _first_batch(of_this_host(training.batches)))


def train(training: Training, *, config_text: str = "") -> Outcome:
  """Trains to total_steps, or goes on from the newest checkpoint in model_dir.

  Args:
    training: the run.
    config_text: its resolved config, kept in the run's folder and in every checkpoint.

  Raises:
    UserError: what a user can mend. checkpoints.manager.SaveError: the disk is full.
  """
  with contextlib.ExitStack() as stack:
    folder = stack.enter_context(
      RunFolder(Path(training.model_dir), lease_seconds=training.lease_seconds)
    )
    interrupts = stack.enter_context(Interrupts())
    checkpoints = CheckpointManager(
      folder.path / FOLDER, policy=training.checkpoints, guard=folder.check
    )
    stack.enter_context(contextlib.closing(checkpoints))
    setup = inspect(training)
    state = _restore(training, checkpoints, setup, config_text)
    start = 0 if state is None else int(state.step)
    clock = progress_lib.Clock(start_step=start, total_steps=training.total_steps)
    if start >= training.total_steps:
      print(f"already at step {start} of {training.total_steps}: nothing left to train")
      return Outcome(step=start)
    if (state is None or training.allow_new_data) and hasattr(training.objective, "check_data"):
      training.objective.check_data(_dataset(training.batches))
    folder.write_texts(config=config_text, model=describe(setup))
    progress = progress_lib.make_progress(clock, start_step=start, total_steps=training.total_steps)
    stack.callback(progress.close)
    progress.say(f"{summary(parameter_counts(setup))}; {jax.device_count()} device(s)")
    progress.say(f"going on from step {start}" if start else f"training in {folder.path}")
    run = _Run(
      training=training,
      setup=setup,
      checkpoints=checkpoints,
      interrupts=interrupts,
      clock=clock,
      progress=progress,
      writers=_open_writers(folder.path, start, stack),
      info=_info(training, config_text),
    )
    return run.go(setup.fresh() if state is None else state)


@dataclasses.dataclass(kw_only=True)
class _Run:
  """The loop's surroundings, so that its methods stay short."""

  training: Training
  setup: Setup
  checkpoints: CheckpointManager
  interrupts: Interrupts
  clock: progress_lib.Clock
  progress: progress_lib.Progress
  writers: Sequence[Writer]
  info: Mapping[str, Any]

  def go(self, state: TrainState) -> Outcome:
    training, total = self.training, self.training.total_steps
    step = int(state.step)
    update = self._compile()
    window = Window()
    batches = of_this_host(training.batches).batches(step)
    last = self.interrupts.received is not None
    while not last:
      state, metrics = update(state, self.setup.put(_next(batches, step)))
      step += 1
      window.add(metrics)
      self.clock.tick(step)
      self.checkpoints.poll()
      last = self.interrupts.stop_after(step) or step == total
      row = self._log(step, window) if last or step % training.log_every == 0 else None
      self.progress.update(step, row)
      if last or step % training.checkpoints.every == 0:
        self._paused(self.checkpoints.save, step, state.items(), info=self.info)
      if training.hooks:
        self._paused(self._call_hooks, step, state, row, last)
    _close(batches)
    self.checkpoints.wait()
    return self._finish(step)

  def _compile(self) -> Callable:
    began = time.monotonic()
    self.progress.say("compiling: minutes for a large model, at once the next time")
    update = self.setup.compile()
    self.progress.say(f"compiled in {progress_lib.duration(time.monotonic() - began)}")
    return update

  def _log(self, step: int, window: Window) -> dict[str, float]:
    steps = len(window)
    row = window.flush()
    if row["skipped"] == 1.0:
      saved = self.checkpoints.last_durable_step
      raise UserError(
        f"loss or gradient was not a finite number in all of the last {steps} steps up to {step}: "
        f"lower the learning rate (the last checkpoint is {saved})"
      )
    if (speed := self.clock.speed(step)) is not None:
      size = next(iter(self.setup.batch.values())).shape[0]
      row |= {"steps_per_second": speed, "clips_per_second": speed * size}
    with self._writing():
      for writer in self.writers:
        writer.scalars(step, row)
    return row

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Says what is intact where logs and samples cannot be written."""
    try:
      yield
    except OSError as error:
      saved = self.checkpoints.last_durable_step
      intact = f"checkpoint {saved} is intact" if saved is not None else "nothing was saved before"
      mend = "make room" if error.errno == errno.ENOSPC else "mend that"
      raise UserError(
        f"cannot write logs or samples into {self.checkpoints.directory.parent} "
        f"({error.strerror or error}); {intact}: {mend}, then run the same command again"
      ) from error

  def _call_hooks(self, step: int, state: TrainState, row, last: bool) -> None:
    moment = Moment(
      step=step,
      total_steps=self.training.total_steps,
      state=state,
      row=row,
      writers=self.writers,
      last=last,
      say=self.progress.say,
      writing=self._writing,
    )
    for hook in self.training.hooks:
      hook(moment)

  def _paused(self, function: Callable, *args, **kwargs) -> None:
    """Calls it off the clock of steps a second."""
    began = time.monotonic()
    function(*args, **kwargs)
    self.clock.pause(time.monotonic() - began)

  def _finish(self, step: int) -> Outcome:
    saved = self.checkpoints.last_durable_step
    if step == self.training.total_steps:
      self.progress.say(
        f"done: {step} steps, checkpoint in {self.checkpoints.directory / str(step)}"
      )
      return Outcome(step=step)
    kept = f"saved at step {saved}" if saved is not None else "before the first step was done"
    self.progress.say(
      f"stopped by {self.interrupts.name}, {kept}: run the same command again to go on"
    )
    return Outcome(step=step, signal=self.interrupts.received)


def _restore(
  training: Training, checkpoints: CheckpointManager, setup: Setup, config_text: str
) -> TrainState | None:
  restored = checkpoints.restore(setup.shapes.items())
  if restored is None:
    return None
  then, now = restored.info.get("dataset"), _dataset(training.batches)
  if then != now and not training.allow_new_data:
    raise UserError(
      f"the data set has changed since checkpoint {restored.step} ({_difference(then, now)}): bring"
      " the old one back, or go on with the new one by --gin.Training.allow_new_data=True"
    )
  for line in changes(restored.info.get("config", ""), config_text):
    log.warning("since checkpoint %d: %s", restored.step, line)
  return setup.shapes.with_items(restored.items, step=restored.step)


def _difference(then: Any, now: Any) -> str:
  """What of two fingerprints differs, in a few words."""
  if not isinstance(then, dict) or not isinstance(now, dict):
    return f"{then} then, {now} now"
  names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
  return ", ".join(
    "other clips" if name == "sources" else f"{name} was {then.get(name)}, is {now.get(name)}"
    for name in names
  )


def changes(before: str, now: str) -> list[str]:
  """Lines "name = value" that differ between two configs, as "name was a, is b"."""

  def bindings(text: str) -> dict[str, str]:
    # A long value goes on in indented lines.
    lines = re.sub(r" ?\\?\n +", " ", text).splitlines()
    pairs = (line.split(" = ", 1) for line in lines if " = " in line)
    return {name: value for name, value in pairs if not name.startswith("#")}

  old, new = bindings(before), bindings(now)
  return [
    f"{name} was {old.get(name, 'not there')}, is {new.get(name, 'not there')}"
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  ]


def _info(training: Training, config_text: str) -> dict[str, Any]:
  return {
    "config": config_text,
    "seed": training.seed,
    "dataset": _dataset(training.batches),
    "total_steps": training.total_steps,
    "mesh": list(training.mesh.sizes),
  }


def _dataset(batches: BatchSource) -> Any:
  """What the source says of its data (any JSON value), None if it says nothing."""
  return batches.fingerprint() if hasattr(batches, "fingerprint") else None


def _open_writers(folder: Path, start: int, stack: contextlib.ExitStack) -> Sequence[Writer]:
  if jax.process_index() != 0:
    return ()
  writers = (
    JsonLines(folder, start_step=start),
    TensorBoard(folder, start_step=start),
    SampleFiles(folder),
  )
  for writer in writers:
    stack.callback(_close_quietly, writer)
  return writers


def _close_quietly(writer: Writer) -> None:
  """A disk that is full has been reported when it was written to."""
  with contextlib.suppress(OSError):
    writer.close()


def of_this_host(batches: BatchSource) -> BatchSource:
  """The rows of the global batch that this host reads, where there are several hosts."""
  if jax.process_count() == 1:
    return batches
  if not hasattr(batches, "for_host"):
    raise UserError(
      f"{type(batches).__name__} cannot be split among {jax.process_count()} hosts: train on one,"
      " or give it for_host(index, count) as IndexBatches has"
    )
  return batches.for_host(jax.process_index(), jax.process_count())


def _first_batch(batches: BatchSource) -> Batch:
  """For its shapes; silence where the source has a `local_spec`, so that nothing is read."""
  if hasattr(batches, "local_spec"):
    return batches.local_spec.zeros()
  iterator = batches.batches(0)
  try:
    return _next(iterator, 0)
  finally:
    _close(iterator)


def _next(batches: Iterator[Batch], step: int) -> Batch:
  try:
    return next(batches)
  except StopIteration:
    raise UserError(
      f"the data ended after {step} batches: let the source repeat, or lower total_steps"
    ) from None


def _close(batches: Iterator[Batch]) -> None:
  """Stops a source's prefetch thread, where it is a generator that has one."""
  if hasattr(batches, "close"):
    batches.close()
