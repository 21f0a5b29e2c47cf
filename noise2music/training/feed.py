"""The batches of a run as this host reads them: its rows, the first for its shapes, one by one."""

from collections.abc import Iterator

import jax

from noise2music.errors import UserError
from noise2music.typing import Batch, BatchSource


def of_this_host(batches: BatchSource) -> BatchSource:
  """The rows of the global batch that this host reads, where there are several hosts."""
  if jax.process_count() == 1:
    return batches
  if not hasattr(batches, "for_host"):
    raise UserError(
      f"{type(batches).__name__} cannot be split among {jax.process_count()} hosts: train on one,"
      " or give it for_host(index, count) as IndexBatches has"
    )
  return batches.for_host(jax.process_index(), jax.process_count())


def first_batch(batches: BatchSource) -> Batch:
  """For its shapes; silence where the source has a `local_spec`, so that nothing is read."""
  if hasattr(batches, "local_spec"):
    return batches.local_spec.zeros()
  iterator = batches.batches(0)
  try:
    return next_batch(iterator, 0)
  finally:
    close(iterator)


def next_batch(batches: Iterator[Batch], step: int) -> Batch:
  """Raises UserError where the data have ended."""
  try:
    return next(batches)
  except StopIteration:
    raise UserError(
      f"the data ended after {step} batches: let the source repeat, or lower total_steps"
    ) from None


def close(batches: Iterator[Batch]) -> None:
  """Stops a source's prefetch thread, where it is a generator that has one."""
  if hasattr(batches, "close"):
    batches.close()
