"""What the gin-driven mains share: flags, errors as one line, the compilation cache, many hosts.

Every main is `python -m launch.NAME --gin_file=... --gin.NAME=value`, on each host of a pod alike.
Exit status: 0 done; 2 an error that the message says how to mend; 130 after Ctrl-C, 143 after
SIGTERM (both with everything saved, or a sentence that says what is); 1 a defect, with a traceback;
124 a run that hung, with all stacks; 75 another process of the run was lost, or ended with an error
of its own: run the same command again.
"""

import argparse
import dataclasses
import errno
import hashlib
import logging
import os
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from noise2music.errors import Parser, UserError

GIN_HELP = """\
Flags of the form --gin.NAME=value or --gin.NAME value set what the gin files leave open:
  --gin.TRAIN_STEPS=1000                 a macro, in capitals
  --gin.MODEL_DIR=\\"runs/mine\\"          strings need inner quotes, escaped from the shell
  '--gin.MODEL_DIR="runs/mine"'          ... or the whole flag in single quotes
  --gin.Optimizer.clip_norm=None         any parameter of any class the files mention
Later files win over earlier ones, and these flags over all files. File names are looked for in the
working directory, in --gin_search_paths and among the configs that ship with noise2music.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
  """flags: the argparse result. bindings: "NAME = value", in order."""

  flags: argparse.Namespace
  bindings: Sequence[str]


def parser(
  *, prog: str, description: str, example: str, runs: bool = True
) -> argparse.ArgumentParser:
  """A parser with the flags that all mains have; `example` is a command that works.

  runs: with those of mains that run something, on one host or many.
  """
  out = Parser(
    prog=prog,
    description=description,
    epilog=f"{GIN_HELP}\nexample:\n{example}",
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  out.add_argument(
    "--gin_file", action="append", default=[], metavar="FILE", help="a gin file; repeatable"
  )
  out.add_argument(
    "--gin_search_paths",
    action="append",
    default=[],
    metavar="DIR[,DIR]",
    help="where gin files and their includes are looked for besides the usual places; repeatable",
  )
  if runs:
    _add_run_flags(out)
  return out


def _add_run_flags(out: argparse.ArgumentParser) -> None:
  out.add_argument(
    "--dry_run", action="store_true", help="build everything, print what it is, write nothing"
  )
  hosts = out.add_argument_group("many hosts", "give the same command on each of them")
  hosts.add_argument(
    "--multihost", action="store_true", help="find the other hosts oneself, as on a TPU pod"
  )
  hosts.add_argument("--coordinator_address", metavar="HOST:PORT", help="of process 0")
  hosts.add_argument("--process_count", type=int, metavar="N")
  hosts.add_argument("--process_index", type=int, metavar="I")
  hosts.add_argument(
    "--heartbeat_seconds",
    type=_seconds,
    default=10,
    metavar="S",
    help="a process that is silent for so long is lost, and the others leave with status 75"
    " (default: %(default)s)",
  )
  hosts.add_argument(
    "--join_seconds",
    type=_seconds,
    default=300,
    metavar="S",
    help="how long to wait for all processes at the start (default: %(default)s)",
  )


def _seconds(text: str) -> int:
  value = int(text)
  if value < 1:
    raise ValueError(text)
  return value


def parse_arguments(out: argparse.ArgumentParser, argv: Sequence[str]) -> Arguments:
  """Raises UserError for a flag that nobody knows."""
  bindings, rest = take_bindings(argv)
  flags, unknown = out.parse_known_args(rest)
  if unknown:
    raise UserError(
      f"unknown flag {unknown[0]!r}: see --help (gin parameters are written --gin.NAME=value)"
    )
  flags.gin_search_paths = [p for paths in flags.gin_search_paths for p in paths.split(",") if p]
  if not flags.gin_file:
    raise UserError("no --gin_file given: name a run, for instance one listed by --help")
  return Arguments(flags=flags, bindings=bindings)


def take_bindings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
  """Splits --gin.NAME=value and --gin.NAME value off: (["NAME = value", ...], the rest)."""
  bindings, rest, pending = [], [], iter(argv)
  for argument in pending:
    if not argument.startswith("--gin."):
      rest.append(argument)
      continue
    name, equals, value = argument.removeprefix("--gin.").partition("=")
    if not equals:
      value = next(pending, None)
    if value is None or not name:
      raise UserError(f"{argument} has no value: write --gin.NAME=value")
    bindings.append(f"{name.strip()} = {value.strip()}")
  return bindings, rest


def start(flags: argparse.Namespace) -> None:
  """Before the first use of jax: cache on, logs quiet, other hosts joined."""
  set_up()
  named = (flags.coordinator_address, flags.process_count, flags.process_index)
  if not flags.multihost:
    if all(value is None for value in named):
      return
    if any(value is None for value in named):
      raise UserError(
        "--coordinator_address, --process_count and --process_index go together: give all three"
      )
  from noise2music.training import liveness

  liveness.join(
    address=flags.coordinator_address,
    count=flags.process_count,
    index=flags.process_index,
    heartbeat_seconds=flags.heartbeat_seconds,
    join_seconds=flags.join_seconds,
  )


def set_up() -> None:
  """Logs of libraries quiet; programs that were compiled once are read from the user's cache."""
  # Orbax reports every save, and a failed one with a traceback of its own; ours is one sentence.
  logging.getLogger("absl").setLevel(logging.CRITICAL)
  logging.basicConfig(format="%(message)s", level=logging.WARNING)
  import jax

  if cache := compilation_cache(jax.config.jax_compilation_cache_dir):
    jax.config.update("jax_compilation_cache_dir", str(cache))


