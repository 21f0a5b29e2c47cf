"""Parameters out of a run's folder, for whoever does not train: no optimizer, no objective."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from noise2music.checkpoints import leaves as leaf_lib
from noise2music.checkpoints import vet
from noise2music.checkpoints.manager import COMMIT_FILE, FOLDER, CheckpointManager
from noise2music.errors import UserError
from noise2music.typing import PyTree

PARAMS = "params"
EMA = "ema"

_LOOKS = 100  # a trainer would have to delete a step during each of them

T = TypeVar("T")
log = logging.getLogger(__name__)


def restore_params(
  path: str | Path,
  *,
  ema: bool = True,
  step: int | None = None,
  sharding: jax.sharding.Sharding | None = None,
) -> tuple[PyTree, str, Mapping[str, Any]]:
  """Parameters as nested dictionaries, the config text they were trained with, and the manifest.

  Args:
    path: a run's folder (MODEL_DIR), its `checkpoints` folder, or one step in it.
    ema: the averaged parameters where the run kept them (parameters that were not trained come from
      the plain ones). A run without EMA gives its plain parameters.
    step: which step; None takes the newest that can be trusted.
    sharding: where to put every array; None: the first device.

  Raises:
    UserError: no checkpoint there, or not one that can be read.
  """
  folder, step = _find(Path(path), step)
  steps = sorted(_finished(folder))
  if not steps or (step is not None and step not in steps):
    wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
    raise _missing(path, wanted, f"it has {steps}" if steps else "train one first")
  manager = _undisturbed(lambda: CheckpointManager(folder))
  try:
    return _newest(manager, step, ema=ema, sharding=sharding)
  finally:
    manager.close()


def is_checkpoint(path: str | Path) -> bool:
  """True where `restore_params(path)` would find at least one finished step."""
  try:
    folder, step = _find(Path(path), None)
  except UserError:
    return False
  return step is not None or bool(_finished(folder))


def newest_step(path: str | Path) -> int | None:
  """The last finished step in a run's folder; None where there is none yet. Reads names alone."""
  try:
    folder, step = _find(Path(path), None)
  except UserError:
    return None
  return step if step is not None else max(_finished(folder), default=None)


def _newest(manager: CheckpointManager, only: int | None, *, ema: bool, sharding):
  """The newest step that can be read, while a trainer may write new ones and delete old ones.

  Nothing holds the trainer up: a step that goes away while it is read is no longer listed
  afterwards, and then the newest of those there are now is tried. What was read of it half has
  another fingerprint, and never gets out.
  """
  damaged: dict[int, Exception] = {}
  while left := [s for s in _finished(manager.directory) if s not in damaged and only in (None, s)]:
    step = max(left)
    if step not in manager.steps:
      _undisturbed(manager.reload)
    try:
      return _read(manager, step, ema=ema, sharding=sharding)
    except UserError:
      raise
    except Exception as error:
      why = "was deleted meanwhile"
      if step in _finished(manager.directory):
        damaged[step], why = error, f"is damaged: {_first_line(error)}"
    log.warning("checkpoint %d in %s %s", step, manager.directory, why)
  if not damaged:
    wanted = "checkpoint" if only is None else f"checkpoint of step {only}"
    raise _missing(manager.directory, wanted, "it was deleted meanwhile: choose another")
  step, error = next(iter(damaged.items()))
  raise UserError(
    f"checkpoint {step} in {manager.directory} cannot be read ({_first_line(error)}): "
    "copy it again, or choose another step"
  )


def _finished(folder: Path) -> set[int]:
  """The steps with a commit file. With a trainer beside, the one that is listed may be going, and
  its successor there, when the files are looked for: so none is only what two looks agree on.
  """
  before, names = None, {""}
  try:
    while names != before:
      before, names = names, {found.name for found in folder.iterdir() if found.name.isdigit()}
      if finished := {int(name) for name in names if (folder / name / COMMIT_FILE).exists()}:
        return finished
  except OSError:
    pass  # that it may not be read is said by whoever reads it
  return set()


def _undisturbed(look: Callable[[], T]) -> T:
  """What it finds in a folder of which a trainer has not deleted a step just then."""
  for _ in range(_LOOKS - 1):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      return look()
  return look()


def _read(manager: CheckpointManager, step: int, *, ema: bool, sharding):
  vet.check_files(manager.directory / str(step))
  manifest = manager.manifest(step)
  sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  wanted = [PARAMS] + ([EMA] if ema and EMA in manifest["leaves"] else [])
  vet.check_sizes(
    manager.directory / str(step), {name: manifest["leaves"][name] for name in wanted}
  )
  like = {
    name: leaf_lib.nested(
      {
        p: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype), sharding=sharding)
        for p, (dtype, shape) in manifest["leaves"][name].items()
      }
    )
    for name in wanted
  }
  restored = manager.restore_step(step, like)
  leaves: dict[str, Any] = {}
  for name in wanted:
    leaves |= leaf_lib.named_leaves(restored.items[name])
  return leaf_lib.nested(leaves), manifest.get("config", ""), manifest


def _find(path: Path, step: int | None) -> tuple[Path, int | None]:
  """The folder of steps, and the step if `path` is one."""
  path = path.expanduser()
  if not path.is_dir():
    raise _missing(path, "checkpoint", "there is no such folder")
  if (path / FOLDER).is_dir():
    return path / FOLDER, step
  if path.name.isdigit() and (path / COMMIT_FILE).exists():
    return path.parent, int(path.name)
  if _finished(path):
    return path, step
  raise _missing(path, "checkpoint", "give the MODEL_DIR of a training run")


def _missing(path: str | Path, what: str, mend: str) -> UserError:
  return UserError(f"no {what} in {path}; {mend}")


def _first_line(error: Exception) -> str:
  return str(error).splitlines()[0] if str(error) else type(error).__name__
