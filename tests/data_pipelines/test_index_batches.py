"""Batches from an index source: their contents, order, sharing, restart, crops and failures."""

import dataclasses
import json
import threading
import time

import numpy as np
import pytest
import soundfile
from tiny_clips import RATE, ramp, write_clips, write_set, write_wav

from data_pipelines.index_batches import DataError, Examples, IndexBatches, read_ahead
from data_pipelines.manifest import Caption, Clip, write_manifest
from data_pipelines.sources import ManifestSource, Mixture
from data_pipelines.text_batches import TextBatch
from noise2music.batch import BatchSpec, clip_id
from noise2music.errors import UserError
from noise2music.text.tokenizer import ByteTokenizer

SPEC = BatchSpec(batch_size=4, seconds=0.1, sample_rate_hz=RATE, token_length=16)


def batches_of(folder, **changes) -> IndexBatches:
  values = {"spec": SPEC, "tokenizer": ByteTokenizer()}
  if folder is not None:
    values["source"] = ManifestSource(folder)
  return IndexBatches(**{**values, **changes})


def take(batches: IndexBatches, count: int, start: int = 0) -> list[dict]:
  iterator = batches.batches(start)
  got = [next(iterator) for _ in range(count)]
  iterator.close()
  return got


def assert_same(a: dict, b: dict) -> None:
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return write_set(tmp_path_factory.mktemp("clips"), count=10)


def test_batch_is_what_the_contract_says(folder):
  for batch in take(batches_of(folder), 3):
    SPEC.check(batch)


def test_rows_hold_the_clip_they_name(folder):
  batch = batches_of(folder).batch(0)
  numbers = {tuple(clip_id(f"clip-{i}")): i for i in range(10)}
  for row in range(4):
    i = numbers[tuple(batch["clip_id"][row])]
    audio = batch["audio"][row]
    whole = ramp(i, 1_000 + 100 * i)
    windows = np.lib.stride_tricks.sliding_window_view(whole, SPEC.samples)
    assert (windows == audio).all(axis=1).any()
    text = ByteTokenizer().decode(batch["tokens"][row].tolist())
    assert batch["token_mask"][row].any() == (i % 4 > 0)
    if i % 4:
      assert text in {f"short {i}", *(f"long {i} {j}" for j in range(i % 4))}


def test_an_epoch_holds_each_clip_once(folder):
  batches = batches_of(folder, spec=dataclasses.replace(SPEC, batch_size=5))
  for epoch in range(3):
    got = np.concatenate([batches.batch(2 * epoch + s)["clip_id"] for s in range(2)])
    assert {tuple(row) for row in got} == {tuple(clip_id(f"clip-{i}")) for i in range(10)}
  assert batches.steps_per_epoch == 2


def test_restart_at_step_k_gives_the_kth_batch(folder):
  walked = take(batches_of(folder), 6)
  for k in (0, 3, 5):
    assert_same(take(batches_of(folder), 1, start=k)[0], walked[k])
  assert_same(batches_of(folder, prefetch=0).batch(4), walked[4])
  with pytest.raises(AssertionError):
    assert_same(walked[0], walked[1])


def test_hosts_batches_together_are_the_batch_of_one_host(folder):
  alone = take(batches_of(folder), 3)
  for hosts in (2, 4):
    shares = [take(batches_of(folder).for_host(i, hosts), 3) for i in range(hosts)]
    for step in range(3):
      together = {
        name: np.concatenate([share[step][name] for share in shares]) for name in alone[step]
      }
      assert_same(together, alone[step])
  assert batches_of(folder, host_count=2).local_spec.batch_size == 2


def test_crops_change_from_epoch_to_epoch_and_with_the_seed_only(folder):
  def start_of(clip, epoch, **changes):
    batches = batches_of(folder, spec=dataclasses.replace(SPEC, batch_size=10), **changes)
    batch = batches.batch(epoch)
    row = [tuple(r) for r in batch["clip_id"]].index(tuple(clip_id(f"clip-{clip}")))
    return int(batch["audio"][row, 0])

  assert start_of(5, 0) == start_of(5, 0)
  assert len({start_of(5, epoch) for epoch in range(4)}) > 1
  assert len({start_of(5, 0, seed=seed) for seed in range(4)}) > 1
  assert {start_of(5, epoch, random_crop=False) for epoch in range(4)} == {ramp(5, 1)[0]}


