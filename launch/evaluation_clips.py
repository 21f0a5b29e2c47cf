"""The prompts of an evaluation, real clips beside them, and the clips that are made for them."""

import collections
import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data_pipelines.manifest import Clip, manifest_path, read_manifest
from noise2music.audio.wav_io import probe, write_audio
from noise2music.checkpoints import leaves
from noise2music.errors import UserError
from noise2music.evaluation.embeddings import File
from noise2music.evaluation.protocols import Protocol
from noise2music.evaluation.suite import Clips, audio_files
from noise2music.evaluation.sweeps import Variant
from noise2music.pipeline import Pipeline, override
from noise2music.stages.spec import Sampling

TRAIN = "train"
HELD_OUT, ALL = "held_out", "all"
LABEL = "label:"  # sources of captions that an encoder chose


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompted:
  """What to generate. truth: the real clip, where there is one."""

  id: str
  text: str
  truth: Path | None = None


def read_prompts(
  path: str, *, protocol: Protocol, split: str, clips: int | None, seed: int
) -> list[Prompted]:
  """Sorted by id. Of a text file, a prompt a line; or of a manifest, by the protocol.

  split: of the manifest's clips; "held_out": all that do not train, "all". clips: so many of them,
  drawn by their ids. Raises UserError where there are fewer than two.
  """
  where = Path(path)
  found = list(_of_lines(where) if where.suffix == ".txt" else _of_manifest(where, protocol, split))
  if len(found) < 2:
    raise UserError(
      f"{path} holds {len(found)} prompts of the split {split!r} for the protocol {protocol.name}:"
      " give at least 2"
    )
  names = collections.Counter(p.id for p in found)
  if len(names) < len(found):
    raise UserError(f"{path} names the clip {names.most_common(1)[0][0]} twice: rename one")
  if clips is not None:
    found = sorted(found, key=lambda p: seed_of(seed, p.id))[:clips]
  return sorted(found, key=lambda p: p.id)


def _of_lines(path: Path) -> Iterable[Prompted]:
  try:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
  except OSError as error:
    raise UserError(
      f"cannot read the prompts in {path} ({error.strerror}): check the path"
    ) from error
  except UnicodeDecodeError as error:
    raise UserError(f"{path} is no UTF-8 ({error.reason}): save it as UTF-8") from error
  for number, line in enumerate(lines):
    if line.strip():
      yield Prompted(id=f"{number:05d}", text=line.strip())


def _of_manifest(path: Path, protocol: Protocol, split: str) -> Iterable[Prompted]:
  manifest = manifest_path(path)
  for clip in _of_split(read_manifest(manifest), split):
    text = _prompt(clip, protocol)
    if text is not None:
      yield Prompted(id=clip.id, text=text, truth=clip.audio_path(manifest.parent))


def _prompt(clip: Clip, protocol: Protocol) -> str | None:
  """What an encoder chose says what it hears, not what the clip is."""
  return protocol.prompt((c.kind, c.text) for c in clip.captions if not c.source.startswith(LABEL))


def _of_split(clips: Iterable[Clip], split: str) -> list[Clip]:
  clips = list(clips)
  if split == ALL:
    return clips
  if split != HELD_OUT:
    return [clip for clip in clips if clip.split == split]
  held_out = [clip for clip in clips if clip.split != TRAIN]
  return held_out or clips  # a set without splits, or one that is only called so


def reference_clips(path: str, *, split: str = ALL, protocol: Protocol | None = None) -> Clips:
  """Of a manifest, with its texts where a protocol says which; or of a folder of audio files."""
  where = Path(path)
  if where.suffix == ".jsonl" or (where / "manifest.jsonl").is_file():
    manifest = manifest_path(where)
    clips = _of_split(read_manifest(manifest), split)
    files = [File(id=clip.id, path=str(clip.audio_path(manifest.parent))) for clip in clips]
    texts = {clip.id: _prompt(clip, protocol) for clip in clips} if protocol else {}
    return Clips(
      name=manifest.parent.resolve().name,
      files=files,
      texts={name: text for name, text in texts.items() if text is not None},
    )
  return Clips(name=where.resolve().name, files=audio_files(where))


def trained_files(manifest: str) -> list[File]:
  """The clips of the split that trains."""
  path = manifest_path(manifest)
  clips = (clip for clip in read_manifest(path) if clip.split in (None, "", TRAIN))
  return [File(id=clip.id, path=str(clip.audio_path(path.parent))) for clip in clips]


