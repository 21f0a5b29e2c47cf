"""`tf.train.Example` records with protobuf alone, where TensorFlow is not installed.

The message, as its public definition has it:
  Example  { Features features = 1; }
  Features { map<string, Feature> feature = 1; }
  Feature  { oneof kind { BytesList = 1; FloatList = 2; Int64List = 3; } }, each with
           { repeated value = 1; }
The types are made in a pool of our own, because TensorFlow registers the same names in the default
one when it is imported too.
"""

import functools

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_PACKAGE = "noise2music.shards"
_FIELD = descriptor_pb2.FieldDescriptorProto


def parse_example(record: bytes) -> dict[str, list]:
  """The features of one record, each a list of bytes, float or int; ValueError if it is none."""
  features = {}
  for name, feature in _read(record).features.feature.items():
    kind = feature.WhichOneof("kind")
    features[name] = list(getattr(feature, kind).value) if kind else []
  return features


def in_order(record: bytes) -> bytes:
  """The same record with its features in the order of their names; ValueError if it is none.

  A map is written in an order that each process draws anew, so records that are equal may differ in
  their bytes, and in their size once they are compressed.
  """
  return _read(record).SerializeToString(deterministic=True)


def _read(record: bytes):
  try:
    return _message_type().FromString(record)
  except message.DecodeError as error:
    raise ValueError(f"not a tf.train.Example ({error})") from error


@functools.cache
def _message_type():
  file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE)
  file.syntax = "proto3"
  for name, value_type in (
    ("BytesList", _FIELD.TYPE_BYTES),
    ("FloatList", _FIELD.TYPE_FLOAT),
    ("Int64List", _FIELD.TYPE_INT64),
  ):
    _add(file.message_type.add(name=name), "value", 1, value_type, repeated=True)
  feature = file.message_type.add(name="Feature")
  feature.oneof_decl.add(name="kind")
  for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
    kind = name.title().replace("_", "")
    _add(feature, name, number, _FIELD.TYPE_MESSAGE, of=kind).oneof_index = 0
  features = file.message_type.add(name="Features")
  entry = features.nested_type.add(name="FeatureEntry")
  entry.options.map_entry = True
  _add(entry, "key", 1, _FIELD.TYPE_STRING)
  _add(entry, "value", 2, _FIELD.TYPE_MESSAGE, of="Feature")
  _add(features, "feature", 1, _FIELD.TYPE_MESSAGE, of="Features.FeatureEntry", repeated=True)
  _add(file.message_type.add(name="Example"), "features", 1, _FIELD.TYPE_MESSAGE, of="Features")
  pool = descriptor_pool.DescriptorPool()
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


def _add(parent, name: str, number: int, kind: int, *, of: str = "", repeated: bool = False):
  label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
  field = parent.field.add(name=name, number=number, type=kind, label=label)
  if of:
    field.type_name = f".{_PACKAGE}.{of}"
  return field
