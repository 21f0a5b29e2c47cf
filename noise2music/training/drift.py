"""What has changed between the run that wrote a checkpoint and the one that would go on from it.

A run is its config, its data and the libraries that compute it. One that goes on with others is
another experiment, so each difference is named, and refused unless its key is allowed.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from noise2music.errors import UserError

ALL = "all"
_ABSENT = "not there"
# Of a config, what makes no difference to what is learnt, with all that it alone refers to: where
# results go and how often, how the work is laid out, how samples are drawn. The data are known by
# their fingerprint, not their path. A longer run is told, and goes on.
_FREE = re.compile(
  r"(.*\.)?Training\.(model_dir|hooks|log_every|total_steps|mesh|rules|checkpoints|allow_drift"
  r"|most_quarantined|compare_every|deadline_seconds|grace_seconds|lease_seconds)"
  r"|(.*\.)?Stage\.sampling|(.*\.)?\w+Source\.path|(.*\.)?IndexBatches\.(prefetch|bad_records_path)"
)

log = logging.getLogger(__name__)


class Difference(NamedTuple):
  key: str
  then: Any
  now: Any

  def __str__(self) -> str:
    return f"{self.key} was {self.then}, is {self.now}"


def check(
  then: Mapping[str, Any], now: Mapping[str, Any], *, step: int, allowed: Sequence[str]
) -> None:
  """Logs what differs, a line each, and raises UserError on what is not allowed.

  then, now: what `CheckpointManager.save` is given beside the arrays, with the versions. step: of
  the checkpoint. allowed: keys, the ends of keys, `data`, `version`, or `all`.
  """
  found = list(differences(then, now))
  for each in found:
    log.warning("since checkpoint %d: %s", step, each)
  refused = [each for each in found if not _is_allowed(each.key, allowed)]
  if refused:
    told = "; ".join(map(str, refused[:3])) + (
      f"; and {len(refused) - 3} more" * (len(refused) > 3)
    )
    keys = ",".join(each.key for each in refused)
    raise UserError(
      f"this is not the run that wrote checkpoint {step} ({told}): undo that, or go on with it by"
      f" --allow_drift={keys if len(refused) < 9 else ALL}"
    )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
  """Keys: those of the config; `data.` and `version.` before the others'."""
  configs = [bindings(info.get("config", "")) for info in (then, now)]
  if all(configs):
    free = {key for config in configs for key in config if _is_free(key, config)}
    yield from (each for each in _between(*configs) if each.key not in free)
  data = [_as_mapping(info.get("dataset")) for info in (then, now)]
  yield from _between(*data, prefix="data.")
  yield from _between(then.get("versions", {}), now.get("versions", {}), prefix="version.")


def bindings(config: str) -> dict[str, str]:
  """{key: value as text} of a resolved gin config."""
  lines = re.sub(r" ?\\?\n +", " ", config).splitlines()  # a long value goes on in indented lines
  pairs = (line.split(" = ", 1) for line in lines if " = " in line)
  return {key: value for key, value in pairs if not key.startswith("#")}


def _between(then: Mapping, now: Mapping, *, prefix: str = "") -> Iterator[Difference]:
  for key in sorted({*then, *now}):
    before, after = then.get(key, _ABSENT), now.get(key, _ABSENT)
    if before != after:
      yield Difference(prefix + key, _short(before), _short(after))


def _is_free(key: str, config: Mapping[str, str]) -> bool:
  """Whether it makes no difference, or only what makes none reads it."""
  if _FREE.fullmatch(key):
    return True
  # A macro is read as %NAME, what is bound for a class by whoever refers to it as @module.Class.
  sign = f"%{key}" if key.isupper() else f"@{key.rpartition('.')[0]}"
  reads = re.compile(re.escape(sign) + r"(?![\w.])")
  readers = [name for name, value in config.items() if reads.search(value)]
  return bool(readers) and all(_is_free(reader, config) for reader in readers)


def _is_allowed(key: str, allowed: Sequence[str]) -> bool:
  return any(
    name == ALL or key == name or key.endswith(f".{name}") or key.startswith(f"{name}.")
    for name in allowed
  )


def _as_mapping(value: Any) -> Mapping[str, Any]:
  if value is None:
    return {}
  return value if isinstance(value, Mapping) else {"set": value}


def _short(value: Any) -> Any:
  text = str(value)
  return value if len(text) <= 60 else f"{text[:40]} ... ({len(text)} characters)"
