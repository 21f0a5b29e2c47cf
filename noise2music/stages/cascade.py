"""Stages in a row: each listens to the signal that an earlier one made."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np

from noise2music import typing as n2m
from noise2music.audio.recording import Recording
from noise2music.errors import UserError
from noise2music.sharding.rules import LogicalRules, replicated
from noise2music.stages.conditioning import Text
from noise2music.stages.edits import Blend, Blended, Edit, check_edits, edited_for
from noise2music.stages.generate import clip_keys, sample
from noise2music.stages.objective import TEXT_ENCODER, DenoisingObjective
from noise2music.stages.spec import Sampling, Stage


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Cascade:
  """The stages of one route, in the order in which they run.

  objectives: the stages, each with its text encoder. A stage's signals come from the nearest
  stage before it that makes just that representation.

  Raises ValueError, when built, where no earlier stage makes what a stage listens to.
  """

  objectives: tuple[DenoisingObjective, ...]

  def __post_init__(self):
    if not self.objectives:
      raise ValueError("a cascade needs at least one stage")
    names = [stage.name for stage in self.stages]
    if len(set(names)) < len(names):
      raise ValueError(f"the stages of a cascade need different names, got {names}")
    for index in range(len(self.stages)):
      self.sources(index)

  @classmethod
  def ordered(cls, objectives: Iterable[DenoisingObjective]) -> "Cascade":
    """The same stages in the order in which they feed one another.

    Raises UserError where a stage is missing, or where two would end the cascade.
    """
    waiting, row = list(objectives), []
    while waiting:
      made = [objective.stage.target for objective in row]
      ready = [
        objective
        for objective in waiting
        if all(c.source in made for c in objective.stage.signals.values())
      ]
      if not ready:
        stage = waiting[0].stage
        lacking = [str(c.source) for c in stage.signals.values() if c.source not in made]
        raise UserError(
          f"stage {stage.name} listens to {' and '.join(lacking)}, and no stage here makes that:"
          " train the one that does, and give the folder that holds both runs"
        )
      if len(ready) > 1:
        names = [objective.stage.name for objective in ready]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
          raise UserError(f"there are several runs of stage {twice} here: keep one in the folder")
        raise UserError(
          f"{' and '.join(names)} are of different routes: keep each route in its own folder"
        )
      row += ready
      waiting.remove(ready[0])
    return cls(objectives=tuple(row))

  @property
  def stages(self) -> tuple[Stage, ...]:
    return tuple(objective.stage for objective in self.objectives)

  def sources(self, index: int) -> dict[str, str]:
    """{condition: name of the earlier stage that makes it} of stage `index`."""
    found = {}
    for name, condition in self.stages[index].signals.items():
      makers = [s.name for s in self.stages[:index] if s.target == condition.source]
      if not makers:
        raise ValueError(
          f"stage {self.stages[index].name!r} listens to {condition.source}, and no stage before"
          f" it makes that; they make {[s.target for s in self.stages[:index]]}"
        )
      found[name] = makers[-1]
    return found

  def generate(
    self,
    params: Sequence[n2m.PyTree],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    seconds: float,
    batch_size: int = 4,
    negative_prompt: str | None = None,
    sampling: Mapping[str, Sampling] | None = None,
    blend: Blend | None = None,
    recording: Recording | None = None,
    edits: Sequence[Edit] = (),
    mesh: jax.sharding.Mesh | None = None,
    on_stage: Callable[[str, int, int], None] | None = None,
  ) -> dict[str, np.ndarray]:
    """One clip for each prompt and seed: {stage name: [clips, steps, channels] float32}.

    Stage by stage, each for all clips before the next, so that the weights of one are needed at a
    time.

    params: one tree a stage, as its objective's `init` returns. Of numpy arrays a stage's text
    encoder, then its network, are put onto the devices while they run, and freed before the next;
    arrays of jax stay where they are. seconds: of each clip, any length above zero. batch_size:
    clips that run at once; the last batch is filled up with copies, so a clip is bit for bit the
    same whatever else is asked for, as long as batch_size stays. sampling: stage name -> in place
    of the stage's own. blend: another prompt, for the stages with text. recording: what the edits
    work on, one clip for all or one for each; they apply to every stage alike. mesh: of
    `MeshShape`, among whose devices the clips of a batch are shared out, and along `sequence` the
    time of each; without one, a single device makes them all.
    on_stage: called with (stage name, first clip, clips in all) when a stage begins a batch.
    """
    if seconds <= 0:
      raise UserError(f"the duration must be longer than 0 seconds, got {seconds:g}")
    if len(seeds) != len(prompts):
      raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    check_edits(edits, recording=recording, blend=blend)
    samplings = self._samplings(sampling or {})
    guided = {name for name, chosen in samplings.items() if chosen.guidance_scale != 1}
    if negative_prompt is not None and not guided:
      raise UserError(
        "without guidance a negative prompt leads nowhere: ask for a guidance scale above 1, or"
        " leave the negative prompt out"
      )
    made: dict[str, np.ndarray] = {}
    for index, (objective, tree) in enumerate(zip(self.objectives, params, strict=True)):
      stage = objective.stage
      sources = {name: made[maker] for name, maker in self.sources(index).items()}
      steps = max(1, round(seconds * stage.target.rate_hz))
      batches = list(_batches(len(prompts), batch_size))
      texts = _embedded(
        objective,
        tree,
        [[prompts[row] for row in rows] for _, rows in batches],
        negative_prompt=negative_prompt if stage.name in guided else None,
        blend=blend,
        mesh=mesh,
      )
      parts = []
      with _on_device(tree["network"], mesh=mesh) as network:
        for (start, rows), (text, negative, other) in zip(batches, texts, strict=True):
          if on_stage is not None:
            on_stage(stage.name, start, len(prompts))
          keys = clip_keys(np.asarray(seeds)[rows], stage_name=stage.name)
          signals = {name: signal[rows] for name, signal in sources.items()}
          edited = edited_for(
            stage.target, edits, recording=_rows(recording, rows), steps=steps, seconds=seconds
          )
          batch = (keys, text, negative, other, signals)
          with _sharing(mesh, *batch) as (keys, text, negative, other, signals):
            signal = sample(
              stage,
              network,
              keys=keys,
              steps=steps,
              text=text,
              negative_text=negative,
              signals=signals,
              sampling=samplings[stage.name],
              blend=_blended(blend, other, seconds=seconds),
              edited=edited,
            )
          clips = min(batch_size, len(prompts) - start)
          parts.append(np.asarray(signal[:clips], np.float32))
      made[stage.name] = np.concatenate(parts)
    return made

  def _samplings(self, changed: Mapping[str, Sampling]) -> dict[str, Sampling]:
    """How each stage is sampled: as `changed` says, else in its own way."""
    own = {stage.name: stage.sampling for stage in self.stages}
    if unknown := changed.keys() - own.keys():
      raise ValueError(f"no stage is called {sorted(unknown)}")
    return {**own, **changed}


def _batches(clips: int, batch_size: int) -> Iterator[tuple[int, list[int]]]:
  """(first clip, rows) of batches of one size, the last filled up with its last clip."""
  if batch_size < 1:
    raise UserError(f"the batch size must be at least 1, got {batch_size}")
  for start in range(0, clips, batch_size):
    yield start, [min(start + offset, clips - 1) for offset in range(batch_size)]


@contextlib.contextmanager
def _on_device(tree: n2m.PyTree, *, mesh: jax.sharding.Mesh | None) -> Iterator[n2m.PyTree]:
  """The tree with its numpy arrays on the device, or whole on all of a mesh; freed at the end."""
  ours = []

  def put(leaf: n2m.Array) -> jax.Array:
    if not isinstance(leaf, np.ndarray):
      return leaf
    ours.append(jax.device_put(leaf, None if mesh is None else replicated(mesh)))
    return ours[-1]

  try:
    yield jax.tree.map(put, tree)
  finally:
    for leaf in ours:
      leaf.delete()


@contextlib.contextmanager
def _sharing(mesh: jax.sharding.Mesh | None, *batch: n2m.PyTree) -> Iterator[tuple]:
  """The batch, shared out among the devices of a mesh that is in force meanwhile."""
  if mesh is None:
    yield batch
    return
  rules = LogicalRules()
  with rules.activate(mesh):
    yield jax.device_put(batch, rules.batch_sharding(mesh))


def _embedded(
  objective: DenoisingObjective,
  params: n2m.PyTree,
  batches: Sequence[Sequence[str]],
  *,
  negative_prompt: str | None,
  blend: Blend | None,
  mesh: jax.sharding.Mesh | None,
) -> list[tuple[Text | None, Text | None, Text | None]]:
  """(prompts, negative prompts, the prompt that is blended in) of each batch, by an encoder that is
  then no longer needed."""
  others = (negative_prompt, blend and blend.prompt)
  with _on_device(params.get(TEXT_ENCODER), mesh=mesh) as encoder:
    embed = lambda texts: _embed(objective, encoder, texts)  # noqa: E731
    return [
      (embed(prompts), *(embed([other] * len(prompts)) for other in others)) for prompts in batches
    ]


def _rows(recording: Recording | None, rows: Sequence[int]) -> Recording | None:
  """The clips of a batch, copied where one is for all."""
  if recording is None:
    return None
  audio = recording.audio if len(recording.audio) > 1 else recording.audio[[0] * (max(rows) + 1)]
  return dataclasses.replace(recording, audio=audio[np.asarray(rows)])


def _blended(blend: Blend | None, text: Text | None, *, seconds: float) -> Blended | None:
  if blend is None or text is None:
    return None
  start, end = blend.weights
  return Blended(text=text, start=start, end=end, seconds=seconds)


def _embed(
  objective: DenoisingObjective, encoder: n2m.PyTree | None, prompts: Sequence[str | None]
) -> Text | None:
  """The prompts' embeddings; None where the stage takes no text or there is no prompt."""
  if objective.text_conditioner is None or prompts[0] is None:
    return None
  if encoder is None:
    raise UserError(
      f"stage {objective.stage.name} was trained on texts embedded ahead, so its parameters hold no"
      " text encoder: load it by Pipeline.from_pretrained, which adds the one its config names"
    )
  tokens, mask = objective.text_conditioner.tokenize(
    prompts, length=objective.stage.text.token_length
  )
  return objective.text_conditioner.text(encoder, tokens, mask, keep=np.ones(len(prompts), bool))
