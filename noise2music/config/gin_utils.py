"""Gin, as the launchers use it: parse files and flags, build the root object, account for it all.

The habits are T5X's: later files win over earlier ones and the command line over all; macros in
capitals; `%gin.REQUIRED` for what a run must set. Gin files begin with
`from __gin__ import dynamic_registration` and bind real constructors, so nothing in the library is
decorated and only this package and the launchers import gin.

What gin gets wrong silently is an error here: a binding that nothing used, a macro that was never
set. What surprises in gin, and what we do about it:
  * dataclasses and linen modules: gin makes a subclass to call, but the object is of the class
    itself (same type, equal to and with the same parameters as one made by hand). A linen module
    built from gin has `name=None` and no parent, so a parent adopts it under its attribute's name.
  * lists become tuples, because a frozen dataclass or a linen module with a list cannot be hashed.
  * every `@X()` builds an object of its own, also when two places read it through one macro.
  * `MACRO = @X()` is built in the scope "MACRO", not in the scope of the place that reads it; where
    scopes matter (two networks in one file) bind `@scope/X()` directly.
  * an exception inside a gin-called function is re-made with a longer text (an OSError loses its
    errno), so gin builds objects and the program runs outside of it.
  * default values that are objects do not appear in gin's operative config; what should be on
    record is bound in a base file.
"""

import copy
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import gin
from gin import config as gin_config
from gin import config_parser

from noise2music.config import gin_errors, search
from noise2music.errors import UserError, without_credentials

Built = TypeVar("Built")


def parse(
  gin_files: Sequence[str],
  bindings: Sequence[str] = (),
  *,
  search_paths: Sequence[str] = (),
) -> None:
  """Reads files, then bindings, into gin's global configuration, and locks it.

  What was parsed before is forgotten.

  Args:
    gin_files: paths, or names of shipped files. Later ones win.
    bindings: "NAME = value" or "module.Class.parameter = value", as on the command line.
    search_paths: folders tried between the working directory and the shipped files.

  Raises:
    UserError: anything wrong with them, in one sentence.
  """
  _reset(search_paths)
  folders = search.prefixes(search_paths)
  for name in gin_files:
    path = search.resolve(name, folders=folders)
    _check_includes(path, folders)
    try:
      gin.parse_config_file(path)
    except Exception as error:
      raise _user_error(error) from error
  for binding in bindings:
    _parse_binding(binding)
  _finish()


def parse_text(text: str, *, allowed_modules: Collection[str] | None = None) -> None:
  """Reads a resolved config, such as a checkpoint's, into gin's global configuration.

  Args:
    text: what `operative_config_text` gave.
    allowed_modules: top-level packages that the text may import, and whose dataclasses (modules of
      networks are some) it may build, and nothing else; None: anything. A config from elsewhere is
      code, since gin imports and calls what it names.

  Raises:
    UserError: it cannot be read, or names what it may not.
  """
  _reset(())
  if allowed_modules is not None:
    _check_imports(text, allowed_modules)
  try:
    gin.parse_config(text)
    if allowed_modules is not None:
      _check_names(allowed_modules)
  except Exception as error:
    gin.clear_config()
    raise _user_error(error) from error
  _finish()


def build(constructor: Callable[..., Built], **given: Any) -> Built:
  """Calls a constructor with everything the configuration binds for it, recursively.

  Args:
    constructor: the class or function itself, e.g. `training.Training`.
    given: arguments that win over the configuration.

  Raises:
    UserError: no gin file mentions it, an argument is missing, or a constructor refused one.
  """
  try:
    configured = gin.get_configurable(constructor)
  except ValueError:
    name = f"{constructor.__module__}.{constructor.__qualname__}"
    raise UserError(f"no gin file binds {name}: give one that does with --gin_file=...") from None
  try:
    return configured(**given)
  except Exception as error:
    better = gin_errors.from_building(error)
    raise better from (None if better is error else error)


def build_argument(constructor: Callable, name: str) -> Any:
  """Builds one argument of a constructor and nothing else: a stage without its training data."""
  try:
    bound = gin.get_bindings(constructor, resolve_references=False)
  except ValueError:
    bound = {}
  if name not in bound:
    raise UserError(f"the config binds no {constructor.__name__}.{name}: is it a training config?")
  try:
    return copy.deepcopy(bound[name])
  except Exception as error:
    raise gin_errors.from_building(error) from error


