"""Parameters out of a run's folder, for whoever does not train: no optimizer, no objective."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from noise2music.checkpoints import leaves as leaf_lib
from noise2music.checkpoints import vet
from noise2music.checkpoints.manager import COMMIT_FILE, FOLDER, CheckpointManager
from noise2music.errors import UserError
from noise2music.typing import PyTree

PARAMS = "params"
EMA = "ema"

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
  manager = CheckpointManager(folder)
  try:
    steps = manager.steps
    if not steps or (step is not None and step not in steps):
      wanted = "checkpoint" if step is None else f"checkpoint of step {step}"
      raise _missing(path, wanted, f"it has {steps}" if steps else "train one first")
    return _newest(manager, step, ema=ema, sharding=sharding)
  finally:
    manager.close()


def is_checkpoint(path: str | Path) -> bool:
  """True where `restore_params(path)` would find at least one finished step."""
  try:
    folder, step = _find(Path(path), None)
  except UserError:
    return False
  return step is not None or any(folder.glob(f"*/{COMMIT_FILE}"))


def newest_step(path: str | Path) -> int | None:
  """The last finished step in a run's folder; None where there is none yet. Reads names alone."""
  try:
    folder, step = _find(Path(path), None)
  except UserError:
    return None
  finished = (found.parent.name for found in folder.glob(f"*/{COMMIT_FILE}"))
  return step if step is not None else max(map(int, filter(str.isdigit, finished)), default=None)


def _newest(manager: CheckpointManager, only: int | None, *, ema: bool, sharding):
  """The newest step that can be read, while a trainer may write new ones and delete old ones.

  Nothing holds the trainer up: a step that goes away while it is read is no longer listed
  afterwards, and then the newest of those there are now is tried. What was read of it half has
  another fingerprint, and never gets out.
  """
  tried: dict[int, Exception] = {}
  while True:
    left = [s for s in manager.steps if s not in tried and only in (None, s)]
    if not left:
      break
    step = left[-1]
    try:
      return _read(manager, step, ema=ema, sharding=sharding)
    except UserError:
      raise
    except Exception as error:
      tried[step] = error
    manager.reload()
    gone = step not in manager.steps
    why = "was deleted meanwhile" if gone else f"is damaged: {_first_line(tried[step])}"
    log.warning("checkpoint %d in %s %s", step, manager.directory, why)
  step, error = next(iter(tried.items()))
  raise UserError(
    f"checkpoint {step} in {manager.directory} cannot be read ({_first_line(error)}): "
    "copy it again, or choose another step"
  )


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
  if any(path.glob(f"*/{COMMIT_FILE}")):
    return path, step
  raise _missing(path, "checkpoint", "give the MODEL_DIR of a training run")


def _missing(path: str | Path, what: str, mend: str) -> UserError:
  return UserError(f"no {what} in {path}; {mend}")


def _first_line(error: Exception) -> str:
  return str(error).splitlines()[0] if str(error) else type(error).__name__
