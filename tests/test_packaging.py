"""The lock file and setup.py tell one story, and no extra can move jax."""

import ast
import importlib.metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def _locked() -> dict[str, str]:
  """{name: version} for the Python that runs the tests."""
  versions = {}
  for line in (ROOT / "requirements.lock").read_text().splitlines():
    requirement = Requirement(line)
    if requirement.marker is None or requirement.marker.evaluate():
      (spec,) = requirement.specifier
      assert spec.operator == "==", line
      versions[canonicalize_name(requirement.name)] = spec.version
  return versions


def _setup_lists() -> dict[str, list[str]]:
  """CORE and EXTRAS as setup.py states them, without running it."""
  names = {}
  for node in ast.parse((ROOT / "setup.py").read_text()).body:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
      try:
        names[node.targets[0].id] = ast.literal_eval(node.value)
      except ValueError:
        continue
  return {"core": names["CORE"], **names["EXTRAS"]}


def _closure(requirements: list[str]) -> list[tuple[str, Requirement]]:
  """Every (package that asks, requirement) reached from `requirements`, as installed."""
  asked, seen, waiting = [], set(), [("setup.py", Requirement(r)) for r in requirements]
  while waiting:
    who, requirement = waiting.pop()
    asked.append((who, requirement))
    key = (canonicalize_name(requirement.name), tuple(sorted(requirement.extras)))
    if key in seen:
      continue
    seen.add(key)
    for line in _requires(requirement.name):
      inner = Requirement(line)
      extras = {"extra": ""}, *({"extra": extra} for extra in requirement.extras)
      if inner.marker is None or any(inner.marker.evaluate(extra) for extra in extras):
        waiting.append((requirement.name, inner))
  return asked


def _requires(name: str) -> list[str]:
  try:
    return importlib.metadata.requires(name) or []
  except importlib.metadata.PackageNotFoundError:
    assert name == "libtpu", f"{name} is not installed: run make test"
    return []  # the one package that the tests leave out, and that needs no other


@pytest.mark.parametrize("extra", sorted(_setup_lists()))
def test_extra_accepts_the_locked_versions(extra: str) -> None:
  """So installing the extra later leaves jax, and all the rest, where it was."""
  locked = _locked()
  for who, requirement in _closure(_setup_lists()[extra]):
    name = canonicalize_name(requirement.name)
    assert name in locked, f"{extra}: {who} needs {name}, which is not in requirements.lock"
    assert requirement.specifier.contains(locked[name], prereleases=True), (
      f"{extra}: {who} needs {requirement}, locked is {locked[name]}: run `make lock`"
    )


def test_installed_is_what_is_locked() -> None:
  locked = _locked()
  for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "gin-config"):
    assert importlib.metadata.version(name) == locked[name], f"{name}: run make test"


def test_no_requirement_comes_from_outside_the_package_index() -> None:
  for path in (ROOT / "setup.py", ROOT / "requirements.lock", ROOT / "Makefile"):
    assert "git+" not in path.read_text()
    assert "://" not in path.read_text()