def label_encoders(manifests: Iterable[str]) -> frozenset[str]:
  """Fingerprints of the encoders that gave clips their labels."""
  return frozenset(
    caption.extra["encoder"]
    for path in manifests
    for clip in read_manifest(manifest_path(path))
    for caption in clip.captions
    if "encoder" in caption.extra
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
  """Where the clips of one variant lie. sampling: of each stage."""

  variant: Variant
  folder: Path
  sampling: dict[str, Sampling]

  @classmethod
  def of(
    cls, variant: Variant, pipeline: Pipeline, *, out: Path, duration: float | None, seed: int,
    batch_size: int,
  ) -> "Generation":  # fmt: skip
    """Its folder is named by all that a clip hangs on but its prompt, which names the file."""
    sampling = samplings(pipeline, variant)
    weights = [f"{leaves.fingerprint(params):08x}" for params in pipeline.params]
    stages = [
      dataclasses.replace(stage, sampling=sampling[stage.name]) for stage in pipeline.cascade.stages
    ]
    made_with = (weights, stages, duration, seed, batch_size)
    digest = hashlib.sha256(repr(made_with).encode()).hexdigest()[:10]
    return cls(variant=variant, folder=out / f"{variant.name}-{digest}", sampling=sampling)

  def path(self, prompted: Prompted) -> Path:
    name = re.sub(r"[^\w.@-]", "_", prompted.id).lstrip(".")[:50]
    digest = hashlib.sha256(f"{prompted.id}\n{prompted.text}".encode()).hexdigest()[:8]
    return self.folder / f"{name}-{digest}.flac"

  def clips(self, prompts: Sequence[Prompted]) -> Clips:
    """As they are scored."""
    return Clips(
      name=self.variant.name,
      files=[File(id=p.id, path=str(self.path(p))) for p in prompts],
      texts={p.id: p.text for p in prompts},
    )

  def has(self, prompted: Prompted) -> bool:
    """Whether the clip was finished: what was killed while it was written is not there at all."""
    path = self.path(prompted)
    try:
      return path.is_file() and probe(path).frames > 0
    except UserError:
      return False

  def make(
    self,
    pipeline: Pipeline,
    prompts: Sequence[Prompted],
    *,
    duration: float | None,
    seed: int,
    batch_size: int,
    host: tuple[int, int],
    say: Callable[[str], None],
  ) -> None:
    """Makes what is missing of this host's part. host: (index, count).

    A clip's seed hangs on its id, and batches are filled up, so it is the same whoever makes it.
    """
    self.folder.mkdir(parents=True, exist_ok=True)
    batches = [prompts[k : k + batch_size] for k in range(0, len(prompts), batch_size)]
    waiting = [
      batch for batch in batches[host[0] :: host[1]] if not all(self.has(p) for p in batch)
    ]
    total = sum(map(len, waiting))
    progress = Progress(f"generating {self.variant.name}", total=total, say=say)
    for batch in waiting:
      filled = [*batch, *[batch[-1]] * (batch_size - len(batch))]
      music = pipeline.generate(
        [p.text for p in filled],
        duration=duration,
        seed=[seed_of(seed, p.id) for p in filled],
        batch_size=batch_size,
        sampling=self.sampling,
      )
      for prompted, audio in zip(batch, music.audio[: len(batch)], strict=True):
        write_audio(self.path(prompted), audio, sample_rate_hz=music.sample_rate_hz)
      progress(len(batch))

  def wait(
    self, prompts: Sequence[Prompted], *, minutes: float, say: Callable[[str], None]
  ) -> None:
    """Until other hosts have made their parts. Raises UserError where none of it comes for long."""
    missing, since = None, time.monotonic()
    while left := sum(not self.has(p) for p in prompts):
      if left != missing:
        missing, since = left, time.monotonic()
        say(f"waiting for {left} clips of other hosts in {self.folder}")
      elif time.monotonic() - since > 60 * minutes:
        raise UserError(
          f"{left} clips of other hosts did not come for {minutes:g} minutes: give each of them the"
          " same command, or this one with HOST_COUNT=1"
        )
      time.sleep(2)


def samplings(pipeline: Pipeline, variant: Variant) -> dict[str, Sampling]:
  """Of each stage, in this variant.

  Raises UserError where it names a stage that is not there, or guides one that hears no text.
  """
  stages = {stage.name: stage for stage in pipeline.sampled_by(variant.sampling)}
  if variant.stage is not None and variant.stage not in stages:
    raise UserError(f"the sweep names the stage {variant.stage}: use one of {', '.join(stages)}")
  changed = [stage for name, stage in stages.items() if variant.stage in (None, name)]
  if variant.cfg_scale is not None and all(stage.text is None for stage in changed):
    raise UserError(
      f"{', '.join(stage.name for stage in changed)} hears no text to be guided by: let the sweep"
      " name another stage"
    )
  out = {name: stage.sampling for name, stage in stages.items()}
  for stage in changed:
    own = override(stage, steps=variant.steps, cfg_scale=variant.cfg_scale)
    if variant.time_steps is not None:
      own = dataclasses.replace(own, time_steps=variant.time_steps)
    stage.check_sampling(own)
    out[stage.name] = own
  return out


def seed_of(seed: int, name: str) -> int:
  """Below 2^31, of a clip by its id."""
  digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
  return int.from_bytes(digest[:4], "big") >> 1


class Progress:
  """A line every ten seconds, with an honest time to go where the total is known."""

  def __init__(self, what: str, *, total: int = 0, say: Callable[[str], None]):
    self._what, self._total, self._say = what, total, say
    self._done, self._began = 0, time.monotonic()
    self._last = self._began

  def __call__(self, clips: int) -> None:
    self._done += clips
    now = time.monotonic()
    if not clips or (now - self._last < 10 and self._done != self._total):
      return
    self._last = now
    of, to_go = "", ""
    if self._total:
      left = (self._total - self._done) * (now - self._began) / self._done
      of, to_go = f" of {self._total}", f", {left / 60:.1f} min to go"
    self._say(f"{self._what}: {self._done}{of} clips{to_go}")
