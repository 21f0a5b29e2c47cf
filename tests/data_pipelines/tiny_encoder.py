"""A real encoder of a few lines, and a small data set to label with it.

Windows become statistics of their spectrum, texts histograms of their bytes, both through fixed
random matrices: nothing that was learnt, but every clip and text has a vector of its own.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from data_pipelines.manifest import Caption, Clip, write_manifest
from noise2music.joint_embedding.encoder import pool_windows, split_windows

RATE = 8_000
_FRAME = 1_024


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyEncoder:
  width: int = 16
  sample_rate_hz: int = RATE
  seed: int = 0

  @property
  def fingerprint(self) -> str:
    return f"tiny-{self.width}-{self.seed}"

  def embed_audio(self, clips: Sequence[np.ndarray]) -> np.ndarray:
    if any(np.ptp(clip) == 0 for clip in clips):
      raise RuntimeError("this encoder cannot bear silence")
    rows = [np.zeros((0, self.width), np.float32)]
    for clip in clips:
      windows = split_windows(clip, sample_rate_hz=self.sample_rate_hz)
      rows.append(pool_windows(np.stack([self._window(w) for w in windows]))[None])
    return np.concatenate(rows)

  def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
    project = np.random.default_rng([self.seed, 2]).standard_normal((256, self.width))
    rows = [np.zeros((0, self.width), np.float32)]
    for text in texts:
      histogram = np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=256)
      rows.append(pool_windows((histogram @ project)[None])[None])
    return np.concatenate(rows)

  def _window(self, window: np.ndarray) -> np.ndarray:
    frames = window[: len(window) // _FRAME * _FRAME].reshape(-1, _FRAME)
    power = np.log1p(np.abs(np.fft.rfft(frames)) ** 2)[:, 1:].reshape(len(frames), 32, -1).mean(2)
    seen = np.concatenate([power.mean(0), power.std(0)]) - power.mean()
    project = np.random.default_rng([self.seed, 1]).standard_normal((len(seen), self.width))
    return pool_windows((seen @ project)[None])


def load_tiny(name: str) -> TinyEncoder:
  """In the place of `load_encoder`."""
  return TinyEncoder(seed=int(name))


def tone(number: int, *, seconds: float = 1.5) -> np.ndarray:
  """Music of a kind: three partials and some noise, of a pitch that the number gives."""
  random = np.random.default_rng(number)
  time = np.arange(round(seconds * RATE)) / RATE
  pitch = 110 * 2 ** (number % 24 / 12)
  partials = sum(np.sin(2 * np.pi * k * pitch * time) / k for k in (1, 2, 3))
  return (0.2 * partials + 0.05 * random.standard_normal(len(time))).astype(np.float32)


def write_music(folder: Path, *, count: int) -> Path:
  """A manifest of clips with a title each; a file of words, one of silence, one that is missing."""
  folder.mkdir(parents=True)
  clips = []
  for number in range(count):
    soundfile.write(folder / f"{number}.wav", tone(number), RATE)
    clips.append(_clip(f"clip-{number}", f"{number}.wav", f"Title {number}"))
  (folder / "words.wav").write_text("words")
  soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
  for name in ("words", "silent", "missing"):
    clips.insert(len(clips) // 2, _clip(name, f"{name}.wav", name))
  write_manifest(folder / "manifest.jsonl", clips)
  return folder / "manifest.jsonl"


def _clip(name: str, path: str, title: str) -> Clip:
  licence = None if name == "clip-1" else "CC0-1.0"
  captions = (Caption(text=title, kind="title"),)
  return Clip(
    path=path, duration=1.5, sample_rate=RATE, captions=captions, id=name, license=licence
  )


def write_vocabulary(path: Path, captions: Sequence[str], *, kind: str) -> Path:
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text("\n".join(captions) + "\n", encoding="utf-8")
  path.with_suffix(".json").write_text(json.dumps({"kind": kind}))
  return path


def long_captions(count: int) -> list[str]:
  moods, sounds = ("calm", "bright", "dark", "hurried"), ("flute", "organ", "choir", "guitar")
  return [
    f"A {moods[i % 4]} piece number {i} for {sounds[i // 4 % 4]} and strings." for i in range(count)
  ]
