"""Where gin files are found: as given, in the search paths, and among the configs that ship."""

import difflib
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from noise2music.errors import UserError

SHIPPED = "configs"  # the package of gin files, in a checkout and in an installed wheel alike


def shipped_folder() -> Path | None:
  """The folder of the `configs` package, None where it is not installed as plain files."""
  try:
    folder = importlib.resources.files(SHIPPED)
  except ModuleNotFoundError:
    return None
  return folder if isinstance(folder, Path) and folder.is_dir() else _first_folder(folder)


def prefixes(search_paths: Sequence[str] = ()) -> list[str]:
  """Folders to try, in order; "" is the working directory.

  Both `runs/smoke/x.gin` and `configs/runs/smoke/x.gin` name a shipped file, wherever one stands.
  """
  folder = shipped_folder()
  shipped = [] if folder is None else [str(folder.parent), str(folder)]
  return ["", *(str(Path(p).expanduser()) for p in search_paths), *shipped]


def resolve(name: str, *, folders: Sequence[str]) -> str:
  """Path of the gin file `name`. Raises UserError with the nearest names that exist."""
  for folder in folders:
    path = Path(folder, name).expanduser()
    if path.is_file():
      return str(path)
    if (path / "config.gin").is_file():
      raise UserError(f"{name} is the folder of a run: give its config, {path / 'config.gin'}")
  raise UserError(f"no gin file {name!r}{suggestion(name, available(folders))}: {_where(folders)}")


def available(folders: Sequence[str]) -> list[str]:
  """Names under which shipped files and those in the search paths can be given."""
  return sorted(
    {
      str(path.relative_to(folder))
      for folder in folders
      if folder
      for path in Path(folder).glob("**/*.gin")
      if ".venv" not in path.parts
    }
  )


def suggestion(name: str, names: Sequence[str]) -> str:
  """ "; did you mean 'x'?" or nothing."""
  near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
  if not near:
    # A user often gives the right file in the wrong folder.
    near = [n for n in names if n.rsplit("/", 1)[-1] == name.rsplit("/", 1)[-1]][:1]
  return f" (did you mean {near[0]!r}?)" if near else ""


def _where(folders: Sequence[str]) -> str:
  tried = ", ".join(folder or "the working directory" for folder in folders)
  return f"looked in {tried}; add a folder with --gin_search_paths"


def _first_folder(folder) -> Path | None:
  """A namespace package has several paths; the first with gin files is it."""
  for path in getattr(folder, "_paths", []):
    if Path(path).is_dir():
      return Path(path)
  return None
