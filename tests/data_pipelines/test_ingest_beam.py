import numpy as np
import pytest
import soundfile

pytest.importorskip("apache_beam", reason="needs noise2music[beam]")

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to

from data_pipelines import ingest_beam
from data_pipelines.ingest import CutSpec
from data_pipelines.ingest_local import cut_dataset

RATE = 8000
SPEC = CutSpec(
  seconds=0.5, min_seconds=0.2, sample_rate_hz=RATE, min_sample_rate_hz=RATE, suffix=".wav"
)
OPTIONS = ["--seconds=0.5", "--min-seconds=0.2", "--sample-rate-hz=8000", "--suffix=.wav"]
OPTIONS += ["--min-sample-rate-hz=8000"]
RUNNER = ["--runner=DirectRunner", "--direct_running_mode=in_memory"]


@pytest.fixture
def music(tmp_path):
  folder = tmp_path / "music"
  folder.mkdir()
  for index in range(3):
    sound = 0.2 * np.random.default_rng(index).uniform(-1, 1, (index + 1) * RATE // 2)
    soundfile.write(folder / f"{index} 曲.wav", sound, RATE)
  (folder / "bad.wav").write_text("words")
  soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
  return folder


def test_beam_gives_the_manifest_and_report_of_the_local_run(music, tmp_path, capsys):
  local = cut_dataset(music, out_dir=tmp_path / "local", spec=SPEC)
  out = tmp_path / "beam"
  arguments = [f"--source={music}", f"--out={out}", *OPTIONS, *RUNNER]
  for _ in range(2):  # a second run starts from what lies there
    assert ingest_beam.main(arguments) == 0
    assert "6 clips" in capsys.readouterr().out
    assert (out / "manifest.jsonl").read_bytes() == local.manifest.read_bytes()
    assert (out / "report.jsonl").read_text() == local.report.read_text()
  clips = {path.name: path.read_bytes() for path in out.glob("clips/*/*")}
  assert clips == {path.name: path.read_bytes() for path in (tmp_path / "local").glob("clips/*/*")}
  assert len(clips) == 6


def test_the_transform_alone(music, tmp_path):
  files = [("one", str(music / "1 曲.wav")), ("bad", str(music / "bad.wav"))]
  with beam.Pipeline(options=PipelineOptions(RUNNER)) as pipeline:
    results = pipeline | beam.Create(files) | ingest_beam.CutFiles(out_dir=tmp_path, spec=SPEC)
    counts = results | beam.Map(lambda pair: (pair[0], len(pair[1].pieces)))
    assert_that(counts, equal_to([("one", 2), ("bad", 0)]))


def test_bad_input_is_one_sentence(tmp_path, capsys):
  assert ingest_beam.main([f"--source={tmp_path / 'none'}", f"--out={tmp_path / 'out'}"]) == 2
  assert "there is no folder" in capsys.readouterr().err
