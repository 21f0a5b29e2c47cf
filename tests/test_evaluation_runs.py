"""Evaluations of a stage that really trains: sweeps, hosts, going on, the hook, following a run."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines.manifest import Caption, Clip, read_manifest, write_manifest
from launch import gin_main, train
from launch.evaluation import load_encoder
from noise2music import cli

FOLDER = ["--gin_file=evaluation/folder.gin"]
SMALL = [
  "--gin.BATCH_SIZE=2",
  "--gin.SAMPLING_STEPS=2",
  "--gin.WARMUP_STEPS=1",
  "--gin.LOG_EVERY=1",
]
SHALLOW = {
  "strides": (16,), "width_multipliers": (1,), "blocks": (1,),
  "self_attention": (False,), "cross_attention": (True,),
}  # fmt: skip
SMALL += [f"--gin.UNet1D.{name}={value}" for name, value in SHALLOW.items()]
SMALL += ["--gin.Preview.guidance_scales=(1.0,)"]
SMOKE = "--gin_file=configs/runs/smoke/waveform_generator.gin"


def chords(folder: Path, count: int) -> Path:
  """Clips of two seconds, each with its caption."""
  folder.mkdir()
  t, clips = np.arange(48_000) / 24_000, []
  for k in range(count):
    root = 150 * 2 ** (k / 12)
    audio = sum(0.2 * np.sin(2 * np.pi * root * step * t) for step in (1, 1.26, 1.5))
    soundfile.write(folder / f"{k}.wav", audio, 24_000)
    clips.append(
      Clip(
        path=f"{k}.wav",
        duration=2.0,
        sample_rate=24_000,
        split="train",
        id=f"chord/{k}",
        captions=(Caption(text=f"Chord {k}.", kind="long"),),
      )
    )
  write_manifest(folder / "manifest.jsonl", clips)
  return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
  return chords(tmp_path_factory.mktemp("data") / "chords", 6)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory, light_compilation: None) -> Path:
  """A trained stage, scored by the hook on the way."""
  folder = tmp_path_factory.mktemp("run") / "stage"
  flags = [SMOKE, "--gin_file=base/scores.gin", f'--gin.MODEL_DIR="{folder}"', *SMALL]
  scored = {"SCORED_PROMPTS": data, "SCORES": folder / "scores"}
  flags += [f'--gin.{name}="{value}"' for name, value in scored.items()]
  flags += ["--gin.SCORE_EVERY=2", "--gin.SCORED_CLIPS=4", "--gin.SCORED_SECONDS=1.28"]
  flags += [f'--gin.DATA="{data}"', "--gin.TRAIN_STEPS=2", "--gin.SAVE_EVERY=1"]
  assert gin_main.run(train.main, flags) == 0
  return folder


def evaluate(run: Path, data: Path, out: Path, *flags: str) -> int:
  given = {"MODEL_DIR": run, "PROMPTS": data, "OUT": out}
  config = [] if any(f.startswith("--gin_file") for f in flags) else FOLDER
  values = [f'--gin.{name}="{value}"' for name, value in given.items()]
  return cli.main(
    ["evaluate", "run", *config, *values, "--gin.DURATION=1.28", "--gin.BATCH_SIZE=2", *flags]
  )


def test_the_hook_scores_the_weights_of_the_moment(run: Path) -> None:
  record = json.loads((run / "scores/step-00000002/scores.json").read_text())
  score = record["variants"][0]["scores"][0]
  assert (score["metric"], score["n"]) == ("kad_log_mel", 4)
  rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
  assert [r["kad_log_mel"] for r in rows if "kad_log_mel" in r] == [pytest.approx(score["value"])]


def test_a_run_is_scored_and_the_same_command_makes_nothing_twice(
  run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  assert evaluate(run, data, tmp_path) == 0
  told = capsys.readouterr().out
  assert "kad_log_mel" in told
  assert "floor" in told
  record = json.loads((tmp_path / "scores.json").read_text())
  assert record["provenance"]["checkpoint"].keys() == {"waveform_generator"}
  assert record["prompts"]["chord/3"] == "Chord 3."
  clips = sorted((tmp_path / "generated").rglob("*.flac"))
  assert len(clips) == 6
  stamps = [clip.stat().st_mtime_ns for clip in clips]
  clips[2].unlink()
  lost = clips[3].read_bytes()
  clips[3].write_bytes(b"")  # an empty file is no clip
  assert evaluate(run, data, tmp_path) == 0
  assert [clip.stat().st_mtime_ns == stamp for clip, stamp in zip(clips, stamps, strict=True)] == [
    True, True, False, False, True, True,
  ]  # fmt: skip
  assert clips[3].read_bytes() == lost
  again = json.loads((tmp_path / "scores.json").read_text())
  assert again["variants"][0]["scores"] == record["variants"][0]["scores"]


def test_hosts_share_out_the_clips_and_make_the_same(run: Path, data: Path, tmp_path: Path) -> None:
  assert evaluate(run, data, tmp_path / "one") == 0
  for index in (1, 0):
    hosts = [f"--gin.HOST_INDEX={index}", "--gin.HOST_COUNT=2"]
    assert evaluate(run, data, tmp_path / "two", *hosts) == 0
    if index:
      assert 0 < len(list((tmp_path / "two/generated").rglob("*.flac"))) < 6
      assert not (tmp_path / "two/scores.json").exists()
  scores = [
    json.loads((tmp_path / name / "scores.json").read_text())["variants"][0]["scores"]
    for name in ("one", "two")
  ]
  assert scores[0] == scores[1]


def test_a_sweep_scores_each_way_of_sampling(run: Path, data: Path, tmp_path: Path) -> None:
  flags = ["--gin_file=evaluation/steps.gin", "--gin.COUNTS=(1, 3)"]
  assert evaluate(run, data, tmp_path, *flags) == 0
  variants = json.loads((tmp_path / "scores.json").read_text())["variants"]
  assert [(v["name"], v["x"], v["axis"]) for v in variants] == [
    ("steps_1", 1, "steps"), ("steps_3", 3, "steps"),
  ]  # fmt: skip
  values = [v["scores"][0]["value"] for v in variants]
  assert values[0] != values[1]
  assert "steps_3" in (tmp_path / "table.txt").read_text()


def test_the_guidance_sweep_names_what_it_would_sample(
  run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  flags = ["--gin_file=evaluation/guidance.gin", "--dry_run"]
  assert evaluate(run, data, tmp_path, *flags) == 0
  told = capsys.readouterr().out
  assert "6 prompts, sampled in 15 way(s)" in told
  assert "back-heavy_guidance_5" in told


def test_following_scores_each_checkpoint_until_the_training_is_done(
  run: Path, data: Path, tmp_path: Path
) -> None:
  """The run's folder as it was after its first step; the rest comes while it is followed."""
  growing = tmp_path / "growing"
  shutil.copytree(run, growing, ignore=shutil.ignore_patterns("scores"))
  last = growing / "checkpoints/2"
  last.rename(tmp_path / "later")
  command = [sys.executable, "-m", "launch.evaluate", *FOLDER, "--follow", "--gin.BATCH_SIZE=2"]
  given = {"MODEL_DIR": growing, "PROMPTS": data, "OUT": tmp_path / "out"}
  command += [f'--gin.{name}="{value}"' for name, value in given.items()]
  with subprocess.Popen(
    [*command, "--gin.DURATION=1.28", "--patience_minutes=3"], stderr=subprocess.PIPE, text=True
  ) as following:
    for line in following.stderr:
      if "scoring" in line:
        break
    (tmp_path / "later").rename(last)
    following.stderr.read()
  assert following.returncode == 0
  rows = [json.loads(line) for line in (tmp_path / "out/history.jsonl").read_text().splitlines()]
  assert [row["steps"] for row in rows] == [{"growing": 1}, {"growing": 2}]
  assert all("kad_log_mel" in row for row in rows)