def test_a_short_clip_is_padded_and_says_so(tmp_path):
  write_set(tmp_path, count=1, samples=300)
  batch = batches_of(tmp_path, spec=dataclasses.replace(SPEC, batch_size=1)).batch(0)
  assert batch["audio_length"].tolist() == [300]
  np.testing.assert_array_equal(batch["audio"][0, :300], ramp(0, 300))
  assert not batch["audio"][0, 300:].any()


def test_mixture_draws_by_weight(tmp_path):
  one = ManifestSource(write_set(tmp_path / "one", count=3))
  two = ManifestSource(write_set(tmp_path / "two", count=5, first=100))
  batches = batches_of(None, source=Mixture(sources=(one, two), weights=(3, 1)))
  ours = {tuple(clip_id(f"clip-{i}")) for i in range(3)}
  for step in range(5):
    rows = [tuple(row) in ours for row in batches.batch(step)["clip_id"]]
    assert sum(rows) == 3


def test_one_bad_file_costs_that_file_only(tmp_path):
  write_set(tmp_path, count=10)
  reference = take(batches_of(tmp_path), 5)
  bad = tuple(clip_id("clip-3"))
  (tmp_path / "3.wav").write_bytes(b"RIFF not a wave file")
  report = tmp_path / "bad.jsonl"
  batches = batches_of(tmp_path, bad_records_path=report)
  for before, after in zip(reference, take(batches, 5), strict=True):
    for row in range(4):
      was = tuple(before["clip_id"][row])
      now = tuple(after["clip_id"][row])
      assert now != bad
      if was != bad:
        assert now == was
        np.testing.assert_array_equal(after["audio"][row], before["audio"][row])
  assert list(batches.examples.bad_records.reasons) == ["clip-3"]
  lines = [json.loads(line) for line in report.read_text().splitlines()]
  assert [line["id"] for line in lines] == ["clip-3"]
  for a, b in zip(take(batches, 5), take(batches_of(tmp_path), 5), strict=True):
    assert_same(a, b)


@pytest.mark.parametrize("change", ["missing", "truncated", "other rate", "empty"])
def test_what_a_bad_file_is_called(tmp_path, change):
  write_set(tmp_path, count=9)
  path = tmp_path / "2.wav"
  if change == "missing":
    path.unlink()
  elif change == "truncated":
    path.write_bytes(path.read_bytes()[:20])
  elif change == "other rate":
    write_wav(path, ramp(2, 2_000), rate=RATE * 2)
  else:
    write_wav(path, ramp(2, 0))
  batches = batches_of(tmp_path)
  take(batches, 9)
  assert list(batches.examples.bad_records.reasons) == ["clip-2"]


def test_too_many_bad_files_end_the_run(tmp_path):
  write_set(tmp_path, count=30)
  for i in range(0, 30, 2):
    (tmp_path / f"{i}.wav").write_bytes(b"")
  with pytest.raises(DataError, match=r"9 clips cannot be read.*clip-\d+.*max_bad_fraction"):
    take(batches_of(tmp_path), 20)
  tolerant = batches_of(tmp_path, max_bad_fraction=0.6)
  assert len(take(tolerant, 20)) == 20


def test_nothing_but_bad_files(tmp_path):
  write_set(tmp_path, count=3)
  for i in range(3):
    (tmp_path / f"{i}.wav").write_bytes(b"")
  with pytest.raises(DataError, match="in a row"):
    take(batches_of(tmp_path), 1)


def test_errors_in_the_thread_reach_the_consumer_with_the_clip(folder):
  class Broken(ByteTokenizer):
    def encode(self, text, *, limit=None):
      raise TypeError("no such alphabet")

  with pytest.raises(RuntimeError, match=r"clip clip-\d+ .*no such alphabet"):
    take(batches_of(folder, tokenizer=Broken()), 3)


@pytest.mark.parametrize("ending", ["close", "drop", "error"])
def test_the_thread_ends_with_its_consumer(ending):
  made = []

  def items():
    for i in range(1_000_000):
      made.append(i)
      yield i

  before = threading.active_count()
  iterator = read_ahead(items(), depth=2)
  assert next(iterator) == 0
  assert threading.active_count() == before + 1
  if ending == "close":
    iterator.close()
  elif ending == "drop":
    del iterator
  else:
    with pytest.raises(ZeroDivisionError):
      iterator.throw(ZeroDivisionError())
  assert threading.active_count() == before
  assert len(made) < 10


