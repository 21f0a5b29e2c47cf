import pytest

from data_pipelines.tf_example import in_order, parse_example

tf = pytest.importorskip("tensorflow")


def test_it_reads_what_tensorflow_writes() -> None:
  features = {
    "audio": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"\x00\x01", b""])),
    "level": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, -2.0])),
    "number": tf.train.Feature(int64_list=tf.train.Int64List(value=[-1, 2**40])),
    "nothing": tf.train.Feature(),
  }
  example = tf.train.Example(features=tf.train.Features(feature=features))
  assert parse_example(example.SerializeToString()) == {
    "audio": [b"\x00\x01", b""],
    "level": [0.5, -2.0],
    "number": [-1, 2**40],
    "nothing": [],
  }


def test_equal_records_have_equal_bytes() -> None:
  """A map's entries come as they were written; their order on the wire is free."""

  def entry(name: bytes) -> bytes:
    return (
      b"\x0a" + bytes([len(name) + 6]) + b"\x0a" + bytes([len(name)]) + name + b"\x12\x02\x0a\x00"
    )

  def record(*names: bytes) -> bytes:
    entries = b"".join(map(entry, names))
    return b"\x0a" + bytes([len(entries)]) + entries

  wanted = record(b"audio", b"captions/text", b"id")
  assert in_order(wanted) == wanted
  assert in_order(record(b"id", b"audio", b"captions/text")) == wanted
  assert parse_example(wanted) == {"audio": [], "captions/text": [], "id": []}


def test_what_is_no_record_is_refused() -> None:
  with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
    parse_example(b"\xff\xff words")
  with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
    in_order(b"\xff\xff words")
