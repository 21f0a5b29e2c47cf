"""Both routes from gin alone: each smoke run trains and resumes, its cascade makes 24 kHz clips."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.manifest import Caption, Clip, write_manifest
from launch import generate, gin_main, train
from noise2music import cli
from noise2music.audio.wav_io import read_audio

ROUTES = {
  "waveform": ("waveform_generator", "waveform_cascader", "super_resolution"),
  "spectrogram": ("spectrogram_generator", "spectrogram_vocoder", "super_resolution"),
}
STAGES = sorted({stage for route in ROUTES.values() for stage in route})
FEW = ["--gin.BATCH_SIZE=2", "--gin.SAMPLING_STEPS=2", "--gin.WARMUP_STEPS=1", "--gin.LOG_EVERY=1"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Six chords of two seconds, each with its caption."""
  folder = tmp_path_factory.mktemp("chords")
  clips = []
  t = np.arange(48_000) / 24_000
  for number in range(6):
    root = 220 * 2 ** (number / 12)
    audio = sum(0.1 * np.sin(2 * np.pi * root * step * t) for step in (1, 1.26, 1.5))
    soundfile.write(folder / f"{number}.wav", audio, 24_000)
    clips.append(
      Clip(
        path=f"{number}.wav",
        duration=2.0,
        sample_rate=24_000,
        captions=(Caption(text=f"Major chord number {number}.", kind="long"),),
        split="train",
      )
    )
  write_manifest(folder / "manifest.jsonl", clips)
  return folder


def _train(stage: str, runs: Path, data: Path, *, steps: int) -> list[dict]:
  """Runs the smoke config and returns what it logged."""
  flags = [
    f'--gin.MODEL_DIR="{runs / stage}"',
    f'--gin.DATA="{data}"',
    f"--gin.TRAIN_STEPS={steps}",
  ]
  config = f"--gin_file=configs/runs/smoke/{stage}.gin"
  assert gin_main.run(train.main, [config, *flags, *FEW]) == 0
  lines = (runs / stage / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory, light_compilation: None) -> Path:
  """One trained run for each of the five stages."""
  folder = tmp_path_factory.mktemp("runs")
  for stage in STAGES:
    _train(stage, folder, data, steps=2)
  return folder


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_leaves_what_it_promises(runs: Path, stage: str) -> None:
  rows = [json.loads(line) for line in (runs / stage / "metrics.jsonl").read_text().splitlines()]
  assert [row["step"] for row in rows if "loss" in row] == [1, 2]
  assert all(np.isfinite(row["loss"]) for row in rows if "loss" in row)
  assert "Stage.network" in (runs / stage / "config.gin").read_text()
  previews = [path for path in (runs / stage / "samples").rglob("*") if path.is_file()]
  assert {".wav", ".png"} == {path.suffix for path in previews}
  for path in previews:
    if path.suffix == ".wav":
      assert np.std(soundfile.read(path)[0]) > 1e-4, f"{path.name} is silent"


def test_running_again_goes_on(runs: Path, data: Path) -> None:
  rows = _train("super_resolution", runs, data, steps=4)
  assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]


@pytest.mark.parametrize("route", sorted(ROUTES))
def test_both_routes_generate_from_gin_alone(runs: Path, tmp_path: Path, route: str) -> None:
  flags = [
    f"--gin_file=configs/cascades/{route}.gin",
    f'--gin.MODEL_DIR="{runs}"',
    '--gin.PROMPTS=["Major chord.", "A minor chord, softly."]',
    f'--gin.OUTPUT="{tmp_path / "music.wav"}"',
    "--gin.Request.duration=0.7",
    "--gin.Request.seed=3",
  ]
  assert gin_main.run(generate.main, flags) == 0
  for index in range(2):
    audio, rate = soundfile.read(tmp_path / f"music-{index}.wav")
    assert rate == 24_000
    assert audio.shape == (round(0.7 * 24_000),)
    assert np.std(audio) > 0


