from benchmarks import encoders
from noise2music.evaluation.embedders.log_mel_statistics import LogMelStatistics
from noise2music.evaluation.embedders.vggish import LAYERS


def test_every_encoder_is_measured_and_named() -> None:
  ours = {"short": LogMelStatistics(window_seconds=0.5), "long": LogMelStatistics()}
  figures = encoders.measured(ours, clips=2, seconds=1.0, rounds=1)
  assert list(figures) == ["short", "long"]
  assert "windows of 0.5 s" in figures["short"]["protocol"]
  for one in figures.values():
    assert one["width"] == 120
    assert one["seconds_per_hour"] > 0


def test_random_weights_are_of_vggish() -> None:
  params = encoders.random_vggish()
  assert {name: layer["kernel"].shape for name, layer in params.items()} == dict(LAYERS)
