"""Several processes, of which some die, hang, dawdle or are told to stop: the rest end with a
sentence and a status, and the same command goes on to the bit.

Numbers are those of the fault programme. The heartbeat is 5 s in place of the usual 10.
"""

import os
import signal
import socket
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from harness import SLOW, Run, free_port, listens, make_clips

from noise2music.checkpoints.manager import COMMIT_FILE, CheckpointManager

HEARTBEAT = 5
FLAGS = (f"--heartbeat_seconds={HEARTBEAT}", "--join_seconds=60")
LOST, HUNG = 75, 124


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  """Without a fault, in one process with two devices: to the bit what two processes do."""
  folder = tmp_path_factory.mktemp("processes")
  run = Run(folder=folder / "straight", data=make_clips(folder / "data"), devices=2)
  run.complete()
  return run


@pytest.fixture
def run(straight, request):
  """Of two processes, in a folder beside the other runs, with which it shares programs."""
  name = "".join(c if c.isalnum() else "-" for c in request.node.name)
  return Run(folder=straight.folder.with_name(name), data=straight.data, processes=2, flags=FLAGS)


def begun(run, *flags, until="step 15/", env=None):
  """The processes of a run, all of which have come so far."""
  processes = run.start(*flags, env=env)
  for process in processes:
    process.wait_for(until)
  return processes


def ended(processes, *, within, since):
  """Their statuses, and that none took longer."""
  statuses = [process.end() for process in processes]
  seconds = time.monotonic() - since
  said = "\n".join(process.said for process in processes)
  assert seconds < within, f"took {seconds:.1f} s:\n{said}"
  print(f"{seconds:.2f} s until all had ended with {statuses}")  # with pytest -s
  return statuses


def goes_on(run, straight):
  """The same command, to the end, as if nothing had been."""
  run.complete()
  assert run.trace() == straight.trace()


def final_params(run):
  manager = CheckpointManager(run.checkpoints)
  try:
    step = manager.steps[-1]
    leaves = manager.manifest(step)["leaves"]["params"]
    like = {}
    for path, (dtype, shape) in leaves.items():
      *rooms, name = path.split("/")
      room = like
      for part in rooms:
        room = room.setdefault(part, {})
      room[name] = jax.ShapeDtypeStruct(
        shape, dtype, sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0])
      )
    return jax.tree.map(np.asarray, manager.restore_step(step, {"params": like}).items["params"])
  finally:
    manager.close()


def test_two_processes_are_one_of_two_devices_to_the_bit(straight, run):
  run.complete()
  assert len(run.trace()) == 60
  assert run.trace() == straight.trace()


@pytest.mark.slow
def test_one_two_and_four_processes_see_the_same_batches(straight):
  def train(processes, devices):
    out = Run(
      folder=straight.folder.with_name(f"mesh-{processes}-{devices}"),
      data=straight.data,
      processes=processes,
      devices=devices,
      flags=("--join_seconds=120",),
    )
    out.complete()
    return out

  runs = [train(*shape) for shape in ((1, 1), (1, 4), (2, 2), (4, 1))]
  traces = [one.trace() for one in runs]
  rows = [{step: row for step, (_, row) in trace.items()} for trace in traces]
  assert rows[0] == rows[1] == rows[2] == rows[3]
  # To the bit on equal meshes of several processes. Within one process jax adds up four devices in
  # another order than gloo does between processes; two numbers have but one sum.
  assert traces[2] == traces[3]
  params = [final_params(one) for one in runs]
  for other in params[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), params[0], other
    )


# 2, 3, 8: a process that is gone.


def test_killed_in_the_middle_of_a_save(run, straight):  # 2
  processes = begun(run, SLOW)
  step = _wait_for_a_save(run)
  processes[1].send(signal.SIGKILL)
  since = time.monotonic()
  assert ended(processes, within=HEARTBEAT + 5, since=since) == [LOST, -signal.SIGKILL]
  last = max(run.steps())
  assert last in (step - 10, step)
  assert f"process 1 has not been heard of for {HEARTBEAT} s" in processes[0].said
  assert f"run the same command again to go on from checkpoint {last}" in processes[0].said
  goes_on(run, straight)


def test_the_coordinator_is_killed(run, straight):  # 3
  processes = begun(run, SLOW)
  processes[0].send(signal.SIGKILL)
  since = time.monotonic()
  assert ended(processes, within=5, since=since) == [-signal.SIGKILL, LOST]
  assert "process 0, the coordinator, has died: run the same command again" in processes[1].said
  assert "to go on from checkpoint 10" in processes[1].said


