"""The launcher as a user meets it: exit status, one line for an error, real signals and kills."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launch import gin_main, train
from noise2music.checkpoints.manager import CheckpointManager
from noise2music.errors import UserError

HERE = Path(__file__).parent
TOYS = str(HERE.parent / "training")
GIN = str(HERE / "sine.gin")


@pytest.fixture(autouse=True)
def _toys_can_be_imported(monkeypatch):
  monkeypatch.syspath_prepend(TOYS)


def flags(folder, *more):
  return [f"--gin_file={GIN}", f'--gin.MODEL_DIR="{folder}"', *more]


def here(*argv):
  """Exit status of the launcher, run in this process."""
  return gin_main.run(train.main, argv)


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
  """All processes share a cache of compiled programs, and it is not the user's."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("xla")))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    yield


def start(folder, *more, devices=1):
  """The launcher in a process of its own."""
  env = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), TOYS]),
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
  }
  # Its pace may change between two starts, which else is another run.
  command = [sys.executable, "-m", "launch.train", *flags(folder, *more)]
  command.append("--allow_drift=delay_seconds")
  return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, cwd=folder.parent)


def wait_for(process, sign):
  """Reads stderr up to the first line that holds `sign`."""
  for line in process.stderr:
    if sign in line:
      return
  raise AssertionError(f"{sign!r} never came")


def newest(folder):
  manager = CheckpointManager(folder / "checkpoints")
  try:
    return manager.manifest(manager.last_durable_step)
  finally:
    manager.close()


def losses(folder):
  lines = (folder / "metrics.jsonl").read_text().splitlines()
  return {row["step"]: row["loss"] for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
  """Sixty steps in one process, nothing in the way."""
  folder = tmp_path_factory.mktemp("launch") / "straight"
  process = start(folder)
  _, said = process.communicate(timeout=300)
  assert process.returncode == 0, said
  assert "done: 60 steps" in said
  return folder


def test_interrupted_and_killed_runs_end_bit_for_bit_like_a_straight_one(straight, tmp_path):
  folder = tmp_path / "run"
  slow = "--gin.SineBatches.delay_seconds=0.05"

  process = start(folder, slow)
  wait_for(process, "step 15/60")
  process.send_signal(signal.SIGINT)
  _, said = process.communicate(timeout=300)
  assert process.returncode == 130, said
  stopped = newest(folder)["step"]
  assert 15 <= stopped < 60
  assert f"stopped by Ctrl-C, saved at step {stopped}: run the same command again" in said
  assert "Traceback" not in said

  process = start(folder, slow)
  wait_for(process, f"step {(stopped // 10 + 2) * 10}/60")  # one save or more behind it
  process.kill()
  process.communicate(timeout=300)
  assert process.returncode == -signal.SIGKILL
  assert stopped < newest(folder)["step"] < 60

  process = start(folder)
  _, said = process.communicate(timeout=300)
  assert process.returncode == 0, said
  assert "going on from step" in said
  assert newest(folder)["fingerprints"] == newest(straight)["fingerprints"]
  assert losses(folder)[60] == losses(straight)[60]


def test_sigterm_saves_and_a_second_signal_leaves_at_once(tmp_path):
  folder = tmp_path / "run"
  slow = "--gin.SineBatches.delay_seconds=0.05"
  process = start(folder, slow)
  wait_for(process, "step 5/60")
  process.send_signal(signal.SIGTERM)
  _, said = process.communicate(timeout=300)
  assert process.returncode == 143, said
  assert "stopped by SIGTERM" in said
  assert newest(folder)["step"] >= 5

  stuck = start(folder, "--gin.SineBatches.delay_seconds=1000.")
  wait_for(stuck, "compiled")
  stuck.send_signal(signal.SIGINT)
  wait_for(stuck, "once more to leave at once")
  stuck.send_signal(signal.SIGINT)
  assert stuck.wait(timeout=60) == 130
  stuck.stderr.close()
  assert newest(folder)["step"] >= 5  # nothing torn


def test_eight_devices_go_on_from_one_and_agree(straight, tmp_path):
  folder = tmp_path / "run"
  one = start(folder, "--gin.TRAIN_STEPS=20", "--gin.Optimizer.decay_steps=60")
  _, said = one.communicate(timeout=300)
  assert one.returncode == 0, said
  eight = start(folder, "--gin.Optimizer.decay_steps=60", devices=8)
  _, said = eight.communicate(timeout=300)
  assert eight.returncode == 0, said
  assert "8 device(s)" in said
  found, expected = losses(folder), losses(straight)
  assert found.keys() == expected.keys()
  for step, loss in expected.items():
    assert found[step] == pytest.approx(loss, rel=1e-5), step


def test_a_finished_run_says_so_and_a_dry_run_writes_nothing(straight, tmp_path, capfd):
  finished = start(straight)
  _, said = finished.communicate(timeout=300)
  assert finished.returncode == 0, said
  assert "already at step 60 of 60" in capfd.readouterr().out
  assert here(*flags(tmp_path / "dry"), "--dry_run") == 0
  out = capfd.readouterr().out
  assert "544 parameters, 544 of them trained" in out
  assert "network/kernel" in out
  assert not (tmp_path / "dry").exists()


def test_the_run_folder_holds_the_resolved_config(straight, tmp_path):
  text = (straight / "config.gin").read_text()
  assert "training.Optimizer.clip_norm = 1.0" in text
  assert newest(straight)["config"] == text
  assert (straight / "model-info.txt").read_text().startswith("parameter")
  # It is a run by itself.
  again = ["--gin_file", str(straight / "config.gin"), "--gin.MODEL_DIR", f'"{tmp_path / "again"}"']
  assert here(*again, "--dry_run") == 0


def test_a_full_disk_ends_with_one_sentence(tmp_path, capfd):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    # Only the arrays of a wide model are larger than the limit.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    status = here(*flags(tmp_path / "run", "--gin.sine_toy.SineObjective.width=20000"))
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  said = capfd.readouterr().err
  assert status == 2
  (line,) = [line for line in said.splitlines() if line.startswith("error:")]
  assert "cannot save checkpoint 10" in line
  assert "file size limit" in line
  assert "Traceback" not in said


def test_a_disk_that_fills_ends_with_one_sentence_and_no_thread_that_hangs(small_disk):
  run = small_disk / "run"
  process = start(run, "--gin.sine_toy.SineObjective.width=20000")
  _, said = process.communicate(timeout=300)
  assert process.returncode == 2, said
  assert "Traceback" not in said
  (line,) = [line for line in said.splitlines() if line.startswith("error:")]
  assert "cannot save checkpoint 10" in line
  assert "no space left on the disk" in line
  (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free))
  process = start(run)
  _, said = process.communicate(timeout=300)
  assert process.returncode == 2, said
  assert "Traceback" not in said
  assert "make room, then run the same command again" in said


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ([], "no --gin_file given"),
    (["--gin_file=absent.gin"], "no gin file 'absent.gin'"),
    ([f"--gin_file={GIN}"], r"MODEL_DIR must be set: add --gin.MODEL_DIR=\"runs/my_run\""),
    ([f"--gin_file={GIN}", "--gin.MODEL_DIR=x"], "strings need inner quotes"),
    ([f"--gin_file={GIN}", "--gin.MODEL_DIR"], "--gin.MODEL_DIR has no value"),
    (["--gin_fil=x"], "unknown flag '--gin_fil=x'"),
    ([*flags("x"), "--gin.TRAIN_STEP=3"], "nothing uses TRAIN_STEP = 3 (did you mean"),
    ([*flags("x"), "--gin.TRAIN_STEPS=1e3"], "total_steps is 1000.0: give a whole number"),
    ([*flags("x"), "--gin.TRAIN_STEPS=3"], "shorten the warm-up"),
    ([*flags("x"), "--gin.Optimizer.peak=3"], "Optimizer has no parameter 'peak'"),
    (flags("gs://bucket/run"), "mount the bucket"),
    (flags("/dev/null/run"), "is not a folder"),
    ([*flags("x"), "--process_count=2"], "go together: give all three"),
  ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes_are_one_line_and_status_2(argv, message, capsys):
  assert here(*argv) == 2
  said = capsys.readouterr().err.splitlines()
  assert len(said) == 1
  assert said[0].startswith("error: ")
  assert message in said[0]


