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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from noise2music.checkpoints.manager import FOLDER, CheckpointManager, CheckpointPolicy, versions
from noise2music.errors import UserError
from noise2music.sharding.mesh import MeshShape
from noise2music.sharding.rules import LogicalRules
from noise2music.training import drift, exits, feed, liveness
from noise2music.training import progress as progress_lib
from noise2music.training.describe import describe, parameter_counts, summary
from noise2music.training.hooks import Hook, Moment
from noise2music.training.interrupts import Interrupts
from noise2music.training.optimizer import Optimizer
from noise2music.training.quarantine import Quarantine
from noise2music.training.replicas import Replicas
from noise2music.training.run_folder import RunFolder
from noise2music.training.sentinels import Sentinels
from noise2music.training.setup import Setup, prepare
from noise2music.training.state import TrainState
from noise2music.training.updates import Updates
from noise2music.training.watchdog import Watchdog
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
  hooks: called after every step. most_quarantined: batches that may be left out because they twice
  gave no finite loss or gradient. compare_every: steps between comparisons of the state's copies on
  several devices; None: never. deadline_seconds: what one batch, update, save or hook may take
  before the run counts as hung and ends with status 124; None for ever. grace_seconds: what a batch
  or a hook may still take after SIGTERM or Ctrl-C. lease_seconds: without a
  sign of life after which a trainer on another machine that shares the folder counts as dead.
  allow_drift: keys of what may have changed since the checkpoint that the run goes on from
  (`training.drift`).
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
  most_quarantined: int = 10
  compare_every: int | None = 1000
  lease_seconds: float = 60.0
  allow_drift: Sequence[str] = ()
  deadline_seconds: float | None = 1800.0
  grace_seconds: float = 25.0

  def __post_init__(self):
    for name in ("total_steps", "accumulation", "log_every", "compare_every"):
      value = getattr(self, name)
      if name == "compare_every" and value is None:
        continue
      if not isinstance(value, int) or value < 1:
        flag = "TRAIN_STEPS" if name == "total_steps" else name.upper()
        raise UserError(
          f"{name} is {value!r}: give a whole number of at least 1, as by --gin.{flag}=..."
        )
    if not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
      raise UserError(f"seed is {self.seed!r}: give a whole number from 0 to 2^32 - 1")
    if not isinstance(self.model_dir, str) or not self.model_dir:
      raise UserError(f"model_dir is {self.model_dir!r}: give the path of a folder")
    if not isinstance(self.most_quarantined, int) or self.most_quarantined < 0:
      raise UserError(f"most_quarantined is {self.most_quarantined!r}: give 0 or more batches")
    for name in ("deadline_seconds", "grace_seconds"):
      value = getattr(self, name)
      may_be_none = name == "deadline_seconds" and value is None
      if not may_be_none and not (isinstance(value, int | float) and 0 < value < float("inf")):
        raise UserError(f"{name} is {value!r}: give a number of seconds above 0")
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
  return prepare(training, feed.first_batch(feed.of_this_host(training.batches)))


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
    watchdog, interrupts = _watch(training, folder.path, stack)
    checkpoints = CheckpointManager(
      folder.path / FOLDER,
      policy=training.checkpoints,
      guard=folder.check,
      stopping=lambda: interrupts.received is not None,
    )
    stack.enter_context(contextlib.closing(checkpoints))
    setup = inspect(training)
    state = _restore(training, checkpoints, setup, config_text)
    start = 0 if state is None else int(state.step)
    clock = progress_lib.Clock(start_step=start, total_steps=training.total_steps)
    if start >= training.total_steps:
      print(f"already at step {start} of {training.total_steps}: nothing left to train")
      return Outcome(step=start)
    if (state is None or training.allow_drift) and hasattr(training.objective, "check_data"):
      training.objective.check_data(_dataset(training.batches))
    folder.write_texts(config=config_text, model=describe(setup))
    progress = progress_lib.make_progress(clock, start_step=start, total_steps=training.total_steps)
    stack.callback(progress.close)
    if together := liveness.current():
      together.begin(start)
      together.say = progress.say
    progress.say(f"{summary(parameter_counts(setup))}; {jax.device_count()} device(s)")
    progress.say(f"going on from step {start}" if start else f"training in {folder.path}")
    run = _Run(
      training=training,
      setup=setup,
      checkpoints=checkpoints,
      interrupts=interrupts,
      watchdog=watchdog,
      clock=clock,
      progress=progress,
      quarantine=Quarantine(
        folder.path, start_step=start, most=training.most_quarantined, batches=training.batches
      ),
      sentinels=Sentinels(
        dropout=getattr(training.objective, "text_dropout", None), start_step=start
      ),
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
  watchdog: Watchdog
  clock: progress_lib.Clock
  progress: progress_lib.Progress
  quarantine: Quarantine
  sentinels: Sentinels
  writers: Sequence[Writer]
  info: Mapping[str, Any]

  def go(self, state: TrainState) -> Outcome:
    training, total = self.training, self.training.total_steps
    step = int(state.step)
    window, replicas = Window(), Replicas(self.setup.shapes)
    updates = Updates(self._compile(), state, log=window.add, left_out=self._leave_out)
    batches = feed.of_this_host(training.batches).batches(step)
    last = self.interrupts.stop_after(step)
    now = self.watchdog.now
    while not last:
      now("input")
      batch = self.setup.put(feed.next_batch(batches, step))
      now("step")
      updates.add(step, batch)
      step += 1
      self.clock.tick(step)
      self.checkpoints.poll()
      last = self.interrupts.stop_after(step) or step == total
      row = None
      if last or step % training.log_every == 0:
        updates.settle()
        row = self._log(step, window)
      self.progress.update(step, row)
      if replicas.some and training.compare_every and step % training.compare_every == 0:
        replicas.compare(updates.settle())
      now("save")
      if last or self.checkpoints.due or step % training.checkpoints.every == 0:
        self._paused(self._save, step, updates.settle())
      now("hooks")
      if training.hooks:
        self._paused(self._call_hooks, step, updates.settle, row, last)
      if step % liveness.PACE_EVERY == 0:
        self.watchdog.lap()
    now("end")
    feed.close(batches)
    self.checkpoints.wait()
    while self.checkpoints.due:  # until it is saved, or SaveError
      self._save(step, updates.settle())
      self.checkpoints.wait()
    return self._finish(step)

  def _compile(self) -> Callable:
    self.watchdog.now("compile")
    began = time.monotonic()
    self.progress.say("compiling: minutes for a large model, at once the next time")
    update = self.setup.compile()
    self.watchdog.now("input")
    self.progress.say(f"compiled in {progress_lib.duration(time.monotonic() - began)}")
    return update

  def _log(self, step: int, window: Window) -> dict[str, float]:
    steps = len(window)
    row = window.flush()
    if row.get("left_out") == 1.0:
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
    for line in self.sentinels.of_row(step, row):
      self.progress.say(line)
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

  def _save(self, step: int, state: TrainState) -> None:
    self.checkpoints.save(step, state.items(), info=self.info)
    for line in self.sentinels.of_average(step, state):
      self.progress.say(line)

  def _leave_out(self, step: int, batch: Batch, metrics: Mapping[str, Any]) -> None:
    with self._writing():
      self.progress.say(self.quarantine.add(step, batch, metrics))

  def _call_hooks(self, step: int, settle: Callable[[], TrainState], row, last: bool) -> None:
    moment = Moment(
      step=step,
      total_steps=self.training.total_steps,
      settle=settle,
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


def _watch(
  training: Training, folder: Path, stack: contextlib.ExitStack
) -> tuple[Watchdog, Interrupts]:
  """What looks after the run from other threads."""
  checkpoints, together = folder / FOLDER, liveness.current()
  leave = exits.alone(checkpoints) if together is None else together.leave
  watchdog = Watchdog(
    deadline_seconds=training.deadline_seconds,
    folder=folder,
    process=jax.process_index(),
    leave=leave,
    behind=None if together is None else together.behind,
  )
  if together is not None:
    together.checkpoints, together.watchdog = checkpoints, watchdog
  interrupts = Interrupts(
    watchdog=stack.enter_context(watchdog),
    together=together,
    grace_seconds=training.grace_seconds,
    checkpoints=checkpoints,
    leave=leave,
  )
  return watchdog, stack.enter_context(interrupts)


def _restore(
  training: Training, checkpoints: CheckpointManager, setup: Setup, config_text: str
) -> TrainState | None:
  restored = checkpoints.restore(setup.shapes.items())
  if restored is None:
    return None
  now = {**_info(training, config_text), "versions": versions()}
  drift.check(restored.info, now, step=restored.step, allowed=training.allow_drift)
  return setup.shapes.with_items(restored.items, step=restored.step)


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
