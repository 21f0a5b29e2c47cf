"""A command that is called with a folder of requests and leaves its answer there.

It runs in whatever environment its framework needs, once for each batch, without a shell, and gets
the folder as its last argument:

  FOLDER/requests.jsonl   {"id": "0", "wav": "0.wav"} or {"id": "0", "text": "..."}, in order
  FOLDER/0.wav ...        mono, 16 bit, at the rate that was asked for
  FOLDER/vectors.npz      its answer: arrays, among them sample_rate_hz int [], fingerprint str []

The first call has no requests: it asks for what does not depend on them.
"""

import json
import os
import shlex
import signal
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio.wav_io import write_audio
from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import EncoderError

COMMAND = "command:"  # before the command line, where a user names an encoder
REQUESTS, VECTORS = "requests.jsonl", "vectors.npz"
TIMEOUT_SECONDS, BATCH_SIZE = 600.0, 256  # of one call


def check_settings(command: tuple[str, ...], *, timeout_seconds: float, batch_size: int) -> None:
  """Raises UserError for what no command can be run with."""
  if not command or timeout_seconds <= 0 or batch_size < 1:
    raise UserError("an encoder's command needs a program, seconds above 0 and a batch size")


def words_of(text: str) -> tuple[str, ...]:
  """The program and its arguments in `command:PROGRAM ARGUMENTS`; UserError where it is none."""
  try:
    return tuple(shlex.split(text.removeprefix(COMMAND)))
  except ValueError as error:
    raise UserError(f"the encoder {text!r} is no command line ({error}): mend it") from error


def name_of(command: tuple[str, ...]) -> str:
  """For sentences."""
  return f"the encoder {command[0]!r}"


def ask(
  command: tuple[str, ...],
  items: Sequence[Any],
  *,
  timeout_seconds: float,
  wav_rate_hz: int | None,
  wanted: Sequence[str],
  optional: Sequence[str] = (),
) -> dict[str, np.ndarray]:
  """The arrays that the command answers with.

  items: texts, or float [samples] each. wav_rate_hz: of the clips; None: items are texts. wanted:
  arrays that must be there. Raises EncoderError, with the last line that the command said, for
  whatever it does wrong.
  """
  with tempfile.TemporaryDirectory(prefix="n2m-encoder-") as name:
    folder = Path(name)
    with open(folder / REQUESTS, "w", encoding="utf-8") as out:
      for row, item in enumerate(items):
        wav = wav_rate_hz is not None
        request = {"id": str(row), **({"wav": f"{row}.wav"} if wav else {"text": item})}
        out.write(json.dumps(request) + "\n")
        if wav:
          write_audio(folder / f"{row}.wav", item, sample_rate_hz=wav_rate_hz)
    said = _run(command, folder, timeout_seconds=timeout_seconds)
    return _answer(command, folder / VECTORS, said, wanted=wanted, optional=optional)


def check_same(command: tuple[str, ...], answer: Mapping[str, np.ndarray], before: str) -> None:
  """Raises EncoderError where the fingerprint is not what it was."""
  if (now := str(answer["fingerprint"])) != before:
    raise EncoderError(
      f"{name_of(command)} changed its fingerprint from {before!r} to {now!r}: "
      "start again with one model"
    )


def _run(command: tuple[str, ...], folder: Path, *, timeout_seconds: float) -> str:
  """The last line on its stderr, for later complaints."""
  with open(folder / ".stderr", "w+b") as errors:
    try:
      process = subprocess.Popen(
        [*command, str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
      )
    except OSError as error:
      raise EncoderError(
        f"{name_of(command)} cannot be started ({error.strerror}): check the command"
      ) from error
    try:
      status = process.wait(timeout_seconds)
      problem = f"left with exit status {status}" if status else ""
    except subprocess.TimeoutExpired:
      problem = f"took more than {timeout_seconds:g} s"
    finally:
      _end(process)  # on Ctrl-C too, which a session of its own does not hear
    said = _last_line(errors)
  if problem:
    raise EncoderError(f"{name_of(command)} {problem}{said}: mend it, or give it smaller batches")
  return said


def _answer(
  command: tuple[str, ...],
  path: Path,
  said: str,
  *,
  wanted: Sequence[str],
  optional: Sequence[str],
) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as file:
      arrays = {key: file[key] for key in (*wanted, *(k for k in optional if k in file.files))}
      if "sample_rate_hz" in arrays:
        arrays["sample_rate_hz"] = np.asarray(int(arrays["sample_rate_hz"]))
      return arrays
  except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
    listed = f"{', '.join(wanted[:-1])} and {wanted[-1]}"
    raise EncoderError(
      f"{name_of(command)} left no {VECTORS} with {listed} ({error}){said}: let it write one into"
      " the folder it is given"
    ) from error


def _end(process: subprocess.Popen) -> None:
  """Nothing of the command goes on, also where it is a script that started another."""
  if process.poll() is None:
    if hasattr(os, "killpg"):
      os.killpg(process.pid, signal.SIGKILL)
    else:
      process.kill()
    process.wait()


def _last_line(errors: Any, *, most_bytes: int = 4096) -> str:
  size = errors.seek(0, 2)
  errors.seek(max(0, size - most_bytes))
  lines = [line.strip() for line in errors.read().decode(errors="replace").splitlines()]
  last = next((line for line in reversed(lines) if line), "")
  return f" and said {last[:300]!r}" if last else ""