def test_another_models_checkpoint_is_refused(straight, capsys):
  assert here(*flags(straight, "--gin.SineObjective.width=4")) == 2
  said = capsys.readouterr().err
  assert "checkpoint of another model: params/encoder/kernel is float32[32, 8]" in said


def test_bindings_may_be_written_with_a_space_or_an_equals_sign():
  bindings, rest = gin_main.take_bindings(["--gin.A=1", "--x", "--gin.B.c", "'d=e'", "--gin.F==g"])
  assert bindings == ["A = 1", "B.c = 'd=e'", "F = =g"]
  assert rest == ["--x"]
  with pytest.raises(UserError, match="has no value"):
    gin_main.take_bindings(["--gin.A"])


def test_help_shows_a_command_that_works(capsys):
  with pytest.raises(SystemExit) as end:
    train.main(["--help"])
  assert end.value.code == 0
  text = capsys.readouterr().out
  assert "python -m launch.train" in text
  assert "--gin.MODEL_DIR=" in text


def test_the_compilation_cache_is_the_users_unless_chosen(monkeypatch, tmp_path):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  folder = gin_main.compilation_cache(None)
  assert folder.is_dir()
  assert folder.is_relative_to(tmp_path / "noise2music" / "xla")
  assert gin_main.compilation_cache("/elsewhere") is None


_TALKER = """
import sys
from launch import gin_main
def main(argv):
  for number in range(100_000):
    print(number)
  return 0
sys.exit(gin_main.run(main, []))
"""


def test_a_reader_that_has_seen_enough_is_no_error():
  talker = subprocess.Popen(
    [sys.executable, "-c", _TALKER],
    cwd=HERE.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert talker.stdout.readline() == "0\n"
  talker.stdout.close()
  assert talker.stderr.read() == ""
  assert talker.wait(timeout=60) == 141
