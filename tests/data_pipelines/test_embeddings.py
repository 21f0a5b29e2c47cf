"""The folder of text embeddings: found again by text, whatever killed its writer, or refused."""

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_clips import RATE, write_clips, write_set

from data_pipelines.embeddings import EmbeddingWriter, TextEmbeddings, caption_id
from data_pipelines.index_batches import IndexBatches
from data_pipelines.manifest import CannotWrite, write_manifest
from data_pipelines.sources import ManifestSource
from noise2music.batch import TEXT_EMBEDDING, BatchSpec
from noise2music.errors import UserError
from noise2music.text.tokenizer import ByteTokenizer

WIDTH, LENGTH = 4, 16
MADE_WITH = {
  "encoder": {"weights": 7, "layers": 2, "norm_epsilon": 1e-6},
  "tokenizer": "bytes",
  "token_length": LENGTH,
  "width": WIDTH,
}
TEXTS = [f"text {number}" for number in range(300)]  # enough that some ids end in a zero byte
SPEC = BatchSpec(
  batch_size=4, seconds=0.1, sample_rate_hz=RATE, token_length=LENGTH, text_width=WIDTH
)


def rows_of(text: str) -> np.ndarray:
  """As many rows as the text has tokens, of numbers that tell the text."""
  seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
  tokens = min(len(text) + 1, LENGTH)
  return np.random.default_rng(seed).standard_normal((tokens, WIDTH)).astype(np.float32)


def write(path: Path, texts: list[str], *, size: int = 7, **changes) -> Path:
  with EmbeddingWriter(path, made_with={**MADE_WITH, **changes}) as writer:
    for first in range(0, len(texts), size):
      part = [text for text in texts[first : first + size] if text not in writer.found]
      if part:
        writer.add(part, map(rows_of, part))
  return path


def assert_holds(path: Path, texts: list[str]) -> None:
  store = TextEmbeddings(path=path)
  assert len(store) == len(texts)
  for text, got in zip(texts, store.padded(texts), strict=True):
    want = rows_of(text).astype(np.float16)
    np.testing.assert_array_equal(got[: len(want)], want)
    assert not got[len(want) :].any(), "padding is zero"


def test_every_text_is_found_again(tmp_path):
  path = write(tmp_path / "store", TEXTS)
  assert_holds(path, TEXTS)
  store = TextEmbeddings(path=path)
  assert "text 301" not in store
  assert not store.padded([""]).any()
  real = sum(len(rows_of(text)) for text in TEXTS)
  assert (path / "rows.f16").stat().st_size == 2 * WIDTH * real, "no padding on the disk"


def test_a_text_has_one_name_on_every_machine():
  digest = hashlib.sha256("Ein Walzer für Flöte.".encode()).digest()[:16]
  assert bytes(caption_id("Ein Walzer für Flöte.")).ljust(16, b"\0") == digest


def test_a_folder_grows_and_stays_what_it_was_to_a_checkpoint(tmp_path):
  path = write(tmp_path / "store", TEXTS[:100])
  before = TextEmbeddings(path=path)
  write(path, TEXTS)
  assert_holds(path, TEXTS)
  assert before.fingerprint() == TextEmbeddings(path=path).fingerprint()
  np.testing.assert_array_equal(before.padded(TEXTS[:3])[2, :7], rows_of(TEXTS[2]).astype("<f2"))


@pytest.mark.parametrize(("rows", "entries"), [(0, 0), (50, 0), (1, 0), (0, 11), (40, 24 + 11)])
def test_whatever_is_left_of_the_last_write_is_readable_and_mended(tmp_path, rows, entries):
  """rows, entries: bytes of the last part that reached the disk; of rows all where entries did."""
  path = write(tmp_path / "store", TEXTS[:20])
  sizes = {name: (path / name).stat().st_size for name in ("rows.f16", "index.bin")}
  write(path, TEXTS[:22], size=22)
  if not entries:
    with open(path / "rows.f16", "ab") as file:
      file.truncate(sizes["rows.f16"] + rows)
  with open(path / "index.bin", "ab") as file:
    file.truncate(sizes["index.bin"] + entries)
  whole = 20 + entries // 24
  assert_holds(path, TEXTS[:whole])
  write(path, TEXTS[:40])
  assert_holds(path, TEXTS[:40])


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_embeddings as t
from data_pipelines import embeddings
append, calls = embeddings._append, []
def dying(file, array):
  calls.append(file)
  if len(calls) == 6:
    file.write(array.tobytes()[:30])
    os.kill(os.getpid(), signal.SIGKILL)
  append(file, array)
