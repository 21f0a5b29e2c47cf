"""The public face: load a trained cascade, type a prompt, get music.

pipeline = Pipeline.from_pretrained("runs/demo")
music = pipeline.generate("A slow waltz for flute in G major.", duration=5, seed=1)
music.save("waltz.wav")
"""

import dataclasses
import itertools
import math
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from noise2music import typing as n2m
from noise2music.audio.recording import Recording
from noise2music.audio.wav_io import AUDIO_SUFFIXES, write_audio
from noise2music.checkpoints import leaves
from noise2music.checkpoints.restore import is_checkpoint, restore_params
from noise2music.config import gin_utils
from noise2music.diffusion.samplers import DPMSolverPP2M
from noise2music.diffusion.time_steps import UniformLogSnrSteps
from noise2music.errors import UserError
from noise2music.joint_embedding.embedder import Embedder
from noise2music.joint_embedding.objective import JointEmbeddingObjective
from noise2music.planning.generation import GenerationPlan, plan_generation
from noise2music.sharding.mesh import MeshShape
from noise2music.stages.cascade import Cascade
from noise2music.stages.edits import Blend, Edit, Loop, check_edits, clip_seconds, whole_loop
from noise2music.stages.objective import DenoisingObjective
from noise2music.stages.presets import Preset, read_presets
from noise2music.stages.spec import InWindows, Sampling, Stage
from noise2music.training.loop import Training

