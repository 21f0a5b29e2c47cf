"""An encoder that runs as a command of its own, in whatever environment its framework needs.

The command is called with a folder as its last argument, once for each batch:

  FOLDER/requests.jsonl   {"id": "0", "wav": "0.wav"} or {"id": "0", "text": "..."}, in order
  FOLDER/0.wav ...        mono, 16 bit, at the rate that the encoder asked for
  FOLDER/vectors.npz      its answer: vectors float [requests, width], rows of length 1;
                          sample_rate_hz int []; fingerprint str []

The first call has no requests: it asks for width, rate and fingerprint. It runs without a shell.
"""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio.wav_io import write_audio
from noise2music.errors import UserError
from noise2music.joint_embedding.encoder import EncoderError, check_vectors

REQUESTS, VECTORS = "requests.jsonl", "vectors.npz"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExternalCommand:
  """An AudioTextEncoder. command: program and arguments. timeout_seconds: for one batch.

  batch_size: requests in one call. Raises UserError for an empty command, and EncoderError, with
  the last line that the command said, for whatever it does wrong.
  """

  command: tuple[str, ...]
  timeout_seconds: float = 600.0
  batch_size: int = 256

  def __post_init__(self):
    if not self.command or self.timeout_seconds <= 0 or self.batch_size < 1:
      raise UserError("an encoder's command needs a program, seconds above 0 and a batch size")

  @property
  def width(self) -> int:
    return self._described[0]

  @property
  def sample_rate_hz(self) -> int:
    return self._described[1]

  @property
  def fingerprint(self) -> str:
    return self._described[2]

  def embed_audio(self, clips: Sequence[np.ndarray]) -> np.ndarray:
    return self._embed(clips, wav=True)

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    return self._embed(texts, wav=False)

  @functools.cached_property
  def _described(self) -> tuple[int, int, str]:
    vectors, rate, fingerprint = self._call([], wav=False)
    if vectors.ndim != 2 or vectors.shape[1] < 1 or rate < 1 or not fingerprint:
      raise EncoderError(
        f"{self._name} did not say what it is: let it answer no requests with vectors [0, width], "
        "its sample_rate_hz and fingerprint"
      )
    return vectors.shape[1], rate, fingerprint

  @property
  def _name(self) -> str:
    return f"the encoder {self.command[0]!r}"

  def _embed(self, items: Sequence[Any], *, wav: bool) -> np.ndarray:
    batches = [np.zeros((0, self.width), np.float32)]
    for start in range(0, len(items), self.batch_size):
      batch = items[start : start + self.batch_size]
      vectors, _, fingerprint = self._call(batch, wav=wav)
      if fingerprint != self.fingerprint:
        raise EncoderError(
          f"{self._name} changed its fingerprint from {self.fingerprint!r} to {fingerprint!r}: "
          "start again with one model"
        )
      batches.append(check_vectors(vectors, rows=len(batch), width=self.width, name=self._name))
    return np.concatenate(batches)

  def _call(self, items: Sequence[Any], *, wav: bool) -> tuple[np.ndarray, int, str]:
    with tempfile.TemporaryDirectory(prefix="n2m-encoder-") as name:
      folder = Path(name)
      with open(folder / REQUESTS, "w", encoding="utf-8") as out:
        for row, item in enumerate(items):
          request = {"id": str(row), **({"wav": f"{row}.wav"} if wav else {"text": item})}
          out.write(json.dumps(request) + "\n")
          if wav:
            write_audio(folder / f"{row}.wav", item, sample_rate_hz=self.sample_rate_hz)
      said = self._run(folder)
      return self._answer(folder / VECTORS, said)

  def _run(self, folder: Path) -> str:
    """The last line on its stderr, for later complaints."""
    with open(folder / ".stderr", "w+b") as errors:
      try:
        process = subprocess.Popen(
          [*self.command, str(folder)],
          stdin=subprocess.DEVNULL,
          stdout=subprocess.DEVNULL,
          stderr=errors,
          start_new_session=True,
        )
      except OSError as error:
        raise EncoderError(
          f"{self._name} cannot be started ({error.strerror}): check the command"
        ) from error
      try:
        status = process.wait(self.timeout_seconds)
        problem = f"left with exit status {status}" if status else ""
      except subprocess.TimeoutExpired:
        problem = f"took more than {self.timeout_seconds:g} s"
      finally:
        _end(process)  # on Ctrl-C too, which a session of its own does not hear
      said = _last_line(errors)
    if problem:
      raise EncoderError(f"{self._name} {problem}{said}: mend it, or give it smaller batches")
    return said

  def _answer(self, path: Path, said: str) -> tuple[np.ndarray, int, str]:
    try:
      with np.load(path, allow_pickle=False) as file:
        return file["vectors"], int(file["sample_rate_hz"]), str(file["fingerprint"])
    except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile) as error:
      raise EncoderError(
        f"{self._name} left no {VECTORS} with vectors, sample_rate_hz and fingerprint"
        f" ({error}){said}: let it write one into the folder it is given"
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