embeddings._append = dying
t.write(t.Path({path!r}), t.TEXTS[:30], size=10)
"""


def test_a_writer_killed_in_the_middle_is_gone_on_from(tmp_path):
  path = tmp_path / "store"
  code = KILLED.format(tests=str(Path(__file__).parent), path=str(path))
  root = Path(__file__).resolve().parents[2]
  assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == -signal.SIGKILL
  assert_holds(path, TEXTS[:21])
  write(path, TEXTS[:30])
  assert_holds(path, TEXTS[:30])


def test_a_copy_that_is_cut_off_is_refused_and_mended(tmp_path):
  path = write(tmp_path / "store", TEXTS[:20])
  with open(path / "rows.f16", "ab") as file:
    file.truncate(200)
  with pytest.raises(UserError, match=r"is cut off.*data embed"):
    TextEmbeddings(path=path)
  write(path, TEXTS[:20])
  assert_holds(path, TEXTS[:20])


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"encoder": {**MADE_WITH["encoder"], "weights": 8}},
      "made with another encoder: give another",
    ),
    ({"tokenizer": "sentencepiece"}, "another tokenizer"),
    ({"token_length": 8, "width": 2}, "another token_length and width"),
  ],
)
def test_a_folder_of_another_kind_is_refused_and_left_alone(tmp_path, changes, message):
  path = write(tmp_path / "store", TEXTS[:20])
  with pytest.raises(UserError, match=message):
    write(path, TEXTS, **changes)
  assert_holds(path, TEXTS[:20])


def test_places_that_cannot_be_written(tmp_path):
  (tmp_path / "file").touch()
  with pytest.raises(CannotWrite, match=r"cannot write .*choose another"):
    write(tmp_path / "file" / "store", TEXTS)
  with pytest.raises(UserError, match="holds other files"):
    write(tmp_path, TEXTS)
  with (
    EmbeddingWriter(tmp_path / "store", made_with=MADE_WITH),
    pytest.raises(UserError, match="another process is embedding"),
  ):
    write(tmp_path / "store", TEXTS)


def test_a_full_disk_loses_nothing_that_was_finished(small_disk, tmp_path):
  ballast = small_disk / "ballast"
  ballast.write_bytes(bytes(2_000_000))
  with pytest.raises(CannotWrite, match=r"is full.*run the same command again"):
    write(small_disk / "store", [f"some long text {number}" for number in range(20_000)])
  kept = len(TextEmbeddings(path=small_disk / "store"))
  assert kept > 0
  ballast.unlink()
  write(small_disk / "store", TEXTS)
  assert len(TextEmbeddings(path=small_disk / "store")) == kept + len(TEXTS)


def test_what_float16_cannot_hold_is_refused(tmp_path):
  with (
    EmbeddingWriter(tmp_path / "store", made_with=MADE_WITH) as writer,
    pytest.raises(UserError, match="not finite in float16"),
  ):
    writer.add(["loud"], [np.full((3, WIDTH), 1e5, np.float32)])


def test_folders_without_embeddings(tmp_path):
  with pytest.raises(UserError, match=r"no text embeddings in .*none; make them"):
    TextEmbeddings(path=tmp_path / "none")
  path = write(tmp_path / "store", TEXTS[:5])
  manifest = json.loads((path / "manifest.json").read_text())
  (path / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
  with pytest.raises(UserError, match="format 99"):
    TextEmbeddings(path=path)
  (path / "manifest.json").write_text("{")
  with pytest.raises(UserError, match="damaged"):
    TextEmbeddings(path=path)


@pytest.fixture
def clips(tmp_path) -> Path:
  return write_set(tmp_path / "clips", count=10)


def batches_of(folder: Path, store: TextEmbeddings | None, **changes) -> IndexBatches:
  settings = {"spec": SPEC, "tokenizer": ByteTokenizer(), **changes}
  return IndexBatches(source=ManifestSource(folder), embeddings=store, **settings)


def embedded(clips: Path) -> Path:
  """The folder of all texts that the clips may be trained with."""
  plain = batches_of(clips, None, spec=dataclasses.replace(SPEC, text_width=0))
  texts = list(dict.fromkeys(text for members in plain.texts() for text in members))
  assert "long 3 1" in texts
  assert "short 5" in texts
  return write(clips.parent / "store", texts)


def test_a_batch_brings_the_embeddings_of_its_texts(clips):
  store = TextEmbeddings(path=embedded(clips))
  batches = batches_of(clips, store)
  plain = batches_of(clips, None, spec=dataclasses.replace(SPEC, text_width=0))
  for step in range(6):
    batch, want = batches.batch(step), plain.batch(step)
    SPEC.check(batch)
    embedding = batch.pop(TEXT_EMBEDDING)
    assert batch.keys() == want.keys()
    for row, (tokens, mask) in enumerate(zip(batch["tokens"], batch["token_mask"], strict=True)):
      rows = embedding[row, mask]
      text = ByteTokenizer().decode(tokens)
      np.testing.assert_array_equal(
        rows, rows_of(text)[: len(rows)].astype("<f2") if text else rows
      )
      assert (np.abs(embedding[row]).sum(1) > 0).tolist() == mask.tolist()
  assert batches.fingerprint() == {**plain.fingerprint(), **store.fingerprint()}


def test_a_text_that_was_not_embedded_says_how_to_add_it(clips):
  store = TextEmbeddings(path=embedded(clips))
  write_manifest(clips / "manifest.jsonl", write_clips(clips, count=12))
  batches = batches_of(clips, store)
  with pytest.raises(UserError, match=r"the text '.* 1[01].*not among .*`n2m data embed` again"):
    list(map(batches.batch, range(20)))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"token_length": 8}, "made with token_length 16, the run has 8"),
    ({"text_width": 8}, "made with width 4, the run has 8"),
    ({"text_width": 0}, "made with width 4, the run has 0"),
  ],
)
def test_batches_of_another_form_are_refused(clips, changes, message):
  store = TextEmbeddings(path=embedded(clips))
  with pytest.raises(UserError, match=message):
    batches_of(clips, store, spec=dataclasses.replace(SPEC, **changes))


def test_another_tokenizer_or_no_embeddings_at_all_is_refused(clips):
  with pytest.raises(UserError, match="text_width 4 needs embeddings"):
    batches_of(clips, None)
  store = TextEmbeddings(path=write(clips.parent / "store", ["a"], tokenizer="sentencepiece x"))
  with pytest.raises(UserError, match="made with tokenizer sentencepiece x, the run has bytes"):
    batches_of(clips, store)
