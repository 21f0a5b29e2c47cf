import pytest

from data_pipelines.tf_example import parse_example

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


def test_what_is_no_record_is_refused() -> None:
  with pytest.raises(ValueError, match=r"not a tf\.train\.Example"):
    parse_example(b"\xff\xff words")
