"""The seqio side gives the batches of the numpy side, byte for byte, on one shard or several."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from tiny_clips import RATE, ramp, write_clips, write_set

pytest.importorskip("tensorflow", reason="the extra `tf` is not installed")
import seqio

from data_pipelines.datasets.clips import build_shards
from data_pipelines.embeddings import EmbeddingWriter, TextEmbeddings
from data_pipelines.feature_converters import BatchFeatureConverter
from data_pipelines.features import TokenizerVocabulary, task_feature_lengths
from data_pipelines.index_batches import IndexBatches
from data_pipelines.manifest import write_manifest
from data_pipelines.mixtures import add_mixture
from data_pipelines.sources import ManifestSource, Mixture, ShardSource
from data_pipelines.tasks import SeqioBatches, add_task, open_manifest, open_shards
from data_pipelines.text_batches import TextBatch
from noise2music.batch import BatchSpec, clip_id
from noise2music.errors import UserError
from noise2music.text.tokenizer import ByteTokenizer

SPEC = BatchSpec(batch_size=4, seconds=0.2, sample_rate_hz=RATE, token_length=12)
COMMON = {"tokenizer": ByteTokenizer(), "sample_rate_hz": RATE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Ten clips, some shorter than a snippet and some without a caption, and two for testing."""
  folder = tmp_path_factory.mktemp("clips")
  clips = write_clips(folder, count=10) + write_clips(folder, count=2, first=10, split="test")
  write_manifest(folder / "manifest.jsonl", clips)
  return folder


@pytest.fixture
def task(folder):
  yield add_task(
    "clips", open_source=functools.partial(open_manifest, folder), splits=("train", "test"),
    **COMMON,
  )  # fmt: skip
  seqio.TaskRegistry.remove("clips")


def take(batches, count, start=0):
  iterator = batches.batches(start)
  got = [next(iterator) for _ in range(count)]
  iterator.close()
  return got


def assert_same(a: list[dict], b: list[dict]) -> None:
  assert len(a) == len(b)
  for left, right in zip(a, b, strict=True):
    assert left.keys() == right.keys()
    for name in left:
      assert left[name].dtype == right[name].dtype
      assert left[name].shape == right[name].shape
      assert left[name].tobytes() == right[name].tobytes(), name


def numpy_side(source, **changes) -> IndexBatches:
  return IndexBatches(source=source, spec=SPEC, tokenizer=ByteTokenizer(), **changes)


@pytest.mark.parametrize("seed", [0, 5])
def test_task_gives_the_batches_of_the_index_source(folder, task, seed):
  ours = take(numpy_side(ManifestSource(folder, split="train"), seed=seed), 6)
  assert_same(take(SeqioBatches(mixture_or_task="clips", spec=SPEC, seed=seed), 6), ours)
  lengths = np.concatenate([batch["audio_length"] for batch in ours])
  assert lengths.min() < SPEC.samples == lengths.max()
  masks = np.concatenate([batch["token_mask"] for batch in ours])
  assert not masks.any(axis=1).all()


def test_embeddings_are_the_same_through_both(folder, task, tmp_path):
  source = ManifestSource(folder, split="train")
  texts = dict.fromkeys(text for members in numpy_side(source).texts() for text in members)
  made_with = {
    "encoder": {"weights": 1},
    "tokenizer": ByteTokenizer().fingerprint(),
    "token_length": SPEC.token_length,
    "width": 3,
  }
  with EmbeddingWriter(tmp_path / "store", made_with=made_with) as writer:
    sizes = [min(len(text) + 1, SPEC.token_length) for text in texts]
    writer.add(texts, [np.random.default_rng(k).normal(size=(n, 3)) for k, n in enumerate(sizes)])
  ahead = {
    "spec": dataclasses.replace(SPEC, text_width=3),
    "embeddings": TextEmbeddings(path=tmp_path / "store"),
  }
  seqio_side = SeqioBatches(mixture_or_task=task, **ahead)
  ours = IndexBatches(source=source, tokenizer=ByteTokenizer(), **ahead)
  assert_same(take(seqio_side, 4), take(ours, 4))
  assert seqio_side.fingerprint().items() <= ours.fingerprint().items()
  assert SeqioBatches(mixture_or_task=task, spec=SPEC).fingerprint() is None
  with pytest.raises(UserError, match="needs embeddings"):
    SeqioBatches(mixture_or_task=task, spec=ahead["spec"])


def test_two_shards_give_what_two_hosts_give(folder, task):
  for host in range(2):
    share = {"host_index": host, "host_count": 2}
    assert_same(
      take(SeqioBatches(mixture_or_task=task, spec=SPEC, **share), 4),
      take(numpy_side(ManifestSource(folder, split="train"), **share), 4),
    )


def test_restart_at_step_k(task):
  batches = SeqioBatches(mixture_or_task="clips", spec=SPEC)
  assert_same(take(batches, 2, start=3), take(batches, 5)[3:])


def test_shards_on_disk_give_the_same_through_both(folder, tmp_path):
  shards = build_shards(folder, tmp_path, shards=3)
  try:
    add_task("from_shards", open_source=functools.partial(open_shards, str(shards)),
             splits=("train",), **COMMON)  # fmt: skip
    assert_same(
      take(SeqioBatches(mixture_or_task="from_shards", spec=SPEC), 4),
      take(numpy_side(ShardSource(shards)), 4),
    )
  finally:
    seqio.TaskRegistry.remove("from_shards")