def test_following_nothing_gives_up_with_a_sentence(
  data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  flags = ["--follow", "--patience_minutes=0"]
  assert evaluate(tmp_path / "none", data, tmp_path / "out", *flags) == 2
  error = capsys.readouterr().err
  assert "no new checkpoint in" in error
  assert error.count("\n") == 1


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--gin.ENCODERS=()"], "no encoder is named"),
    (["--gin.ENCODERS=('mel',)"], "there is no encoder 'mel'"),
    (["--gin.CLIPS=1"], "too few to score"),
    (["--gin.HOST_INDEX=3"], "host 3 of 1 is none"),
    (["--gin.Evaluation.protocol='fma'"], "there is no protocol 'fma'"),
    (["--gin_file=evaluation/magnatagatune.gin"], "holds 0 prompts"),
    (["--gin.SPLIT='test'"], "holds 0 prompts of the split 'test'"),
    (["--gin.MEMORISATION=True"], "needs TRAINED_ON"),
    (["--gin.DURATION=-1.0"], "give seconds above 0"),
    (["--gin.ENCODERS='log_mel'"], "is one text, not a list"),
    (["--gin.CLIPS=2.5"], "give a whole number"),
    (["--gin_file=evaluation/musiccaps.gin"], "is 1.28 s long, of which the middle 10 s"),
    (["--gin_file=evaluation/steps.gin", "--gin.COUNTS=(0, 2)"], "counts of at least 1"),
    (["--gin.TRAINED_ON=('nowhere',)"], "nowhere"),
    (["--gin.ENCODERS=('log_mel', 'log_mel')"], "two encoders are called log_mel"),
    (["--gin.KL=('passt',)"], "no encoder is called passt"),
    (["--follow", "--gin.HOST_COUNT=2"], "followed by one host"),
    (["--gin.REFERENCE='nowhere'"], "there is no folder nowhere"),
    (["--gin_file=evaluation/guidance.gin", "--gin.STAGE='vocoder'"], "names the stage vocoder"),
  ],
)
def test_what_cannot_be_scored_is_one_sentence(
  run: Path,
  data: Path,
  tmp_path: Path,
  capsys: pytest.CaptureFixture,
  flags: list[str],
  message: str,
) -> None:
  assert evaluate(run, data, tmp_path, *flags) == 2
  error = capsys.readouterr().err
  assert message in error
  assert error.count("\n") == 1


