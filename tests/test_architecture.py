"""The rooms and who may know whom, read from the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import itself and the rooms listed here, nothing else of ours.
_GROUND = {"typing", "batch", "errors"}
_BASE = _GROUND | {"audio", "diffusion", "nn", "sharding", "config", "checkpoints"}
_TEXT = _GROUND | {"nn", "audio"}
_STAGES = _BASE | {"text", "joint_embedding"}
_USERS = _STAGES | {"stages"}
_PIPELINE = _USERS | {"training", "evaluation", "export", "planning"}
ALLOWED = {
  "noise2music": {"pipeline"},
  "typing": set(),
  "errors": set(),
  "batch": {"typing"},
  **dict.fromkeys(("audio", "diffusion", "nn", "sharding", "config", "checkpoints"), _GROUND),
  "text": _TEXT,
  "joint_embedding": _TEXT | {"text", "sharding"},
  "stages": _STAGES,
  **dict.fromkeys(("training", "evaluation", "export", "planning"), _USERS),
  "pipeline": _PIPELINE,
  "cli": _PIPELINE | {"noise2music", "pipeline", "launch", "data_pipelines"},
  "serving": _PIPELINE | {"pipeline"},
  "launch": _PIPELINE | {"pipeline", "cli", "data_pipelines"},
  "data_pipelines": _GROUND | {"audio", "text", "joint_embedding", "cli"},
}
# Who may import a library that the house keeps in few rooms.
KEPT_TO = {
  "gin": {"config", "launch"},
  # Sharding reads the axis names that flax boxes around parameters; it builds no layers.
  # Evaluation holds the networks that scores are published with, which nothing trains.
  "flax": {"nn", "text", "joint_embedding", "sharding", "evaluation"},
  "optax": {"training"},
  "orbax": {"checkpoints"},
  # Evaluation reads weights that were published for it alone, when asked to.
  "tensorflow": {"data_pipelines", "evaluation"},
  "tensorflow_datasets": {"data_pipelines"},
  "seqio": {"data_pipelines"},
  "apache_beam": {"data_pipelines"},
}


def _files() -> list[Path]:
  return [
    path
    for package in ("noise2music", "data_pipelines", "launch")
    for path in sorted((ROOT / package).rglob("*.py"))
  ]


def _room(module: list[str]) -> str:
  if module[0] != "noise2music":
    return module[0]
  return module[1] if len(module) > 1 else "noise2music"


def _imports(path: Path) -> set[tuple[str, ...]]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {tuple(alias.name.split(".")) for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: imports are absolute here"
      # `from noise2music import batch` names a room in what it imports, not in where from.
      found |= {(*node.module.split("."), alias.name) for alias in node.names}
  return found


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
  parts = list(path.relative_to(ROOT).with_suffix("").parts)
  room = _room([part for part in parts if part != "__init__"])
  for module in _imports(path):
    if module[0] in ("noise2music", "data_pipelines", "launch"):
      other = _room(list(module))
      is_version = other.startswith("__")
      assert other in ALLOWED.get(room, set()) | {room} or is_version, (
        f"{path} is in {room!r} and must not know {other!r}"
      )
    if module[0] in KEPT_TO:
      assert room in KEPT_TO[module[0]], f"{path}: {module[0]} stays in {KEPT_TO[module[0]]}"


def test_every_room_is_listed() -> None:
  rooms = {
    _room(list(path.relative_to(ROOT).with_suffix("").parts))
    for path in _files()
    if path.name != "__init__.py"
  }
  assert rooms <= ALLOWED.keys()


def _modules_after(statement: str) -> set[str]:
  code = f"import sys; {statement}; print(*sorted(sys.modules))"
  out = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  return set(out.stdout.splitlines()[-1].split())


def test_importing_noise2music_imports_nothing_heavy() -> None:
  assert not _modules_after("import noise2music") & {"jax", "flax", "tensorflow", "numpy"}


def test_help_imports_nothing_heavy() -> None:
  statement = "from noise2music import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass\n"
  assert not _modules_after(f"exec({statement!r})") & {"jax", "flax", "tensorflow", "numpy"}


def test_generating_never_imports_tensorflow() -> None:
  assert "tensorflow" not in _modules_after("import noise2music.pipeline, launch.generate")


def test_training_never_imports_tensorflow() -> None:
  assert "tensorflow" not in _modules_after("import launch.train, data_pipelines.sources")


def test_judging_imports_tensorflow_for_its_weights_alone() -> None:
  statement = "import noise2music.evaluation.protocols, noise2music.evaluation.embedders.load"
  assert "tensorflow" not in _modules_after(statement)