@pytest.mark.parametrize("stopped", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_is_stopped(run, stopped):  # 8
  processes = begun(run, SLOW)
  processes[stopped].send(signal.SIGSTOP)
  since = time.monotonic()
  other = processes[1 - stopped]
  assert ended([other], within=HEARTBEAT + 5, since=since) == [LOST]
  assert f"process {stopped} has not been heard of for {HEARTBEAT} s" in other.said
  # When it wakes up alone it does not write into the folder of a run that has gone on without it.
  processes[stopped].send(signal.SIGCONT)
  assert processes[stopped].end(seconds=2 * HEARTBEAT + 10) != 0


@pytest.mark.slow
def test_a_process_fails(run):
  processes = run.start("--gin.faulty.Stall.at=12", "--gin.faulty.Stall.fail=True",
                        "--gin.faulty.Stall.process=1")  # fmt: skip
  assert [process.end() for process in processes] == [LOST, 1]
  assert "RuntimeError: the hook fails" in processes[1].said
  assert "process 1 ended with an error (the hook fails)" in processes[0].said


# 4, 5, 6, 7: told to stop.


@pytest.mark.parametrize(
  ("number", "to", "status"),
  [(signal.SIGTERM, 1, 143), pytest.param(signal.SIGINT, 0, 130, marks=pytest.mark.slow)],
)
def test_told_to_one_all_save_the_same_step(run, straight, number, to, status):  # 4
  processes = begun(run, SLOW)
  processes[to].send(number)
  since = time.monotonic()
  assert ended(processes, within=10, since=since) == [status, status]
  (step,) = {process.wait_for(r"saved at step (\d+)")[1] for process in processes}
  assert 15 <= int(step) < 60
  assert max(run.steps()) == int(step)
  goes_on(run, straight)


def test_told_again_while_it_saves(straight, tmp_path):  # 6, 7
  run = Run(folder=straight.folder.with_name("again"), data=straight.data, devices=2)
  (process,) = begun(run, SLOW)
  process.send(signal.SIGTERM)
  since = time.monotonic()
  _wait_for_a_save(run)
  process.send(signal.SIGTERM)
  process.send(signal.SIGINT)
  (status,) = ended([process], within=10, since=since)
  assert status in (143, 130)
  # Not torn, and not thrown away either.
  step = max(run.steps())
  assert step >= 15
  assert not [p for p in run.checkpoints.iterdir() if not (p / COMMIT_FILE).exists()]
  goes_on(run, straight)


@pytest.mark.parametrize("processes", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_told_while_it_compiles(straight, processes):  # 5
  run = Run(
    folder=straight.folder.with_name(f"compiles-{processes}"),
    data=straight.data,
    processes=processes,
    flags=FLAGS if processes > 1 else (),
  )
  slow = ("--gin.faulty.Objective.compile_seconds=100.",)
  all_of_them = begun(run, *slow, until="compiling")
  all_of_them[0].send(signal.SIGTERM)
  since = time.monotonic()
  assert set(ended(all_of_them, within=10, since=since)) == {143}
  for process in all_of_them:
    assert "stopped by SIGTERM before the first update" in process.said
  assert run.steps() == []


@pytest.mark.slow
@pytest.mark.parametrize(
  ("what", "flags"),
  [
    ("input", ("--gin.faulty.Batches.stall_at=15", "--gin.faulty.Batches.stall_process=1")),
    ("hooks", ("--gin.faulty.Stall.at=15", "--gin.faulty.Stall.process=1")),
  ],
)
def test_told_while_input_or_a_hook_takes_too_long(run, straight, what, flags):  # 5
  processes = begun(run, *flags, "--gin.Training.grace_seconds=2.")
  time.sleep(1)
  processes[0].send(signal.SIGTERM)
  since = time.monotonic()
  assert ended(processes, within=10, since=since) == [143, 143]
  assert f"while {what} took longer than 2 s" in processes[1].said
  for process in processes:
    assert "go on from checkpoint 10" in process.said
  goes_on(run, straight)


# 9: what hangs without dying.


def test_input_that_stalls(run):  # 9
  deadline = "--gin.Training.deadline_seconds=4."
  stall = ("--gin.faulty.Batches.stall_at=15", "--gin.faulty.Batches.stall_process=1")
  processes = begun(run, deadline, *stall)
  since = time.monotonic()
  assert ended(processes, within=10, since=since) == [LOST, HUNG]
  sentence = "process 1 hangs in input: waiting for the next batch takes longer than 4 s"
  for process in processes:
    assert sentence in process.said
    assert "run the same command again to go on from checkpoint 10" in process.said
  stacks = (run.folder / "hang-1.txt").read_text()
  assert "faulty.py" in stacks
  assert "most recent call first" in stacks


@pytest.mark.slow
@pytest.mark.parametrize(
  ("phase", "flags"),
  [
    ("input", ("--gin.faulty.Batches.stall_at=15",)),
    ("hooks", ("--gin.faulty.Stall.at=15",)),
    ("the lock", ("--gin.faulty.Stall.at=15", "--gin.faulty.Stall.holding=True")),
  ],
)
def test_a_single_process_hangs(straight, phase, flags):  # 9
  run = Run(folder=straight.folder.with_name(f"hangs-{phase[-4:]}"), data=straight.data)
  processes = begun(run, "--gin.Training.deadline_seconds=3.", *flags)
  since = time.monotonic()
  # Where Python's lock is held, faulthandler can show the stacks, and knows one status.
  held = phase == "the lock"
  assert ended(processes, within=12, since=since) == [1 if held else HUNG]
  said = processes[0].said
  assert "Timeout (0:00:06)!" in said if held else f"hangs in {phase}" in said
  assert "faulty.py" in said


# 10: one that is slower than the rest.


def test_a_straggler_is_named_and_the_run_goes_on(run, straight):  # 10
  processes = run.complete(
    "--gin.faulty.Batches.delay_seconds=0.1", "--gin.faulty.Batches.delay_process=1"
  )
  said = processes[0].said
  assert said.count("process 1 of 2 is slow") == 1
  assert "is slow" not in processes[1].said
  assert said.index("process 1 of 2 is slow") < said.index("step 30/60")
  assert run.trace() == straight.trace()


@pytest.mark.slow
def test_nobody_is_slow_where_all_are(run):  # 10
  processes = run.complete(SLOW)
  assert "is slow" not in processes[0].said


# 31: processes that do not find each other.


def _together(index, *, count=2, port):
  return (
    f"--coordinator_address=127.0.0.1:{port}",
    f"--process_count={count}",
    f"--process_index={index}",
  )


def _only_sentence(process):
  """Of a process that ended with status 2 and said nothing else."""
  assert process.end(seconds=60) == 2, process.said
  (line,) = process.said.splitlines()
  assert line.startswith("error: ")
  return line


def test_the_port_is_taken_or_nobody_answers(run):  # 31
  with socket.socket() as other:
    other.bind(("127.0.0.1", 0))
    other.listen()
    first = run.launch(*_together(0, port=other.getsockname()[1]))
    second = run.launch(*_together(1, port=free_port()), "--join_seconds=4")
    assert "cannot listen at 127.0.0.1:" in _only_sentence(first)
    assert "where nobody listens now, within 4 s" in _only_sentence(second)


NOT_ALL = "not all of 3 processes found each other"
DIFFERENT = "different --process_count (process 0: 2, process 1: 3)"


@pytest.mark.parametrize(
  ("others", "seconds", "sentences"),
  [
    ([(0, 3), (1, 3)], 5, [NOT_ALL, NOT_ALL]),  # a third was never started
    pytest.param([(0, 2), (1, 3)], 30, [DIFFERENT, DIFFERENT], marks=pytest.mark.slow),
    # Of two that come as process 1, chance says which one stays to wait for process 2.
    pytest.param(
      [(0, 3), (1, 3), (1, 3)],
      8,
      [NOT_ALL, "came twice|with --process_index=1", "came twice|with --process_index=1"],
      marks=pytest.mark.slow,
    ),
    pytest.param([(1, 1)], 8, ["they count from 0 to 0"], marks=pytest.mark.slow),
  ],
)
def test_wrong_counts_and_indices(run, others, seconds, sentences):  # 31
  port = free_port()
  processes = [
    run.launch(*_together(index, count=count, port=port), f"--join_seconds={seconds}")
    for index, count in others
  ]
  for process, sentence in zip(processes, sentences, strict=True):
    said = _only_sentence(process)
    assert any(part in said for part in sentence.split("|")), said
  assert not run.folder.exists()


# The launcher of all of them.


def test_the_launcher_starts_all_and_hands_signals_on(run):  # 4, 31
  local = run.launch(SLOW, "--processes=2", module="launch.local")
  local.wait_for(r"\[0\] step 15/60")
  local.wait_for(r"\[1\] step 15/60")
  for pid in _children(local.pid):
    addresses = listens(pid)
    assert addresses
    # 127.0.0.1 as the kernel writes it, alone or as an address of the newer kind: no one else's.
    assert all(address.split(":")[0].endswith("0100007F") for address in addresses)
  local.send(signal.SIGINT)
  since = time.monotonic()
  assert ended([local], within=12, since=since) == [130]
  for index in (0, 1):
    assert f"[{index}] stopped by Ctrl-C, saved at step" in local.said
    assert local.said.count(f"[{index}] finishing this step") == 1


@pytest.mark.slow
def test_the_launcher_ends_all_where_one_fails(run):
  local = run.launch("--processes=2", "--gin.faulty.Stall.at=12", "--gin.faulty.Stall.fail=True",
                     module="launch.local")  # fmt: skip
  assert local.end() == 1
  assert "[1] error: process 0 ended with an error (the hook fails)" in local.said
  local = run.launch("--processes=2", SLOW, module="launch.local")
  local.wait_for(r"\[0\] step 30/60")
  os.kill(_children(local.pid)[1], signal.SIGKILL)
  assert local.end() == 128 + signal.SIGKILL
  assert "[0] error: process 1 has not been heard of" in local.said


def _children(pid):
  text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
  return [int(child) for child in text.split()]


def _wait_for_a_save(run, *, seconds=60):
  """Until a step is being written; its number."""
  end = time.monotonic() + seconds
  whole = {p.name for p in run.checkpoints.iterdir()}
  while time.monotonic() < end:
    for path in run.checkpoints.iterdir():
      name = path.name.split(".")[0]
      if name.isdigit() and path.name not in whole and not (path / COMMIT_FILE).exists():
        return int(name)
    time.sleep(0.001)
  raise AssertionError("no save began")
