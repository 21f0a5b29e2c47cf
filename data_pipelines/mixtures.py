"""seqio Mixtures of index Tasks, mixed by index.

seqio mixes by drawing from iterators, which has no position but the number of draws. Here the
sources of the Tasks become one `sources.Mixture`, whose g-th example is known for any g, and the
Tasks' common preprocessors follow.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from data_pipelines.seqio_source import IndexDataSource
from data_pipelines.sources import Mixture
from data_pipelines.tasks import IndexTask
from noise2music.errors import UserError


class IndexMixture(seqio.Mixture):
  """A Mixture of IndexTasks that differ in their sources only. Rates are relative weights."""

  def at(self, *, start_step: int, batch_size: int) -> IndexTask:
    """One Task over all sources, from the given step of batches of that size on."""
    return self.as_task().at(start_step=start_step, batch_size=batch_size)

  def as_task(self) -> IndexTask:
    """One Task over all sources. Raises UserError where the Tasks cannot be made one."""
    first, *others = self.tasks
    for task in self.tasks:
      if not isinstance(task, IndexTask):
        raise UserError(f"{task.name} is not read by index; register it with add_task")
    for task in others:
      if _settings(task) != _settings(first):
        raise UserError(
          f"{task.name} and {first.name} prepare their examples in different ways; give both the "
          "same tokenizer, text batch, sample rate and options to mix them"
        )
    self._check_compatible_features()
    return IndexTask(
      name=self.name,
      source=IndexDataSource(
        open_source=self._open,
        splits=self.splits,
        sample_rate_hz=first.source.sample_rate_hz,
        seed=first.source.seed,
        options=first.source.options,
      ),
      output_features=first.output_features,
      preprocessors=first.preprocessors,
      shuffle_buffer_size=None,
    )

  def num_input_examples(self, split: str) -> int:
    return self.as_task().num_input_examples(split)

  def get_dataset(
    self,
    sequence_length: Mapping[str, int] | None = None,
    split: str = "train",
    num_epochs: int | None = None,
    **arguments: Any,
  ) -> tf.data.Dataset:
    """As `seqio.Mixture.get_dataset`, for the arguments that `IndexTask.get_dataset` has."""
    return self.as_task().get_dataset(
      sequence_length=sequence_length, split=split, num_epochs=num_epochs, **arguments
    )

  def _open(self, split: str) -> Mixture:
    tasks = [task for task in self.tasks if split in task.splits]
    sources = tuple(task.source.open_source(split) for task in tasks)
    weights = tuple(
      len(source) if self.rate_per_task_name.get(task.name) is clip_count else self.get_rate(task)
      for task, source in zip(tasks, sources, strict=True)
    )
    return Mixture(sources=sources, weights=weights)


def clip_count(task: IndexTask) -> int:
  """The rate that draws every clip equally often; within a split its own clips are counted."""
  return sum(task.num_input_examples(split) for split in task.splits)


def add_mixture(
  name: str,
  tasks: Sequence[str | tuple[str, float]],
  *,
  default_rate: float | Callable = clip_count,
) -> IndexMixture:
  """Registers a Mixture of Tasks made by `add_task` and returns it.

  tasks: names, or (name, weight). default_rate: the weight of a bare name.
  """
  return seqio.MixtureRegistry.add(
    name, list(tasks), default_rate=default_rate, mixture_cls=IndexMixture
  )


def _settings(task: IndexTask) -> tuple:
  """What decides how a Task makes features of a source."""
  steps = [
    (step.func, step.args, step.keywords) if hasattr(step, "keywords") else step
    for step in task.preprocessors
  ]
  return steps, task.source.sample_rate_hz, task.source.seed, task.source.options