MOST_SECONDS = 3_600  # in windows memory grows by the clip's own arrays alone, some 2 MB a second
MOST_SECONDS_WHOLE = 600  # beyond, programs and memory of a clip in one piece grow out of bounds
HOST_SHARE = 0.25  # of a device's memory: weights that would take more of it lie on the host
MOST_STEPS = 10_000
BATCH_SIZE = 4
OUR_PACKAGES = ("noise2music", "data_pipelines", "launch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
  """audio: float32 [clips, samples] in [-1, 1]. seeds and prompts: one for each clip.

  signals: what each stage made, by its name: [clips, steps, channels].
  """

  audio: np.ndarray
  sample_rate_hz: int
  seeds: tuple[int, ...]
  prompts: tuple[str, ...]
  signals: dict[str, np.ndarray]

  def save(self, path: str | Path) -> list[Path]:
    """Writes `path`, or `path` with -0, -1, ... before the suffix where there are more clips."""
    path = Path(path)
    make_output_folder(path)
    paths = [path]
    if len(self.audio) > 1:
      paths = [path.with_stem(f"{path.stem}-{index}") for index in range(len(self.audio))]
    for where, audio in zip(paths, self.audio, strict=True):
      write_audio(where, audio, sample_rate_hz=self.sample_rate_hz)
    return paths


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pipeline:
  """A cascade with its parameters: one tree a stage. presets: ways to sample it, by name."""

  cascade: Cascade
  params: tuple[n2m.PyTree, ...]
  presets: Mapping[str, Preset] = dataclasses.field(default_factory=dict)

  @classmethod
  def from_pretrained(
    cls,
    path: str | Path,
    *,
    stages: Sequence[str] | None = None,
    ema: bool = True,
    weights_on_host: bool | None = None,
  ) -> "Pipeline":
    """From the folder of one training run, or a folder that holds one run for each stage.

    stages: names of the runs to take, where the folder holds more than one cascade. They are put in
    the order in which they feed one another. weights_on_host: keeps them in the host's memory, and
    each stage's on the device only while it runs; where None, as soon as they would take more than
    a fourth of the device's memory. Raises UserError where there is no run, or where the runs do
    not make up one cascade.
    """
    path = Path(path)
    if not path.is_dir():
      raise UserError(f"no such folder: {path}; give the MODEL_DIR of a training run")
    if stages is not None:
      folders = [path / stage for stage in stages]
    else:
      folders = [path] if is_checkpoint(path) else sorted(p for p in path.iterdir() if p.is_dir())
      folders = [folder for folder in folders if is_checkpoint(folder)]
    if not folders:
      raise UserError(
        f"no trained stage in {path}: give the MODEL_DIR of a training run, or a folder of them"
      )
    loaded = {}
    for folder in folders:
      params, config_text, manifest = restore_params(folder, ema=ema)
      objective = _objective_of(config_text, where=folder)
      if len(folders) > 1 and stages is None and not isinstance(objective, DenoisingObjective):
        continue  # what labelled the music, beside the stages that make some
      objective = _that_makes_music(objective, where=folder)
      dataset = manifest.get("dataset")
      loaded[objective] = objective.completed(params, dataset=dataset, folder=folder)
      if weights_on_host or (weights_on_host is None and _crowd(list(loaded.values()))):
        loaded = {made: jax.device_get(tree) for made, tree in loaded.items()}
    cascade = Cascade.ordered(loaded)
    params = tuple(loaded[o] for o in cascade.objectives)
    return cls(cascade=cascade, params=params, presets=read_presets(path))

  def generate(
    self,
    prompt: str | Sequence[str],
    *,
    duration: float | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    negative_prompt: str | None = None,
    seed: int | Sequence[int] | None = None,
    batch_size: int = BATCH_SIZE,
    preset: str | None = None,
    sampling: Mapping[str, Sampling] | None = None,
    windows: InWindows | None = None,
    blend: Blend | None = None,
    init_audio: str | Path | Recording | Generation | None = None,
    edits: Sequence[Edit] = (),
    on_stage: Callable[[str, int, int], None] | None = None,
    on_plan: Callable[[GenerationPlan], None] | None = None,
  ) -> Generation:
    """One clip for each prompt.

    duration: seconds; the length that the first stage was trained on where None. steps: network
    evaluations a stage, taken by DPM-Solver++; each stage's own sampler where None. cfg_scale: how
    strongly the text guides, 1 for not at all; each stage's own where None. negative_prompt: what
    to lead away from. seed: of the first clip, the next has seed + 1, and so on; or one for each;
    drawn where None. The seeds are in the result: the same prompt with the same seed gives the
    same clip, alone or among others. batch_size: clips at once, shared out among the devices as
    far as they divide; the devices that are left over share out the time of each clip. preset: one
    of `presets`. sampling: of stages by their names, in place of their own or the preset's; steps,
    cfg_scale and windows change it in its turn. windows: makes long clips in parts, in every stage;
    each stage's own where None. blend: a second prompt that leads along. init_audio: a file or
    audio (a `Generation` will do), of one clip or as many as there are prompts. edits: what to do
    with it, or with the clip; the duration is then by their rules (`stages.edits`). on_stage: as in
    `Cascade.generate`. on_plan: is given what the request costs, before it runs.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    recording = self._recording(init_audio, clips=len(prompts))
    check_edits(edits, recording=recording, blend=blend)
    asked = self._asked(
      prompts,
      duration=self._clip_seconds(edits, recording=recording, asked=duration),
      steps=steps,
      cfg_scale=cfg_scale,
      negative_prompt=negative_prompt,
      batch_size=batch_size,
      preset=preset,
      sampling=sampling,
      windows=windows,
    )
    seeds = _seeds(seed, len(prompts))
    batch_size = asked["batch_size"]
    devices = jax.device_count()
    mesh = MeshShape.sharing_out(batch_size, devices=devices).build() if devices > 1 else None
    if on_plan is not None:
      # An edited clip comes out of other programs than the plan knows.
      compiled = devices == 1 and not edits and blend is None
      negative = negative_prompt is not None
      on_plan(self._plan(len(prompts), asked, negative=negative, compiled=compiled))
    signals = self.cascade.generate(
      self.params,
      prompts,
      seeds=seeds,
      negative_prompt=negative_prompt,
      blend=blend,
      recording=recording,
      edits=edits,
      mesh=mesh,
      **asked,
      on_stage=on_stage,
    )
    last = self.cascade.stages[-1]
    audio, sample_rate_hz = last.target.decode(signals[last.name])
    return Generation(
      audio=np.clip(np.asarray(audio, np.float32), -1, 1),
      sample_rate_hz=sample_rate_hz,
      seeds=tuple(seeds),
      prompts=tuple(prompts),
      signals=signals,
    )

  def plan(self, prompt: str | Sequence[str], **request) -> GenerationPlan:
    """What `generate` would cost; it compiles what `generate` then finds ready.

    request: what `generate` is asked, but for the seed and the callbacks.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    negative = request.get("negative_prompt") is not None
    asked, one = self._asked(prompts, **request), jax.device_count() == 1
    # Shared out among devices, programs are others.
    return self._plan(len(prompts), asked, negative=negative, compiled=one)

  def _plan(
    self, prompts: int, asked: Mapping[str, Any], *, negative: bool, compiled: bool
  ) -> GenerationPlan:
    return plan_generation(
      self.cascade,
      self.params,
      prompts=prompts,
      negative=negative,
      compiled=compiled,
      **asked,
    )

  def _asked(
    self,
    prompts: Sequence[str],
    *,
    duration: float | None = None,
    steps: int | None = None,
    cfg_scale: float | None = None,
    negative_prompt: str | None = None,
    batch_size: int = BATCH_SIZE,
    preset: str | None = None,
    sampling: Mapping[str, Sampling] | None = None,
    windows: InWindows | None = None,
  ) -> dict[str, Any]:
    """seconds, batch_size and sampling of a request, as `Cascade.generate` takes them."""
    check_request(
      prompts,
      duration=duration,
      steps=steps,
      batch_size=batch_size,
      cfg_scale=cfg_scale,
      negative_prompt=negative_prompt,
    )
    duration = self.cascade.stages[0].train_seconds if duration is None else duration
    chosen = {
      stage.name: override(stage, steps=steps, cfg_scale=cfg_scale, windows=windows)
      for stage in self.sampled_by({**self.preset(preset), **(sampling or {})})
    }
    check_length(duration, sampling=chosen.values())
    shared = _shared_out(min(batch_size, len(prompts)), devices=jax.device_count())
    return {"seconds": duration, "batch_size": shared, "sampling": chosen}

  def _recording(
    self, init_audio: str | Path | Recording | Generation | None, *, clips: int
  ) -> Recording | None:
    """At the rate of what the cascade makes."""
    if init_audio is None:
      return None
    if isinstance(init_audio, str | Path):
      init_audio = Recording.read(init_audio)
    if isinstance(init_audio, Generation):
      init_audio = Recording(audio=init_audio.audio, sample_rate_hz=init_audio.sample_rate_hz)
    if len(init_audio.audio) not in (1, clips):
      raise UserError(
        f"{clips} prompts need one clip of audio or {clips} of them, got {len(init_audio.audio)}"
      )
    return init_audio.at(max(stage.target.audio_rate_hz for stage in self.cascade.stages))

  def _clip_seconds(
    self, edits: Sequence[Edit], *, recording: Recording | None, asked: float | None
  ) -> float:
    given = 0.0 if recording is None else recording.seconds
    trained = self.cascade.stages[0].train_seconds
    seconds = clip_seconds(edits, given=given, asked=asked, trained=trained)
    if any(isinstance(edit, Loop) for edit in edits):
      seconds = whole_loop(seconds, rates_hz=[s.target.rate_hz for s in self.cascade.stages])
    check_request(["-"], duration=seconds)
    return seconds

  def preset(self, name: str | None) -> Preset:
    """How stages are sampled in it; none of them otherwise than by themselves where None."""
    if name is None:
      return {}
    if name not in self.presets:
      there = f"use one of {', '.join(self.presets)}" if self.presets else "n2m tune makes some"
      raise UserError(f"there is no preset {name!r} here: {there}")
    known = {stage.name for stage in self.cascade.stages}
    return {stage: how for stage, how in self.presets[name].items() if stage in known}

  def sampled_by(self, sampling: Mapping[str, Sampling]) -> list[Stage]:
    """The stages, those that `sampling` names sampled as it says. Raises UserError for others."""
    own = {stage.name: stage for stage in self.cascade.stages}
    if unknown := sampling.keys() - own.keys():
      raise UserError(f"no stage is called {min(unknown)}: use one of {', '.join(own)}")
    return [
      dataclasses.replace(s, sampling=sampling.get(name, s.sampling)) for name, s in own.items()
    ]


def _crowd(params: n2m.PyTree) -> bool:
  """Whether arrays on the device take more than their share of it; False where it does not say."""
  limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
  there = sum(leaf.nbytes for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array))
  return limit is not None and there > HOST_SHARE * limit