def test_prompts_of_a_text_file_need_a_reference(
  run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  prompts = tmp_path / "prompts.txt"
  prompts.write_text("A chord.\n\n静かなピアノの曲。\n", encoding="utf-8")
  assert evaluate(run, prompts, tmp_path / "out") == 2
  assert "give a reference" in capsys.readouterr().err
  kl = [f'--gin.REFERENCE="{data}"', "--gin.KL=('log_mel',)"]
  assert evaluate(run, prompts, tmp_path / "out", *kl) == 2
  assert "KL compares pairs" in capsys.readouterr().err
  assert not (tmp_path / "out/generated").exists()
  assert evaluate(run, prompts, tmp_path / "out", f'--gin.REFERENCE="{data}"') == 0
  record = json.loads((tmp_path / "out/scores.json").read_text())
  assert record["prompts"] == {"00000": "A chord.", "00002": "静かなピアノの曲。"}


def test_another_prompt_is_another_clip(run: Path, data: Path, tmp_path: Path) -> None:
  prompts, flags = tmp_path / "prompts.txt", [f'--gin.REFERENCE="{data}"']
  made = []
  for first in ("A chord.", "Another chord."):
    prompts.write_text(f"{first}\nA third one.\n")
    assert evaluate(run, prompts, tmp_path / "out", *flags) == 0
    record = json.loads((tmp_path / "out/scores.json").read_text())
    made.append(record["variants"][0]["files"])
  assert made[0]["00000"] != made[1]["00000"]
  assert made[0]["00001"] == made[1]["00001"]
  assert len(list((tmp_path / "out/generated").rglob("*.flac"))) == 3


def test_labels_and_repeats_of_the_training_data_are_told(
  run: Path, data: Path, tmp_path: Path
) -> None:
  """The training clips here are the real clips themselves, so memorisation cannot be judged."""
  labelled = chords(tmp_path / "labelled", 6)
  clips = list(read_manifest(labelled / "manifest.jsonl"))
  mel = load_encoder("log_mel").fingerprint
  caption = Caption(text="A label.", kind="long", source="label:llm", extra={"encoder": mel})
  clips = [dataclasses.replace(clip, captions=(caption, *clip.captions)) for clip in clips]
  write_manifest(labelled / "manifest.jsonl", clips)
  flags = [f"--gin.TRAINED_ON=('{labelled}',)", "--gin.MEMORISATION=True"]
  assert evaluate(run, labelled, tmp_path / "out", *flags) == 0
  record = json.loads((tmp_path / "out/scores.json").read_text())
  assert record["prompts"]["chord/1"] == "Chord 1."  # not its label
  assert any(
    "labelled the training data" in w for w in record["variants"][0]["scores"][0]["warnings"]
  )
  assert "memorisation" not in record
  assert "labelled the training data" in (tmp_path / "out/report.html").read_text()


def test_what_was_trained_on_is_found_in_what_was_made(
  tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  rng, t = np.random.default_rng(0), np.arange(6 * 24_000) / 24_000

  def tunes(name: str, count: int) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    clips = []
    for k in range(count):
      notes = 220 * 2 ** (rng.integers(0, 24, 48) / 12)
      audio = 0.3 * np.sin(2 * np.pi * np.cumsum(np.repeat(notes, len(t) // 48)) / 24_000)
      soundfile.write(folder / f"{name}-{k}.wav", audio, 24_000)
      path = f"{name}-{k}.wav"
      clips.append(Clip(path=path, id=path, duration=6.0, sample_rate=24_000, split="train"))
    write_manifest(folder / "manifest.jsonl", clips)
    return folder

  training, held_out, made = tunes("training", 8), tunes("held_out", 6), tunes("made", 3)
  copied = soundfile.read(training / "training-5.wav")[0]
  (made / "manifest.jsonl").unlink()
  soundfile.write(made / "made-1.wav", 0.5 * np.roll(copied, 24_000), 24_000)
  command = ["evaluate", "memorisation", str(made), "--training", str(training), "--held_out"]
  command += [str(held_out), "--encoder", "log_mel", "--out", str(tmp_path / "out")]
  assert cli.main(command) == 0
  assert "matched: 1 of 3 clips" in capsys.readouterr().out
  record = json.loads((tmp_path / "out/memorisation.json").read_text())
  assert record["findings"][0]["clip"] == "made-1"
  assert record["findings"][0]["training"] == "training-5.wav"
  assert "training-5.wav" in (tmp_path / "out/report.html").read_text()


def test_two_folders_are_scored_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
  near, far, real = (chords(tmp_path / name, 6) for name in ("near", "far", "real"))
  for k in range(6):
    rng = np.random.default_rng(k)
    soundfile.write(far / f"{k}.wav", 0.3 * rng.standard_normal(48_000), 24_000)
  for folder in (near, far):
    out = str(tmp_path / f"scores-{folder.name}")
    command = ["evaluate", "folders", str(folder), str(real), "--encoder", "log_mel"]
    assert cli.main([*command, "--out", out]) == 0
  capsys.readouterr()
  assert (
    cli.main(["evaluate", "compare", *(str(tmp_path / f"scores-{n}") for n in ("near", "far"))])
    == 0
  )
  told = json.loads(capsys.readouterr().out)
  assert told["better"] == "a"
  assert told["difference"] > 10
  (tmp_path / "scores.json").write_text('{"variants": [{"name": "a", "scores": [3]}]}')
  assert cli.main(["evaluate", "compare", str(tmp_path), str(tmp_path)]) == 2
  assert "holds no scores" in capsys.readouterr().err