def test_mixture_gives_the_batches_of_a_mixture(folder, task, tmp_path):
  write_set(tmp_path, count=4, first=50)
  add_task("other", open_source=functools.partial(open_manifest, tmp_path), splits=("train",),
           **COMMON)  # fmt: skip
  one, two = ManifestSource(folder, split="train"), ManifestSource(tmp_path, split="train")
  try:
    for name, tasks, weights in (
      ("weighted", [("clips", 3.0), ("other", 1.0)], (3.0, 1.0)),
      ("by_size", ["clips", "other"], None),
    ):
      add_mixture(name, tasks)
      source = Mixture(sources=(one, two), weights=weights)
      share = {"host_index": 1, "host_count": 2} if weights else {}
      assert_same(
        take(SeqioBatches(mixture_or_task=name, spec=SPEC, **share), 3),
        take(numpy_side(source, **share), 3),
      )
  finally:
    seqio.TaskRegistry.remove("other")
    seqio.MixtureRegistry.remove("weighted")
    seqio.MixtureRegistry.remove("by_size")


def test_tasks_that_prepare_differently_are_not_mixed(folder, task):
  add_task("joined", open_source=functools.partial(open_manifest, folder), splits=("train",),
           text_batch=TextBatch(separator="; "), **COMMON)  # fmt: skip
  try:
    mixture = add_mixture("uneven", ["clips", "joined"])
    with pytest.raises(UserError, match="prepare their examples in different ways"):
      mixture.get_dataset(task_feature_lengths(SPEC))
  finally:
    seqio.TaskRegistry.remove("joined")
    seqio.MixtureRegistry.remove("uneven")


@pytest.mark.parametrize("shards", [1, 2])
def test_plain_seqio_sees_exact_epochs(task, shards):
  def ids(num_epochs):
    got = []
    for i in range(shards):
      dataset = seqio.get_dataset(
        "clips",
        task_feature_lengths(SPEC),
        BatchFeatureConverter(),
        shuffle=True,
        num_epochs=num_epochs,
        shard_info=seqio.ShardInfo(i, shards),
        seed=1,
        verbose=False,
      )
      got.append([tuple(row["clip_id"]) for row in dataset.as_numpy_iterator()])
    return got, sorted(itertools.chain.from_iterable(got))

  everyone = sorted(tuple(clip_id(f"clip-{i}")) for i in range(10))
  once, clips_once = ids(1)
  assert clips_once == everyone
  twice, clips_twice = ids(2)
  assert clips_twice == sorted(everyone * 2)
  assert [rows[: len(had)] for rows, had in zip(twice, once, strict=True)] == once
  if shards == 1:
    assert twice[0][:10] != twice[0][10:]


def test_without_shuffle_and_length_whole_clips_in_their_order(task):
  rows = list(
    task.get_dataset(
      {"tokens": 12}, split="test", shuffle=False, trim_output_features=False
    ).as_numpy_iterator()
  )
  assert [row["id"] for row in rows] == [b"clip-10", b"clip-11"]
  for number, row in zip((10, 11), rows, strict=True):
    np.testing.assert_array_equal(row["audio"], ramp(number, 1_000 + 100 * number))


def test_seqio_is_told_to_leave_the_order_alone(task):
  assert task.source.supports_arbitrary_sharding
  assert task.source.performs_internal_shuffling
  assert not task.source.caching_permitted
  assert task.num_input_examples("train") == 10
  with pytest.raises(UserError, match="leave use_cached"):
    task.get_dataset(task_feature_lengths(SPEC), use_cached=True)
  with pytest.raises(UserError, match="token"):
    task.get_dataset(None)
  with pytest.raises(UserError, match="no split 'valid'"):
    task.get_dataset(task_feature_lengths(SPEC), split="valid")


def test_registering_reads_no_file():
  try:
    add_task("nowhere", open_source=functools.partial(open_shards, "/no/such/folder"),
             splits=("train",), **COMMON)  # fmt: skip
    with pytest.raises(UserError, match="no data set"):
      take(SeqioBatches(mixture_or_task="nowhere", spec=SPEC), 1)
  finally:
    seqio.TaskRegistry.remove("nowhere")


def test_a_task_of_another_kind_has_no_position():
  task = seqio.Task(
    "foreign", source=seqio.TextLineDataSource({"train": "x"}), output_features={}, preprocessors=[]
  )
  with pytest.raises(UserError, match="add_task"):
    SeqioBatches(mixture_or_task=task, spec=SPEC)


def test_vocabulary_speaks_for_the_tokenizer():
  vocabulary = TokenizerVocabulary(ByteTokenizer())
  assert vocabulary.vocab_size == 384
  assert vocabulary.encode("hé") == ByteTokenizer().encode("hé")
  assert vocabulary.encode_tf("hé").numpy().tolist() == ByteTokenizer().encode("hé")
  assert vocabulary.decode([*ByteTokenizer().encode("hé"), 1, 9]) == "hé"
  rows = np.array([[*ByteTokenizer().encode("ab"), 1, 7], ByteTokenizer().encode("cdef")])
  assert vocabulary.decode_tf(rows).numpy().tolist() == [b"ab", b"cdef"]
  assert vocabulary == TokenizerVocabulary(ByteTokenizer())
  assert vocabulary != seqio.ByteVocabulary()
