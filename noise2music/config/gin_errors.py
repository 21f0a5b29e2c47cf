"""Gin's exceptions as one sentence with the mend in it.

Gin appends where it was to the message ("\\n  In file ...") and wraps exceptions of constructors in
classes of its own; neither is fit for a user.
"""

import inspect
import re
import sys
import tokenize

import gin

from noise2music.config.search import suggestion
from noise2music.errors import UserError

_FILE = re.compile(r'\n  In file "(?P<file>[^"]+)", line (?P<line>\d+)')
_CALL = re.compile(r"\n  In call to configurable '(?P<name>[^']+)'")
_NO_PARAMETER = re.compile(
  r"Configurable '(?P<what>.+)' doesn't have a parameter named '(?P<p>.+)'"
)
_NO_CONFIGURABLE = re.compile(
  r"No configurable matching (?:reference )?'@?(?P<what>[^'()]*)(\(\))?'"
)
_NO_SYMBOL = re.compile(r"'(?P<what>.+)' was not provided by an import statement")
_NO_ATTRIBUTE = re.compile(
  r"Couldn't resolve selector (?P<sel>\S+); <(?:module|class) '(?P<owner>[\w.]+)'.* has no "
  r"attribute (?P<what>\w+)"
)
_MISSING = re.compile(
  r"missing \d+ required (?:keyword-only|positional) arguments?: (?P<names>[^\n]+)"
)
_REQUIRED = re.compile(
  r"Required bindings for `(?P<what>.+)` not provided in config: (?P<names>.+)"
)
_WORD = re.compile(r"[A-Za-z_./~][\w./~:\-]*")


def from_parsing(error: Exception, *, binding: str | None = None) -> UserError:
  """The sentence for what gin raised while it read a file, or one binding of the command line."""
  if isinstance(error, SyntaxError):
    return _syntax(error, binding)
  if isinstance(error, tokenize.TokenError):
    where = f"--gin.{binding}" if binding else "a gin file"
    return UserError(f"{where}: a bracket or a quote is opened and not closed")
  text = str(error)
  where = f" in {m['file']}:{m['line']}" if (m := _FILE.search(text)) else ""
  where = where or (f" in --gin.{binding}" if binding else "")
  if m := _NO_PARAMETER.search(text):
    known = parameters(m["what"])
    near = suggestion(m["p"], known) or f" (it has {', '.join(known)})"
    return UserError(f"{m['what']} has no parameter {m['p']!r}{near}{where}: correct the name")
  if m := _NO_ATTRIBUTE.search(text):
    near = suggestion(m["what"], _names_in(m["owner"]))
    return UserError(f"{m['owner']} has no {m['what']!r}{near}{where}")
  if m := _NO_SYMBOL.search(text):
    return UserError(
      f"unknown name {m['what']!r}{suggestion(m['what'], configurables())}{where}: "
      "import its module in the gin file, or correct the name"
    )
  if m := _NO_CONFIGURABLE.search(text):
    near = suggestion(m["what"], configurables())
    return UserError(f"nothing is called {m['what']!r}{near}{where}: correct the name")
  if isinstance(error, ImportError):
    return UserError(f"cannot import what a gin file asks for: {_head(text)}{where}")
  return UserError(f"{_head(text)}{where}")


def from_building(error: Exception) -> Exception:
  """What to raise for an error inside a constructor that gin called; unknown kinds unchanged."""
  text = str(error)
  calls = [m["name"] for m in _CALL.finditer(text)]
  name = calls[0] if calls else "?"
  if isinstance(error, TypeError) and (m := _MISSING.search(text)):
    return UserError(_needs(name, re.findall(r"'(\w+)'", m["names"])))
  if isinstance(error, RuntimeError) and (m := _REQUIRED.search(text)):
    return UserError(_needs(m["what"], re.findall(r"'(\w+)'", m["names"])))
  if isinstance(error, ValueError):
    return UserError(_head(text))
  return error


def parameters(selector: str) -> list[str]:
  """Names of a configurable's parameters, [] if gin does not know it."""
  try:
    configurable = gin.config._REGISTRY.get_match(selector)
  except KeyError:
    return []
  if configurable is None:
    return []
  return [p for p in inspect.signature(configurable.wrapped).parameters if p != "self"]


def configurables() -> list[str]:
  """Short names of everything that the gin files read so far mention."""
  names = [c.selector for _, c in gin.config._REGISTRY.items()]
  return [short for n in names for short in (n.rsplit(".", 1)[-1], ".".join(n.split(".")[-2:]))]


def _needs(name: str, missing: list[str]) -> str:
  what = " and ".join(repr(m) for m in missing)
  key = f"{name}.{missing[0]}"
  return f"{name} needs {what}: bind {key} in a gin file or with --gin.{key}=..."


def _syntax(error: SyntaxError, binding: str | None) -> UserError:
  # gin raises SyntaxError(message, Location(filename, line, column, text)).
  filename, line = error.filename, error.lineno
  text = (error.text or "").strip()
  _, _, value = text.partition("=")
  if _WORD.fullmatch(value.strip()):
    value = value.strip()
    if binding is None:
      return UserError(f'{filename}:{line}: strings need quotes: write "{value}"')
    name = text.partition("=")[0].strip()
    return UserError(
      f"--gin.{name}={value}: strings need inner quotes, as in "
      f'--gin.{name}=\\"{value}\\" or \'--gin.{name}="{value}"\''
    )
  where = f"--gin.{binding}" if binding is not None else f"{filename}:{line}"
  return UserError(f"{where}: cannot read {text!r} as gin ({_head(str(error.msg))})")


def _names_in(owner: str) -> list[str]:
  """Public names of a module, or the parameters of a class."""
  if owner in sys.modules:
    return [n for n in dir(sys.modules[owner]) if not n.startswith("_")]
  module, _, name = owner.rpartition(".")
  found = getattr(sys.modules.get(module), name, None)
  return [] if found is None else list(inspect.signature(found).parameters)


def _head(text: str) -> str:
  """The first line, which is the one gin or the constructor wrote."""
  lines = text.strip().splitlines()
  return lines[0].rstrip(".") if lines else "gin gave no reason"