def dead_bindings() -> list[str]:
  """Bindings that nothing built so far has used, as "scope/module.Class.parameter = value"."""
  used: set[tuple[str, str, str]] = set()
  for (scope, selector), values in gin_config._OPERATIVE_CONFIG.items():
    for parameter in values:
      if key := _winning_key(scope, selector, parameter):
        used.add(key)
  deferred: set[str] = set()
  for key in list(used):
    _follow(gin_config._CONFIG[key[:2]][key[2]], deferred, only_unevaluated=True)
  return [
    f"{_name(scope, selector, parameter)} = {value!r}"
    for (scope, selector), values in gin_config._CONFIG.items()
    for parameter, value in values.items()
    if (scope, selector, parameter) not in used and _id(scope, selector) not in deferred
  ]


def macros_set_in(gin_file: str) -> set[str]:
  """Names of the macros that a shipped file sets."""
  with open(search.resolve(gin_file, folders=search.prefixes()), encoding="utf-8") as file:
    bound = _statements(file, config_parser.BindingStatement)
  return {statement.selector for statement in bound if not statement.arg_name}


def check_macros_read(*, unless: Collection[str]) -> None:
  """Raises UserError on a macro that nothing parsed so far reads and that is not in `unless`."""
  read = {
    "/".join(reference.scopes)
    for reference in gin_config.iterate_references(gin_config._CONFIG)
    if reference.configurable.wrapped is gin_config.macro
  }
  for name in (scope for scope, selector in gin_config._CONFIG if selector == "gin.macro"):
    if name not in read and name not in unless:
      near = search.suggestion(name, sorted(read))
      raise UserError(f"nothing uses {name}{near}: correct the name or leave it out")


def check_all_used() -> None:
  """Raises UserError naming the bindings that nothing used: call it once everything is built."""
  dead = dead_bindings()
  if not dead:
    return
  macros = [scope for scope, selector in gin_config._CONFIG if selector == "gin.macro"]
  name = dead[0].partition(" = ")[0]
  near = search.suggestion(name, [m for m in macros if m != name])
  listed = "; ".join(dead[:5]) + (f"; and {len(dead) - 5} more" if len(dead) > 5 else "")
  raise UserError(f"nothing uses {listed}{near}: correct the name or remove the binding")


def operative_config_text() -> str:
  """The resolved configuration as gin: every value used, with defaults, so that it parses again.

  Bindings of functions that are handed on uncalled (`@f`) are in it too, though nothing has used
  them yet. Passwords in URLs are left out, since a config goes into logs and checkpoints.
  """
  merged = {key: dict(values) for key, values in gin_config._OPERATIVE_CONFIG.items()}
  for key, values in gin_config._CONFIG.items():
    merged[key] = {**values, **merged.get(key, {})}
  return without_credentials(gin_config._config_str(merged, max_line_length=100))


def _reset(search_paths: Sequence[str]) -> None:
  """Gin's state as after its import, except for the registry of classes.

  Its second file reader is dropped: it fails with TypeError on a missing file in a subfolder.
  """
  gin.clear_config()
  gin_config._FILE_READERS[:] = gin_config._FILE_READERS[:1]
  gin_config._LOCATION_PREFIXES[:] = search.prefixes(search_paths)
  logging.getLogger("gin").setLevel(logging.ERROR)


def _parse_binding(binding: str) -> None:
  """One binding, with the imports of the files at hand: "training.Optimizer.clip_norm = None".

  A name that is no imported module's may also be the tail of one that the files mention:
  "Optimizer.clip_norm = None".
  """
  imports = gin_config.ImportManager(gin_config._IMPORTS).sorted_imports
  header = "".join(statement.format() + "\n" for statement in imports)
  try:
    try:
      gin.parse_config(header + binding)
    except Exception as error:
      if "was not provided by an import statement" not in str(error):
        raise
      gin.parse_config(binding)
  except Exception as error:
    raise gin_errors.from_parsing(error, binding=binding) from error


def _finish() -> None:
  for values in gin_config._CONFIG.values():
    for name, value in values.items():
      values[name] = _tuples(value)
  _check_macros()
  gin.finalize()


def _check_macros() -> None:
  """Macros and parameters that must be set and are not, all at once."""
  required = [
    _name(scope, selector, parameter)
    for (scope, selector), values in gin_config._CONFIG.items()
    for parameter, value in values.items()
    if _is_required(value)
  ]
  unset = sorted(
    {
      "/".join(reference.scopes)
      for reference in gin_config.iterate_references(gin_config._CONFIG)
      if reference.configurable.wrapped is gin_config.macro
      and reference.config_key not in gin_config._CONFIG
    }
  )
  if missing := [*required, *unset]:
    flags = " ".join(f"--gin.{name}={_example(name)}" for name in missing)
    names = " and ".join(missing)
    raise UserError(f"{names} must be set: add {flags}")


def _example(name: str) -> str:
  examples = {"DATA": "clips", "VOCABULARY": "vocabulary.model", "MODEL_DIR": "runs/my_run"}
  return f'\\"{examples[name]}\\"' if name in examples else "..."