def test_the_command_generates_from_one_stage(
  runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  out = tmp_path / "folder" / "low.flac"
  model = str(runs / "waveform_generator")
  request = ["generate", "--model", model, "-p", "Major chord.", "-o", str(out)]
  assert cli.main([*request, "--duration", "0.5", "--steps", "2"]) == 0
  assert "seed " in capsys.readouterr().out, "a drawn seed must be told"
  assert soundfile.info(out).samplerate == 3_200


def test_the_command_goes_on_from_a_file(runs: Path, data: Path, tmp_path: Path) -> None:
  request = ["generate", "--model", str(runs / "waveform_generator"), "-p", "Major chord."]
  request += ["--init-audio", str(data / "0.wav"), "--steps", "2", "-o", str(tmp_path / "on.wav")]
  assert (
    cli.main([*request, "--continue", "0.5", "--duration", "0.3", "--blend", "Soft.", "0"]) == 0
  )
  made, rate = soundfile.read(tmp_path / "on.wav")
  assert made.shape == (round(0.8 * rate),)
  given, _ = read_audio(data / "0.wav", sample_rate_hz=rate)
  kept = round(0.48 * rate)
  np.testing.assert_allclose(made[:kept], given[:kept], atol=1 / 32_768)


def test_gin_names_edits_of_a_file(runs: Path, data: Path, tmp_path: Path) -> None:
  config = tmp_path / "near.gin"
  config.write_text(
    "from __gin__ import dynamic_registration\n"
    "from launch import generate\n"
    "from noise2music.stages import edits\n"
    f'generate.Request.init_audio = "{data / "0.wav"}"\n'
    "generate.Request.edits = [@edits.FromAudio()]\n"
    "edits.FromAudio.strength = 0.001\n"
  )
  flags = [
    "--gin_file=configs/cascades/waveform.gin",
    f"--gin_file={config}",
    f'--gin.MODEL_DIR="{runs}"',
    '--gin.PROMPTS=["Major chord."]',
    f'--gin.OUTPUT="{tmp_path / "near.wav"}"',
    "--gin.Request.duration=0.5",
  ]
  assert gin_main.run(generate.main, flags) == 0
  made, rate = soundfile.read(tmp_path / "near.wav")
  given, _ = read_audio(data / "0.wav", seconds=0.5)
  assert rate == 24_000
  assert np.abs(made - given).mean() < 0.1 * np.abs(given).mean()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (["--model", "nowhere"], "no such folder: nowhere"),
    (["-p", "  "], "the prompt is empty"),
    (["--duration", "-3"], "duration must be longer than 0"),
    (["-o", "music.xyz"], "end its name in one of"),
    (["--steps", "0"], "steps must be at least 1"),
    (["--seed", "-7"], "seed must be a whole number"),
    (["--continue"], "Continue works on audio: give it as init_audio (--init-audio FILE)"),
    (["--continue", "0"], "more than 0 s must be kept to be continued, got 0"),
    (["--replace", "3"], "--replace must be like 1:2.5, got '3'"),
    (["--replace", "2:1"], "must start at 0 s or later and end after that, got 2 to 1 s"),
    (["--strength", "2"], "the strength must be above 0"),
    (["--init-audio", "gone.wav", "--strength", "0.5"], "gone.wav: does not exist"),
    (["--blend", "a reel", "half"], "the weight of --blend must be like 0.5 or 0:1"),
  ],
)
def test_bad_requests_get_one_sentence(
  tmp_path: Path, capsys: pytest.CaptureFixture, changes: list[str], message: str
) -> None:
  request = ["generate", "--model", str(tmp_path), "-p", "a tune"]
  if changes[0] == "-p":
    request = request[:3]
  assert cli.main([*request, *changes]) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


def test_a_folder_without_a_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
  assert cli.main(["generate", "--model", str(tmp_path), "-p", "a tune"]) == 2
  assert "no trained stage" in capsys.readouterr().err


def test_unknown_command_is_named(capsys: pytest.CaptureFixture) -> None:
  assert cli.main(["compose"]) == 2
  assert "data, label, train, generate" in capsys.readouterr().err


def test_a_student_is_taught_and_takes_its_teachers_place(
  runs: Path, data: Path, tmp_path: Path, light_compilation: None
) -> None:
  for way in ("progressive", "consistency"):
    flags = [
      "--gin_file=configs/runs/smoke/waveform_generator.gin",
      f"--gin_file=configs/distillation/{way}.gin",
      "--gin_file=configs/distillation/from_eps.gin",
      f'--gin.TEACHER="{runs / "waveform_generator"}"',
      f'--gin.MODEL_DIR="{tmp_path / way}"',
      f'--gin.DATA="{data}"',
      "--gin.TRAIN_STEPS=2",
      "--gin.STUDENT_STEPS=4",
    ]
    assert gin_main.run(train.main, [*flags, *FEW]) == 0
    request = [
      "generate",
      "--model",
      str(tmp_path / way),
      "-p",
      "Major chord.",
      "--duration",
      "0.5",
    ]
    assert cli.main([*request, "-o", str(tmp_path / f"{way}.wav")]) == 0
    audio, rate = soundfile.read(tmp_path / f"{way}.wav")
    assert (rate, len(audio)) == (3_200, 1_600)
    assert np.std(audio) > 0


def test_tuning_leaves_presets_that_generate_takes(
  runs: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  model = runs / "waveform_generator"
  asked = [
    "--prompts",
    str(data),
    "--split",
    "train",
    "--metric",
    "kad_log_mel",
    "--out",
    str(tmp_path),
  ]
  few = ["--clips", "4", "--duration", "1.1", "--batch-size", "4", "--minutes", "0.01"]
  assert cli.main(["tune", str(model), *asked, *few]) == 0
  assert (tmp_path / "report.html").is_file()
  record = json.loads((tmp_path / "tuning.json").read_text())
  assert record["presets"].keys() == {"draft", "balanced", "best"}
  request = [
    "generate",
    "--model",
    str(model),
    "-p",
    "Major chord.",
    "--duration",
    "0.5",
    "--seed",
    "1",
  ]
  out = tmp_path / "draft.wav"
  assert cli.main([*request, "--preset", "draft", "-o", str(out)]) == 0
  assert np.std(soundfile.read(out)[0]) > 0
  capsys.readouterr()
  assert cli.main([*request, "--preset", "grand", "-o", str(out)]) == 2
  assert (
    "there is no preset 'grand' here: use one of draft, balanced, best" in capsys.readouterr().err
  )