def test_read_ahead_reads_ahead_and_no_further():
  made = []
  iterator = read_ahead((made.append(i) or i for i in range(100)), depth=3)
  assert next(iterator) == 0
  deadline = time.monotonic() + 5
  while len(made) < 5 and time.monotonic() < deadline:
    time.sleep(0.001)
  assert len(made) == 5  # one given, three waiting, one in hand
  assert [next(iterator) for _ in range(99)] == list(range(1, 100))
  with pytest.raises(StopIteration):
    next(iterator)


@pytest.mark.parametrize(
  ("change", "says"),
  [
    ({"host_index": 2, "host_count": 2}, "count hosts from 0"),
    ({"host_count": 3}, "multiple of 3"),
    ({"prefetch": -1}, "prefetch"),
    ({"spec": dataclasses.replace(SPEC, sample_rate_hz=24_000)}, "n2m data cut"),
  ],
)
def test_refuses_what_it_cannot_honour(folder, change, says):
  with pytest.raises(UserError, match=says):
    batches_of(folder, **change)


class OtherBytes(ByteTokenizer):
  def fingerprint(self) -> str:
    return "others"


def test_fingerprint_tells_other_data_from_this(folder, tmp_path):
  here = batches_of(folder).fingerprint()
  assert json.loads(json.dumps(here)) == here
  assert batches_of(folder).fingerprint() == here
  others = [
    batches_of(folder, seed=1),
    batches_of(write_set(tmp_path, count=9)),
    batches_of(folder, text_batch=TextBatch(separator="; ")),
    batches_of(folder, spec=dataclasses.replace(SPEC, batch_size=2)),
    batches_of(folder, spec=dataclasses.replace(SPEC, token_length=SPEC.token_length + 1)),
    batches_of(folder, tokenizer=OtherBytes()),
  ]
  assert all(other.fingerprint() != here for other in others)


def test_examples_without_a_batch(folder):
  examples = Examples(
    source=ManifestSource(folder), samples=100, sample_rate_hz=RATE, shuffle=False
  )
  assert len(examples) == 10
  assert [examples.at(g).id for g in (0, 1, 10)] == ["clip-0", "clip-1", "clip-0"]
  assert examples.name(11) == "clip-1"


def hostile(folder):
  """Nine good clips among all that a stranger's folder may hold."""
  clips = write_clips(folder, count=9)
  t = np.arange(2_000) / RATE
  files = {
    "no sample": (np.zeros(0), RATE, "PCM_16"),
    "one sample": (np.full(1, 0.5), RATE, "PCM_16"),
    "not a number": (np.full(2_000, np.nan), RATE, "FLOAT"),
    "infinite": (np.full(2_000, np.inf), RATE, "FLOAT"),
    "huge": (np.full(2_000, 1e30), RATE, "FLOAT"),
    "another rate": (np.sin(t), 2 * RATE, "PCM_16"),
    "six channels": (np.stack([np.sin(t)] * 6, axis=1), RATE, "PCM_16"),
  }
  for name, (audio, rate, subtype) in files.items():
    soundfile.write(folder / f"{name}.wav", audio, rate, subtype=subtype)
    claim = max(len(audio), 1) / RATE
    clips.append(Clip(path=f"{name}.wav", duration=claim, sample_rate=RATE, id=name))
  long = Caption(text="waltz " * 170_000, kind="long")
  clips.append(dataclasses.replace(clips[0], id="long text", captions=(long,)))
  write_manifest(folder / "manifest.jsonl", clips)
  with (folder / "manifest.jsonl").open("ab") as out:
    out.write(b'{"path": "\xff\xfe.wav", "duration": 1.0, "sample_rate": 8000}\n')
  return folder


def test_whatever_a_folder_holds_the_device_gets_numbers(tmp_path):
  folder = hostile(tmp_path)
  with pytest.raises(UserError, match="the line is not UTF-8"):
    ManifestSource(folder)
  manifest = folder / "manifest.jsonl"
  manifest.write_bytes(manifest.read_bytes().rsplit(b"\n", 2)[0] + b"\n")
  batches = batches_of(folder, max_bad_fraction=0.9)
  seen = set()
  for batch in take(batches, 20):
    SPEC.check(batch)  # int16 and whole numbers throughout
    seen |= {tuple(row) for row in batch["clip_id"].tolist()}
  assert set(batches.examples.bad_records.reasons) == {
    "no sample", "not a number", "infinite", "another rate",
  }  # fmt: skip
  for name in ("one sample", "six channels", "huge", "long text"):
    assert tuple(clip_id(name).tolist()) in seen, name
