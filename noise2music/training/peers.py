"""The other processes of a run, by way of jax's coordination service.

Everything of jax that is private is used in this file alone, and here is why it is used at all:
  * `jax.distributed` offers no public key-value store, barrier, or list of who is alive;
  * jaxlib ends a process by abort() when it loses the coordinator, or cannot join. A handler of
    SIGABRT is the one way to say why in a sentence (a Python `missed_heartbeat_callback` dies of
    std::bad_cast in jaxlib 0.10.2, and a coordinator whose port is taken of a segmentation fault).
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping

import jax
from jax._src import distributed

from noise2music.errors import UserError

_SHUTDOWN_SECONDS = 30  # everyone has said "done" before it begins


class Missing(Exception):
  """processes: the indices of those that did not come to a barrier in time."""

  def __init__(self, name: str, processes: tuple[int, ...]):
    super().__init__(f"process(es) {', '.join(map(str, processes))} did not come to {name!r}")
    self.processes = processes


class Peers:
  """A small store that all processes share, and a place where they wait for each other.

  Its calls need a coordinator that answers; jax.errors.JaxRuntimeError where it does not.
  """

  def __init__(self, *, index: int, count: int, address: str):
    self.index, self.count, self.address = index, count, address

  @property
  def _client(self):
    return distributed.global_state.client

  def set(self, key: str, value: str) -> None:
    self._client.key_value_set(key, value, allow_overwrite=True)

  def set_first(self, key: str, value: str) -> bool:
    """False, and nothing changed, where another process was first."""
    try:
      self._client.key_value_set(key, value, allow_overwrite=False)
    except jax.errors.JaxRuntimeError as error:
      if "ALREADY_EXISTS" in str(error):
        return False
      raise
    return True

  def all(self, folder: str) -> dict[str, str]:
    """Everything under `folder`, by the path below it."""
    pairs = self._client.key_value_dir_get(folder)
    return {key.removeprefix(f"{folder}/"): value for key, value in pairs}

  def barrier(self, name: str, *, seconds: float) -> None:
    """Waits for all. A name serves once.

    Raises:
      Missing: some did not come within `seconds`. jax names one of them; this names all.
    """
    self.set(f"barrier/{name}/{self.index}", "")
    try:
      self._client.wait_at_barrier(name, round(1000 * seconds))
    except jax.errors.JaxRuntimeError as error:
      came = self.all(f"barrier/{name}")
      missing = tuple(i for i in range(self.count) if str(i) not in came)
      if missing:
        raise Missing(name, missing) from error
      raise

  def live(self) -> list[int]:
    """Whom jax holds for alive. Returns when all that are have asked as well, as a barrier does."""
    return sorted(self._client.get_live_nodes(list(range(self.count))))

  def shutdown(self) -> None:
    """Leaves the service, together with all others."""
    jax.distributed.shutdown()


def join(
  *,
  address: str | None,
  count: int | None,
  index: int | None,
  heartbeat_seconds: int,
  join_seconds: int,
) -> Peers:
  """Joins the other processes; None for all three: as jax finds them, on a TPU pod.

  jax's own preemption notice stays off: it takes SIGTERM from everyone else, serves once, and knows
  no Ctrl-C (`liveness` has ours).

  Raises:
    UserError: the port is taken, or the processes do not agree how many they are.
  """
  jax.config.update("jax_enable_preemption_service", False)
  if address is not None:
    _check(address, count, index)
  with _abort_says(lambda said: _why(said, address, count, index, join_seconds)):
    jax.distributed.initialize(
      address,
      count,
      index,
      # By default the coordinator listens on every interface, to anyone.
      coordinator_bind_address=address if index == 0 else None,
      # `liveness` is to notice first, since it can say what happened; jax's is the second net.
      heartbeat_timeout_seconds=2 * heartbeat_seconds,
      initialization_timeout=join_seconds,
      shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
  state = distributed.global_state
  peers = Peers(
    index=state.process_id, count=state.num_processes, address=state.coordinator_address
  )
  counts = {int(i): int(n) for i, n in _counts(peers, join_seconds).items()}
  if len(set(counts.values())) != 1:
    raise UserError(
      f"the processes were given different --process_count ({_listed(counts)}): start all of them"
      " with the same"
    )
  return peers


def on_abort(function: Callable[[], None]) -> None:
  """Calls it when C++ code gives up on this process; it may end the process in its own way.

  The handler runs in the thread that called abort(), which jaxlib does in one of its own.
  """

  @ctypes.CFUNCTYPE(None, ctypes.c_int)
  def handler(_):
    function()

  on_abort.kept = handler  # libc does not know that Python counts references
  ctypes.CDLL(None).signal(int(signal.SIGABRT), handler)


def answers(address: str, *, seconds: float = 1.0) -> bool:
  """Whether anything listens at HOST:PORT."""
  host, _, port = address.rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
  except OSError:
    return False
  return True


def _check(address: str, count: int, index: int) -> None:
  """What jax would answer with a segmentation fault, or not at all."""
  host, _, port = address.rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 2**16:
    raise UserError(f"--coordinator_address is {address!r}: write HOST:PORT, as 10.0.0.1:1234")
  if count < 1 or not 0 <= index < count:
    raise UserError(
      f"--process_index is {index} of --process_count {count}: they count from 0 to {count - 1}"
    )
  if index != 0:
    return
  host = host.strip("[]")
  try:
    family, *_, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as probe:
      # So that the port of a run that ended just now is free.
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      probe.bind(where)
  except OSError as error:
    raise UserError(
      f"process 0 cannot listen at {address} ({error.strerror or error}): give an address of this"
      " host, and a port that is free, as --coordinator_address to all processes"
    ) from None


def _counts(peers: Peers, seconds: float) -> Mapping[str, str]:
  """How many processes each was told there are, once as many have said so as any believes in."""
  peers.set(f"count/{peers.index}", str(peers.count))
  end = time.monotonic() + seconds
  while time.monotonic() < end:
    counts = peers.all("count")
    if len(counts) >= peers.count or len(set(counts.values())) > 1:
      return counts
    time.sleep(0.05)
  raise UserError(f"of {peers.count} processes only {len(counts)} came within {seconds} s")


def _listed(counts: Mapping[int, int]) -> str:
  return ", ".join(f"process {i}: {n}" for i, n in sorted(counts.items()))


def _why(said: str, address, count, index, seconds: float) -> str:
  """One sentence for what jaxlib printed before it gave up joining."""
  mend = "start each of them once, all with the same --coordinator_address and --process_count"
  if "ALREADY_EXISTS" in said or "newer incarnation" in said:
    return f"two processes were started with --process_index={index}: {mend}"
  if "Unexpected task" in said:
    return f"process 0 was told of fewer processes than --process_count={count}: {mend}"
  if "DEADLINE_EXCEEDED" in said or "UNAVAILABLE" in said:
    where = "each other" if address is None else f"each other at {address}"
    if index != 0 and address is not None and not answers(address):
      where += ", where nobody listens now,"
    return (
      f"not all of {count} processes found {where} within {seconds} s (--join_seconds), or one of"
      f" them came twice: {mend}"
    )
  found = re.search(r"absl::Status: (.*)", said)
  return f"could not join the other processes ({found[1] if found else said.strip()}): {mend}"


@contextlib.contextmanager
def _abort_says(sentence: Callable[[str], str]) -> Iterator[None]:
  """Where jaxlib aborts inside: a sentence and status 2 in place of its log and a stack of C++."""
  sys.stderr.flush()
  real = os.dup(2)
  with tempfile.TemporaryFile() as aside:

    def leave() -> None:
      os.write(real, f"error: {sentence(_read(aside.fileno()))}\n".encode())
      os._exit(2)

    on_abort(leave)
    os.dup2(aside.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(real, 2)
      os.close(real)
      on_abort(lambda: None)
      os.write(2, _read(aside.fileno()).encode())


def _read(descriptor: int) -> str:
  size = os.fstat(descriptor).st_size
  return os.pread(descriptor, size, 0).decode(errors="replace")