def _is_required(value: Any) -> bool:
  return (
    isinstance(value, gin_config.ConfigurableReference)
    and value.configurable.selector == "gin.constant"
    and value.scopes == ["gin.REQUIRED"]
  )


def _tuples(value: Any) -> Any:
  if isinstance(value, list | tuple):
    return tuple(_tuples(v) for v in value)
  if isinstance(value, dict):
    return {k: _tuples(v) for k, v in value.items()}
  return value


def _winning_key(scope: str, selector: str, parameter: str) -> tuple[str, str, str] | None:
  """The binding that a call in `scope` read: the innermost one; None if it used the default."""
  parts = scope.split("/") if scope else []
  for length in range(len(parts), -1, -1):
    outer = "/".join(parts[:length])
    if parameter in gin_config._CONFIG.get((outer, selector), {}):
      return outer, selector, parameter
  return None


def _follow(value: Any, deferred: set[str], *, only_unevaluated: bool) -> None:
  """Collects what `value` hands on uncalled, and what those will need once they are called."""
  for reference in gin_config.iterate_references({"": value}):
    if only_unevaluated and reference.evaluate:
      continue
    identity = _id("/".join(reference.scopes), reference.configurable.selector)
    if identity in deferred:
      continue
    deferred.add(identity)
    for (scope, selector), values in gin_config._CONFIG.items():
      if _id(scope, selector) == identity:
        for inner in values.values():
          _follow(inner, deferred, only_unevaluated=False)


def _id(scope: str, selector: str) -> str:
  """Macros are told apart by scope; anything else may be called later in whichever scope."""
  return f"{scope}/{selector}" if selector == "gin.macro" else selector


def _name(scope: str, selector: str, parameter: str) -> str:
  """What a user writes to the left of the equals sign."""
  if selector == "gin.macro":
    return scope
  name = ".".join(selector.split(".")[-2:])
  return f"{scope + '/' if scope else ''}{name}.{parameter}"


def _user_error(error: Exception) -> UserError:
  return error if type(error) is UserError else gin_errors.from_parsing(error)


def _statements(path_or_text, kind: type) -> Iterable[Any]:
  """Statements of one kind, read without resolving any name."""

  class Blind(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name, evaluate):
      return None

    def macro(self, macro_name):
      return None

  return [s for s in config_parser.ConfigParser(path_or_text, Blind()) if isinstance(s, kind)]


def _check_includes(path: str, folders: Sequence[str], seen: frozenset[str] = frozenset()) -> None:
  """Missing includes, before gin meets them: its message lists folders, ours the nearest name."""
  if path in seen:
    raise UserError(f"{path} includes itself: remove one of the include lines")
  try:
    with open(path, encoding="utf-8") as file:
      includes = _statements(file, config_parser.IncludeStatement)
  except Exception as error:
    raise _user_error(error) from error
  for statement in includes:
    try:
      found = search.resolve(statement.filename, folders=folders)
    except UserError as error:
      raise UserError(f"{path}:{statement.location.line_num}: {error}") from None
    _check_includes(found, folders, seen | {path})


def _check_imports(text: str, allowed: Collection[str]) -> None:
  try:
    included = next(iter(_statements(text, config_parser.IncludeStatement)), None)
    imports = _statements(text, config_parser.ImportStatement)
  except Exception as error:
    raise _user_error(error) from error
  if included is not None:
    # What a file brings in would not be looked at.
    raise UserError(
      f"this config includes {included.filename!r}, which a resolved one never does: "
      "use it only if you trust where it comes from, by parsing it yourself"
    )
  for statement in imports:
    package = statement.module.split(".")[0]
    if package not in {*allowed, "__gin__"}:
      raise UserError(
        f"this config imports {statement.module!r}, which is not one of {sorted(allowed)}: "
        "use it only if you trust where it comes from, by parsing it yourself"
      )


def _check_names(allowed: Collection[str]) -> None:
  """Every name of the configuration at hand is a dataclass of an allowed package.

  To allow the imports is not enough: gin follows dots through any module, so that `rules.os.remove`
  is a name of ours too; and our own functions write files, while a dataclass only holds values.
  """
  named = [
    reference.configurable for reference in gin_config.iterate_references(gin_config._CONFIG)
  ]
  named += [gin_config._REGISTRY[selector] for _, selector in gin_config._CONFIG]
  for wrapped, selector in ((c.wrapped, c.selector) for c in named):
    if wrapped in (gin_config.macro, gin_config._retrieve_constant):
      continue
    ours = getattr(wrapped, "__module__", "").split(".")[0] in allowed
    if not ours or not isinstance(wrapped, type) or not dataclasses.is_dataclass(wrapped):
      raise UserError(
        f"this config calls {selector!r}, which is no part of a stage: "
        "use it only if you trust where it comes from, by parsing it yourself"
      )
