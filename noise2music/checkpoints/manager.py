"""The one wrapper over orbax's CheckpointManager.

What it adds, each for a fault that was seen:
  * a step counts only once its commit file is written (an empty folder named `7` is no checkpoint);
  * a fingerprint of every item, checked on restore: orbax does not notice a flipped bit;
  * a bad step is set aside and the one before is used, with a line that says so;
  * a list of the files, so that the line names the one that is damaged;
  * `last_durable_step`, because orbax's `latest_step` names steps that are still being written;
  * errors of the background save surface at the next `poll`, not at the next save;
  * a save that fails for what may pass (a disk full, read only or gone) is tried again a few times.

Layout of a run: MODEL_DIR/checkpoints/<step>/{params,ema,optimizer,manifest,files.json}.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from noise2music.checkpoints import leaves as leaf_lib
from noise2music.checkpoints import vet
from noise2music.checkpoints.failures import Patience, SaveError, agree, check_place, reason
from noise2music.checkpoints.policy import CheckpointPolicy, orbax_options
from noise2music.checkpoints.vet import DamagedError
from noise2music.errors import UserError
from noise2music.typing import PyTree

FOLDER = "checkpoints"
MANIFEST = "manifest"
COMMIT_FILE = "commit_success.txt"
FORMAT = 1

log = logging.getLogger(__name__)
# Orbax warns of what is meant here (a manager that only reads), each time one is made.
logging.getLogger("absl").addFilter(lambda record: "read_only" not in record.getMessage())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
  """items: name -> tree, as asked for. info: what `save` was given, with the versions."""

  step: int
  items: Mapping[str, PyTree]
  info: Mapping[str, Any]


class CheckpointManager:
  """Saves in the background, restores what can be trusted. `close` waits for what is under way.

  A save that fails for what may pass is tried again as `CheckpointPolicy` says. Where it fails at
  its beginning, `save` pauses and tries; where in the background, the state of that step is gone,
  and `due` asks for that of the step that the run has come to. With several processes nothing is
  tried until all of them have found the folder in order, so that none enters a save without the
  others; what fails later, or in the background, ends the run, since they could not agree on it.
  """

  def __init__(
    self,
    directory: str | Path,
    *,
    policy: CheckpointPolicy | None = None,
    guard: Callable[..., None] | None = None,
    stopping: Callable[[], bool] = lambda: False,
  ):
    """directory: the folder that holds the steps; made if absent. policy None: read only.

    guard: raises where this process must not write any more; called with now=True before a save.
    stopping: whether the run has been told to end, and is to wait for seconds at most.
    """
    self.directory = Path(directory).absolute()
    self.policy = policy
    self._guard = guard or (lambda *, now=False: None)
    self._pending: int | None = None
    self._owed: SaveError | None = None  # of a save that is to be tried again
    if policy is not None:
      self._patience = Patience(
        attempts=policy.attempts, pause_seconds=policy.pause_seconds, stopping=stopping
      )
      self._remove_uncommitted()
    self._orbax = ocp.CheckpointManager(self.directory, options=orbax_options(policy))
    self._durable = list(self._orbax.all_steps())
    if policy is not None:
      self._check_writable()

  @property
  def last_durable_step(self) -> int | None:
    """The newest step that a restart would find; never one still being written."""
    return max(self._durable, default=None)

  @property
  def steps(self) -> list[int]:
    """All steps with a commit file, oldest first."""
    return sorted(s for s in self._orbax.all_steps() if s != self._pending)

  @property
  def due(self) -> bool:
    """Whether the last save failed and is to be made up for now, by the state as it now is."""
    return self._owed is not None

  def save(self, step: int, items: Mapping[str, PyTree], *, info: Mapping[str, Any]) -> None:
    """Starts saving; returns once the arrays are copied to the host.

    Args:
      step: number of updates that `items` have seen, and the data position.
      items: name -> tree of arrays.
      info: JSON values kept beside them.

    Raises:
      SaveError: this save could not begin, or the one before it failed, as often as it may.
    """
    self.wait()
    if step in self._durable:
      return
    self._guard(now=True)
    args = self._args(step, items, info)
    while True:
      self._patience.pause()
      error = self._begin(step, items, args)
      if error is None:
        return
      self._once_more(step, error)

  def _args(self, step: int, items: Mapping[str, PyTree], info: Mapping[str, Any]):
    """What orbax is to write."""
    parts = {name: leaf_lib.leaf_fingerprints(tree) for name, tree in items.items()}
    manifest = {
      **info,
      "format": FORMAT,
      "step": step,
      "saved_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
      "versions": versions(),
      "leaves": {name: leaf_lib.describe(tree) for name, tree in items.items()},
      "leaf_fingerprints": parts,
      "fingerprints": {name: sum(part.values()) % 2**32 for name, part in parts.items()},
    }
    args = {
      name: ocp.args.StandardSave(leaf_lib.nested(leaf_lib.named_leaves(tree)))
      for name, tree in items.items()
    }
    args[MANIFEST] = ocp.args.JsonSave({**manifest, "checksum": _checksum(manifest)})
    return ocp.args.Composite(**args)

  def _begin(self, step: int, items: Mapping[str, PyTree], args) -> Exception | None:
    """None where orbax has begun, else why it could not, which all processes find or none does."""
    wrong = None
    try:
      check_place(self.directory, items)
    except OSError as error:
      wrong = error
    if agree(wrong is not None):
      return wrong or OSError("another process of the run cannot write there")
    self._pending = step
    try:
      if self._patience.failures and jax.process_count() == 1:
        self._reopen()
      self._orbax.save(step, args=args, force=True)
    except Exception as error:
      if jax.process_count() > 1:
        raise self._failed(step, error) from error
      return error
    self._owed = None
    return None

  def poll(self) -> None:
    """Call after each step: cheap, and sees a background save that has failed. As `wait`."""
    self._guard()
    if self._pending is not None and not self._orbax.is_saving_in_progress():
      self.wait()

  def wait(self) -> None:
    """Blocks until nothing is being written. Raises SaveError, or leaves a save `due`."""
    if self._pending is None:
      return
    step = self._pending
    try:
      self._orbax.wait_until_finished()
      self._orbax.check_for_errors()
    except Exception as error:
      if jax.process_count() > 1:
        raise self._failed(step, error) from error
      self._once_more(step, error)
      return
    self._durable = list(self._orbax.all_steps())
    self._pending = None
    self._patience.forget()
    self._list_files(step)

  def reload(self) -> None:
    """Looks at the folder again: what a trainer has saved and deleted meanwhile."""
    self._orbax.reload()
    self._durable = list(self._orbax.all_steps())

  def manifest(self, step: int) -> dict[str, Any]:
    """What was saved beside the arrays. Raises DamagedError or OSError."""
    manifest = vet.read_json(self.directory / str(step) / MANIFEST / "metadata")
    checksum = manifest.pop("checksum", None)  # None: written before there was one
    if checksum is not None and checksum != _checksum(manifest):
      raise DamagedError("the manifest is not what was saved")
    vet.check_leaves(manifest.get("leaves"))
    return manifest

  def restore_step(self, step: int, like: Mapping[str, PyTree]) -> Restored:
    """Reads `like`'s items of one step.

    Args:
      step: one of `steps`.
      like: name -> tree of jax.ShapeDtypeStruct with shardings: the form wanted.

    Raises:
      UserError: the checkpoint belongs to another model.
      DamagedError, or whatever orbax raises: the step cannot be trusted.
    """
    vet.check_files(self.directory / str(step))
    manifest = self.manifest(step)
    if manifest.get("format") != FORMAT:
      raise UserError(
        f"{self.directory / str(step)} has checkpoint format {manifest.get('format')!r}, "
        f"this version reads {FORMAT}: use the noise2music version {manifest.get('versions')}"
      )
    for name, tree in like.items():
      check_same_model(manifest["leaves"].get(name, {}), leaf_lib.describe(tree), where=name)
    named = {name: leaf_lib.named_leaves(tree) for name, tree in like.items()}
    args = {
      name: ocp.args.StandardRestore(leaf_lib.nested(leaves)) for name, leaves in named.items()
    }
    read = self._orbax.restore(step, args=ocp.args.Composite(**args))
    items = {}
    for name, tree in like.items():
      items[name] = leaf_lib.with_leaves(tree, leaf_lib.named_leaves(read[name]))
      _check_fingerprints(items[name], manifest, name=name)
    return Restored(step=step, items=items, info=manifest)

  def restore(self, like: Mapping[str, PyTree]) -> Restored | None:
    """The newest step that can be trusted; None where there is none at all yet.

    A step that cannot be read, or whose fingerprint is off, is renamed to `damaged-<step>` (left
    alone by a read-only manager) and the one before it is tried.

    Raises:
      UserError: another model's checkpoint, or not one step could be read.
    """
    steps = self.steps
    for step in reversed(steps):
      try:
        return self.restore_step(step, like)
      except UserError:
        raise
      except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("checkpoint %d in %s is damaged: %s", step, self.directory, reason)
        self._set_aside(step)
      earlier = [s for s in steps if s < step]
      if earlier:
        log.warning("falling back to checkpoint %d", earlier[-1])
    if steps:
      raise UserError(
        f"none of the checkpoints {steps} in {self.directory} can be read: "
        "restore a backup, or give another MODEL_DIR to start over"
      )
    return None

  def close(self) -> None:
    try:
      self.wait()
      if self._owed is not None:
        raise self._owed
    finally:
      self._close_orbax()

  def _close_orbax(self) -> None:
    """After a failed save orbax raises the same error again here; it has been reported."""
    try:
      self._orbax.close()
    except Exception as error:
      log.debug("closing orbax: %s", error)

  def _reopen(self) -> None:
    """What orbax knew of the folder may no longer be so, and it does not forget a failure."""
    self._close_orbax()
    self._orbax = ocp.CheckpointManager(self.directory, options=orbax_options(self.policy))

  def _check_writable(self) -> None:
    """At the start, not after an hour at the first save."""
    try:
      with tempfile.TemporaryFile(dir=self.directory):
        pass
    except OSError as error:
      what, mend = reason(error)
      raise UserError(
        f"cannot write into {self.directory}: {what}; {mend}, or give another MODEL_DIR"
      ) from error

  def _set_aside(self, step: int) -> None:
    if self.policy is None:
      return
    if jax.process_index() == 0:
      aside = self.directory / f"damaged-{step}-{time.time_ns()}"
      (self.directory / str(step)).rename(aside)
    if jax.process_count() > 1:
      # Every process must forget the step, or one of them would take it for saved later on.
      multihost_utils.sync_global_devices(f"set aside {step}")
    self._orbax.reload()
    self._durable = [s for s in self._durable if s != step]

  def _list_files(self, step: int) -> None:
    """Of a step that is committed: not to have the list is no reason to end."""
    if jax.process_index() == 0:
      try:
        vet.write_list(self.directory / str(step))
      except (OSError, DamagedError) as error:
        log.warning("cannot list the files of checkpoint %d: %s", step, error)

  def _once_more(self, step: int, error: Exception) -> None:
    """Leaves the save `due`, or raises SaveError where it has failed for good."""
    self._owed = self._failed(step, error)
    if not self._patience.again(error):
      failure, self._owed = self._owed, None
      self._patience.forget()
      raise failure from error
    log.warning(
      "cannot save checkpoint %d in %s: %s; attempts left: %d, the next in %g s",
      step, self.directory, reason(error)[0], self._patience.left, self._patience.pause_seconds,
    )  # fmt: skip

  def _failed(self, step: int, error: Exception) -> SaveError:
    """Cleans up after a failed save and says it in one sentence."""
    self._pending = None
    self._remove_uncommitted()
    # The whole folder may have been removed under us.
    self._durable = [s for s in self._durable if (self.directory / str(s) / COMMIT_FILE).exists()]
    have = max(self._durable, default=None)
    intact = f"checkpoint {have} is intact" if have is not None else "there is none before it"
    what, mend = reason(error)
    then = "to go on from there" if have is not None else "to begin anew"
    return SaveError(
      f"cannot save checkpoint {step} in {self.directory}: {what}; {intact}: "
      f"{mend}, then run the same command again {then}"
    )

  def _remove_uncommitted(self) -> None:
    """Folders of steps without a commit file: left by a kill or a full disk, and in the way."""
    if jax.process_index() != 0 or not self.directory.is_dir():
      return
    for folder in self.directory.iterdir():
      if folder.is_dir() and folder.name.isdigit() and not (folder / COMMIT_FILE).exists():
        shutil.rmtree(folder, ignore_errors=True)


def check_same_model(saved: Mapping[str, list], wanted: Mapping[str, list], *, where: str) -> None:
  """Raises UserError naming the first path at which two `describe` tables differ."""
  for path in sorted({*saved, *wanted}):
    have, want = saved.get(path), wanted.get(path)
    if have == want:
      continue
    raise UserError(
      f"checkpoint of another model: {where}/{path} is {_shape(have)} in the checkpoint, "
      f"{_shape(want)} in this config; use the config it was trained with, or another MODEL_DIR"
    )


def versions() -> dict[str, str]:
  """What wrote a checkpoint, to be read when it does not come back as it went in."""
  packages = ("noise2music", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
  out = {}
  for package in packages:
    try:
      out[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      out[package] = "source"
  return out


def _checksum(manifest: Mapping[str, Any]) -> str:
  return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _shape(entry: list | None) -> str:
  return "absent" if entry is None else f"{entry[0]}{list(entry[1])}"


def _check_fingerprints(tree: PyTree, manifest: Mapping[str, Any], *, name: str) -> None:
  """Raises DamagedError naming the arrays that are not those that were saved."""
  found = leaf_lib.leaf_fingerprints(tree)
  total, saved = sum(found.values()) % 2**32, manifest["fingerprints"][name]
  if total != saved:
    parts = manifest.get("leaf_fingerprints", {}).get(name, {})
    wrong = [f"{name}/{path}" for path in found if path in parts and found[path] != parts[path]]
    which = f" (in {', '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''})" if wrong else ""
    raise DamagedError(f"fingerprint of {name} is {total}, {saved} was saved{which}")
