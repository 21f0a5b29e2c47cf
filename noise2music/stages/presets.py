"""Ways to sample a cascade, by name, kept beside its stages: what `n2m tune` writes.

A preset says of each stage how it is sampled. In its file, objects are written as their class and
the fields that differ from its defaults, and only the classes below are ever made of it.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from noise2music.diffusion import samplers, time_steps
from noise2music.errors import UserError
from noise2music.stages.spec import InWindows, Sampling

FILE = "presets.json"
VERSION = 1
Preset: TypeAlias = Mapping[str, Sampling]  # stage name -> how

_CLASSES = {
  made.__name__: made
  for made in (
    Sampling,
    InWindows,
    samplers.Ancestral,
    samplers.DDIM,
    samplers.DPMSolverPP2M,
    samplers.Heun,
    time_steps.EDMSteps,
    time_steps.SegmentedSteps,
    time_steps.UniformLogSnrSteps,
    time_steps.UniformSteps,
  )
}


def to_json(value: Any) -> Any:
  """Of one of the classes above, or of the numbers, texts and lists that they hold."""
  if dataclasses.is_dataclass(value):
    name = type(value).__name__
    if _CLASSES.get(name) is not type(value):
      raise ValueError(f"a preset cannot hold a {name}: add it to noise2music.stages.presets")
    fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    defaults = {f.name: f.default for f in dataclasses.fields(value)}
    told = {key: to_json(field) for key, field in fields.items() if field != defaults[key]}
    return {"class": name, **told}
  if isinstance(value, tuple | list):
    return [to_json(item) for item in value]
  return value


def from_json(value: Any) -> Any:
  """The inverse of `to_json`; lists become tuples. Raises ValueError on what means nothing."""
  if isinstance(value, Mapping):
    fields = {key: from_json(item) for key, item in value.items() if key != "class"}
    made = _CLASSES.get(value.get("class"))
    if made is None:
      raise ValueError(f"{value.get('class')!r} is no class of a preset")
    try:
      return made(**fields)
    except TypeError as error:
      raise ValueError(str(error)) from error
  return tuple(map(from_json, value)) if isinstance(value, list) else value


def write_presets(folder: str | Path, presets: Mapping[str, Preset]) -> Path:
  """Into a cascade's folder, in place of what was there, whole or not at all."""
  path = Path(folder) / FILE
  record = {
    "version": VERSION,
    "presets": {
      name: {stage: to_json(how) for stage, how in preset.items()}
      for name, preset in presets.items()
    },
  }
  temporary = path.with_suffix(".tmp")
  temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
  os.replace(temporary, path)
  return path


def read_presets(folder: str | Path) -> dict[str, Preset]:
  """Of a cascade's folder; none where nothing was written there.

  Raises UserError where the file is not one of presets.
  """
  path = Path(folder) / FILE
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["version"] != VERSION:
      raise ValueError(f"it is of version {record['version']}, this noise2music reads {VERSION}")
    presets = {
      name: {stage: from_json(how) for stage, how in preset.items()}
      for name, preset in record["presets"].items()
    }
    for preset in presets.values():
      if not all(isinstance(how, Sampling) for how in preset.values()):
        raise ValueError("a preset says how each stage is sampled, and one here does not")
  except FileNotFoundError:
    return {}
  except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
    raise UserError(
      f"{path} holds no presets ({error}): delete it, or run n2m tune again"
    ) from error
  return presets