def compilation_cache(chosen: str | None) -> Path | None:
  """The folder for compiled programs: the user's cache, never the project's folder.

  JAX_COMPILATION_CACHE_DIR (which jax reads into `chosen`) wins; None if the folder cannot be made.
  Programs for one processor can be wrong for another, so each kind has its own folder.
  """
  if chosen:
    return None
  root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
  folder = root / "noise2music" / "xla" / f"{platform.machine()}-{_processor()}"
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return None
  return folder


def run(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
  """Calls main(argv) and returns its exit status; users' errors become one line on stderr.

  With several processes it returns when all are done; after an error it tells them and leaves.
  """
  try:
    status = main(sys.argv[1:] if argv is None else argv)
    sys.stdout.flush()
    if together := _together():
      together.close()
    return status
  except BrokenPipeError:
    # Whoever read the output has seen enough, as `| head` does; python would complain at its exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except (UserError, OSError) as error:
    _leave_together(2, error)
    print(f"error: {one_line(error)}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    # Before training began, or in a main that saves nothing.
    print("interrupted", file=sys.stderr)
    return 130
  except Exception as error:
    _leave_together(1, error)
    raise


def _together():
  """The other processes, where there are any; jax is not imported to find out."""
  module = sys.modules.get("noise2music.training.liveness")
  return None if module is None else module.current()


def _leave_together(status: int, error: Exception) -> None:
  """Returns where this process is alone."""
  if (together := _together()) is None:
    return
  if not isinstance(error, UserError):
    together.lost()  # what failed here may be the end of another process
  if status == 1:
    traceback.print_exc()
  says = f"process {together.peers.index} ended with an error ({one_line(error)})"
  if status == 2:
    together.leave(status, one_line(error), mend=True, says=says)
  together.leave(status, says)


def one_line(error: Exception) -> str:
  if isinstance(error, OSError) and error.errno == errno.ENOSPC and type(error) is OSError:
    where = f" ({error.filename})" if error.filename else ""
    return f"the disk is full{where}: make room, then run the same command again"
  return " ".join(str(error).split()) or type(error).__name__


def _processor() -> str:
  try:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith(("flags", "Features")))
  except (OSError, StopIteration):
    flags = platform.processor()
  return hashlib.sha256(flags.encode()).hexdigest()[:8]