def _shared_out(batch_size: int, *, devices: int) -> int:
  """Up to a number that the devices can share out evenly; copies fill it."""
  return next(n for n in itertools.count(batch_size) if n % devices == 0 or devices % n == 0)


def objective_of(config_text: str, *, where: str | Path = "") -> DenoisingObjective:
  """The objective that a stage's checkpoint was trained with, from the config that it carries.

  where: the run's folder. Raises UserError where it trained something else.
  """
  return _that_makes_music(_objective_of(config_text, where=where), where=where)


def total_steps(run: str | Path) -> int:
  """How many steps the run in a folder was started for. Raises UserError where there is none."""
  try:
    text = (Path(run) / "config.gin").read_text(encoding="utf-8")
  except OSError as error:
    raise UserError(f"no training run in {run} ({error}): give its MODEL_DIR") from error
  gin_utils.parse_text(text, allowed_modules=OUR_PACKAGES)
  return gin_utils.build_argument(Training, "total_steps")


def _that_makes_music(objective: Any, *, where: str | Path) -> DenoisingObjective:
  if not isinstance(objective, DenoisingObjective):
    raise UserError(f"{where} holds a {type(objective).__name__}, which makes no music")
  return objective


def load_embedder(path: str | Path, *, ema: bool = True) -> Embedder:
  """The joint embedding that was trained in the folder `path`.

  Raises UserError where there is no run, or it trained something else.
  """
  if not is_checkpoint(Path(path)):
    raise UserError(f"no trained joint embedding in {path}: give the MODEL_DIR of a training run")
  params, config_text, _ = restore_params(Path(path), ema=ema)
  objective = _objective_of(config_text, where=path)
  if not isinstance(objective, JointEmbeddingObjective):
    raise UserError(f"{path} holds a {type(objective).__name__}, which embeds no music")
  return Embedder(objective=objective, params=params, weights=f"{leaves.fingerprint(params):08x}")


def _objective_of(config_text: str, *, where: str | Path) -> Any:
  """Only our own packages may be named in it: a config is code."""
  text = _with_vocabulary_nearby(config_text, folder=Path(where))
  gin_utils.parse_text(text, allowed_modules=OUR_PACKAGES)
  return gin_utils.build_argument(Training, "objective")


def _with_vocabulary_nearby(config_text: str, *, folder: Path) -> str:
  """A run that was moved, with its vocabulary in it or beside it, still finds the file."""

  def found(match: re.Match) -> str:
    path = Path(match[1])
    near = [place / path.name for place in (folder, folder.parent)]
    return repr(str(next((p for p in [*near, path] if p.is_file()), path)))

  return re.sub(r"'([^'\n]+\.model)'", found, config_text)


def make_output_folder(path: str | Path) -> None:
  """Makes the folder that `path` lies in. Raises UserError where nothing can be written there."""
  folder = Path(path).parent
  try:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
  except OSError as error:
    raise UserError(
      f"cannot write into {folder} ({error.strerror}): give an output in a folder of yours"
    ) from error


def check_request(
  prompts: Sequence[str],
  *,
  output: str | Path | None = None,
  duration: float | None = None,
  seed: int | None = None,
  steps: int | None = None,
  batch_size: int | None = None,
  cfg_scale: float | None = None,
  negative_prompt: str | None = None,
) -> None:
  """Raises UserError on what can be refused before anything is loaded."""
  if not prompts or any(not text.strip() for text in prompts):
    raise UserError("the prompt is empty: say what the music should be")
  if duration is not None and not 0 < duration < float("inf"):
    raise UserError(f"the duration must be longer than 0 seconds, got {duration:g}")
  if duration is not None and duration > MOST_SECONDS:
    raise UserError(
      f"the duration must be at most {MOST_SECONDS:,} seconds, got {duration:g}: make several clips"
    )
  if steps is not None and steps > MOST_STEPS:
    raise UserError(
      f"the steps must be at most {MOST_STEPS:,}, got {steps}: the paper's 1,000 are ample"
    )
  if seed is not None and not -1 <= seed < 2**63:
    raise UserError(f"the seed must be a whole number below 2^63, or -1 to draw one, got {seed}")
  if negative_prompt is not None and not negative_prompt.strip():
    raise UserError("the negative prompt is empty: say what to lead away from, or leave it out")
  if cfg_scale is not None and not math.isfinite(cfg_scale):
    raise UserError(f"the guidance scale must be a number, got {cfg_scale}")
  for name, number in (("steps", steps), ("batch size", batch_size)):
    if number is not None and number < 1:
      raise UserError(f"the {name} must be at least 1, got {number}")
  if output is not None and Path(output).suffix.lower() not in AUDIO_SUFFIXES:
    raise UserError(f"cannot write {output}: end its name in one of {', '.join(AUDIO_SUFFIXES)}")


def check_length(seconds: float, *, sampling: Iterable[Sampling]) -> None:
  """Raises UserError where a clip is too long to be made in one piece, and is to be."""
  if seconds > MOST_SECONDS_WHOLE and any(each.windows is None for each in sampling):
    raise UserError(
      f"a clip in one piece must be at most {MOST_SECONDS_WHOLE:,} seconds, got {seconds:g}: make"
      " it in windows (--windows, or generate(windows=InWindows()))"
    )


def override(
  stage: Stage, *, steps: int | None, cfg_scale: float | None, windows: InWindows | None = None
) -> Sampling:
  """The stage's sampling with what the caller asked for in place of its own."""
  sampling = stage.sampling
  if steps is not None:
    own = sampling.time_steps
    grid = own if isinstance(own, UniformLogSnrSteps) else UniformLogSnrSteps(count=steps)
    grid = grid.of(steps)
    sampling = dataclasses.replace(sampling, sampler=DPMSolverPP2M(), time_steps=grid)
  if cfg_scale is not None and stage.text is not None:
    sampling = sampling.guided(cfg_scale)
  if windows is not None:
    sampling = dataclasses.replace(sampling, windows=windows)
  return sampling


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
  if seed is None or seed == -1:
    seed = secrets.randbelow(2**31)
  if isinstance(seed, int):
    check_request(["-"], seed=seed)
    return [seed + index for index in range(count)]
  if len(seed) != count:
    raise UserError(f"{count} prompts need one seed or {count} of them, got {len(seed)}")
  return list(seed)
