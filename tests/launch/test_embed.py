"""`n2m data embed`, the run trained on what it wrote, and what that run's checkpoint then needs."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipelines import embeddings
from data_pipelines.captions.vocabulary import train_vocabulary
from data_pipelines.embeddings import TextEmbeddings
from data_pipelines.manifest import Caption, Clip, write_manifest
from launch import gin_main, train
from noise2music import cli
from noise2music.checkpoints.restore import restore_params
from noise2music.errors import UserError
from noise2music.pipeline import Pipeline
from noise2music.text.t5_encoder import T5Config

ROOT = Path(__file__).resolve().parents[2]
RUN = "--gin_file=configs/runs/smoke/waveform_generator.gin"
FROZEN, AHEAD = (f"--gin_file=configs/text/t5_{kind}.gin" for kind in ("frozen", "ahead"))
SIZES = {"vocab_size": 32_128, "width": 16, "layers": 1, "heads": 2, "head_dim": 8, "ffn_width": 24}
FEW = [
  "--gin.T5_WIDTH=16",
  *(f"--gin.T5Config.{name}={value}" for name, value in SIZES.items() if name != "width"),
]
# Two depths are enough, and compile in a third of the time.
SHORT = [
  *(
    f"--gin.{name}"
    for name in ("BATCH_SIZE=2", "SAMPLING_STEPS=2", "WARMUP_STEPS=1", "LOG_EVERY=1")
  ),
  *(f"--gin.UNet1D.{name}" for name in ("strides=(4, 4)", "width_multipliers=(1, 1)")),
  *(f"--gin.UNet1D.{name}_attention=(False, True)" for name in ("self", "cross")),
]


def clip(folder: Path, number: int) -> Clip:
  t = np.arange(48_000) / 24_000
  soundfile.write(
    folder / f"{number}.wav", 0.2 * np.sin(2 * np.pi * 110 * (number + 2) * t), 24_000
  )
  captions = (
    Caption(text=f"A long tone, number {number}.", kind="long"),
    Caption(text="tone", kind="short"),
  )
  return Clip(
    path=f"{number}.wav", duration=2.0, sample_rate=24_000, captions=captions, split="train"
  )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """clips/ of six tones, vocabulary.model, and two T5 encoders: t5/ and other/."""
  folder = tmp_path_factory.mktemp("ahead")
  (folder / "clips").mkdir()
  clips = [clip(folder / "clips", number) for number in range(6)]
  write_manifest(folder / "clips" / "manifest.jsonl", clips)
  train_vocabulary(folder / "clips", folder / "vocabulary.model")
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "tests" / "text"))
    from t5_cases import random_params, write_hugging_face

    for seed, name in enumerate(("t5", "other")):
      write_hugging_face(
        folder / name, T5Config(**SIZES), random_params(T5Config(**SIZES), seed=seed)
      )
  return folder


def data_flags(made: Path, *, weights: str = "t5", store: str | None = "store") -> list[str]:
  named = {"DATA": "clips", "T5_WEIGHTS": weights, "T5_VOCABULARY": "vocabulary.model"}
  named |= {"EMBEDDINGS": store} if store else {}
  return [*FEW, *(f'--gin.{name}="{made / value}"' for name, value in named.items())]


def embed(*flags: str) -> int:
  return cli.main(["data", "embed", "--batch_size=3", *flags])


def trained(made: Path, kind: str, *, steps: int, run: str | None = None, **named) -> int:
  store = None if kind == "frozen" else "store"
  return gin_main.run(
    train.main,
    [
      RUN,
      {"frozen": FROZEN, "ahead": AHEAD}[kind],
      *data_flags(made, **{"store": store, **named}),
      f'--gin.MODEL_DIR="{made / (run or kind)}"',
      f"--gin.TRAIN_STEPS={steps}",
      "--gin.DECAY_STEPS=10",
      *SHORT,
    ],
  )


@pytest.fixture(scope="module")
def store(made: Path) -> Path:
  assert embed(RUN, AHEAD, *data_flags(made)) == 0
  return made / "store"


@pytest.fixture(scope="module")
def runs(made: Path, store: Path, light_compilation: None) -> Path:
  """Two steps of the run with its encoder in the step, and of the one with its texts ahead."""
  for kind in ("frozen", "ahead"):
    assert trained(made, kind, steps=2) == 0
  return made


def rows(run: Path) -> list[dict]:
  found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
  return [row for row in found if "loss" in row]


def size(folder: Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_each_text_is_embedded_once_by_the_runs_own_encoder(made, store) -> None:
  found = TextEmbeddings(path=store)
  assert len(found) == 7
  assert "tone" in found
  made_with = json.loads((store / "manifest.json").read_text())
  assert {name: made_with["encoder"][name] for name in SIZES} == SIZES
  assert made_with["tokenizer"].startswith("sentencepiece ")
  assert (made_with["token_length"], made_with["width"], made_with["dtype"]) == (64, 16, "float16")


def test_running_again_adds_what_is_missing_and_out_names_the_folder(
  made, capsys, monkeypatch, tmp_path
) -> None:
  flags = [RUN, FROZEN, f"--out={tmp_path / 'store'}", *data_flags(made, store=None)]
  add = embeddings.EmbeddingWriter.add

  def stopped(self, texts, rows):
    add(self, texts, rows)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(embeddings.EmbeddingWriter, "add", stopped)
    assert embed(*flags) == 130
  assert embed(*flags) == 0
  assert "4 texts embedded, 3 were there" in capsys.readouterr().out
  assert embed(*flags) == 0
  assert "0 texts embedded, 7 were there" in capsys.readouterr().out


def test_the_loss_and_the_gradient_are_those_of_the_encoder_in_the_step(runs) -> None:
  frozen, ahead = rows(runs / "frozen"), rows(runs / "ahead")
  for name in ("loss", "gradient_norm"):
    np.testing.assert_allclose([r[name] for r in ahead], [r[name] for r in frozen], rtol=2e-3)


def test_no_encoder_is_trained_saved_or_needed_on_the_way(runs) -> None:
  assert restore_params(runs / "frozen")[0].keys() == {"network", "text_encoder"}
  assert restore_params(runs / "ahead")[0].keys() == {"network"}
  assert size(runs / "ahead" / "checkpoints") < size(runs / "frozen" / "checkpoints")
  assert any((runs / "ahead" / "samples").rglob("*.wav")), "previews use the embeddings too"


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_lookup(runs) -> None:
  for kind in ("frozen", "ahead"):
    shutil.copytree(runs / kind, runs / f"{kind}-on")
    assert trained(runs, kind, steps=3, run=f"{kind}-on") == 0
  frozen, ahead = rows(runs / "frozen-on"), rows(runs / "ahead-on")
  assert [row["step"] for row in ahead] == [1, 2, 3]
  np.testing.assert_allclose(ahead[2]["loss"], frozen[2]["loss"], rtol=2e-3)


def test_sampling_loads_the_encoder_that_the_config_names(runs, tmp_path) -> None:
  clips = {}
  for kind in ("frozen", "ahead"):
    pipeline = Pipeline.from_pretrained(runs / kind)
    clips[kind] = pipeline.generate("A long tone.", duration=0.5, steps=2, seed=1).audio
  np.testing.assert_allclose(clips["ahead"], clips["frozen"], atol=1e-2)

  away = runs / "t5-away"
  (runs / "t5").rename(away)
  try:
    with pytest.raises(
      UserError, match=r"holds no text encoder.*there is no .*t5.*put the T5"
    ) as e:
      Pipeline.from_pretrained(runs / "ahead")
    assert "\n" not in str(e.value)
    shutil.copytree(runs / "ahead", tmp_path / "ahead")
    shutil.copytree(away, tmp_path / "t5")
    Pipeline.from_pretrained(tmp_path / "ahead")
    shutil.copytree(runs / "other", tmp_path / "t5", dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"is not the encoder that embedded .*weights differ"):
      Pipeline.from_pretrained(tmp_path / "ahead")
  finally:
    away.rename(runs / "t5")


def test_a_run_of_another_encoder_or_token_length_is_refused(made, store, capsys) -> None:
  assert trained(made, "ahead", steps=2, run="no", weights="other") == 2
  said = capsys.readouterr().err
  assert re.search(r"other is not the encoder that embedded the texts \(weights differ\)", said)
  assert embed(RUN, AHEAD, *data_flags(made, weights="other")) == 2
  assert "holds embeddings made with another encoder: give another" in capsys.readouterr().err
  assert embed(RUN, AHEAD, *data_flags(made), "--gin.TOKEN_LENGTH=32") == 2
  assert "made with another token_length" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ([RUN], "trains its text encoder along"),
    (["--gin_file=configs/runs/smoke/super_resolution.gin"], "takes no text"),
    ([RUN, FROZEN], "where to write is not said: add --out=DIR"),
    ([RUN, FROZEN, "--out=x", '--gin.DATA="nowhere"'], "there is no manifest at nowhere"),
    ([RUN, FROZEN, "--out=x", '--gin.T5_WEIGHTS="nowhere"'], "there is no nowhere"),
    ([RUN, FROZEN, "--out=x", "--gin.BATCHSIZE=1"], "nothing uses BATCHSIZE"),
    ([RUN, FROZEN, "--out=/dev/null/x"], "cannot write /dev/null/x"),
    ([RUN, FROZEN, "--batch_size=0"], "give at least 1"),
  ],
)
def test_mistakes_are_one_sentence(made, capsys, monkeypatch, tmp_path, flags, message) -> None:
  monkeypatch.chdir(tmp_path)
  named = data_flags(made, store=None) if FROZEN in flags else data_flags(made, store=None)[-3:-2]
  assert embed(*named, *flags) == 2
  said = capsys.readouterr().err
  assert message in said
  assert said.count("\n") == 1


def test_data_without_texts_have_nothing_to_embed(made, capsys, tmp_path) -> None:
  bare = Clip(path=str(made / "clips" / "0.wav"), duration=2.0, sample_rate=24_000, split="train")
  write_manifest(tmp_path / "manifest.jsonl", [bare])
  flags = [*data_flags(made, store=None), f'--gin.DATA="{tmp_path}"', f"--out={tmp_path / 'store'}"]
  assert embed(RUN, FROZEN, *flags) == 2
  assert "no clip of the data set has a text" in capsys.readouterr().err


def test_a_text_that_came_later_stops_training_until_it_is_embedded(made, store, capsys) -> None:
  folder = made / "more"
  shutil.copytree(made / "clips", folder)
  write_manifest(folder / "manifest.jsonl", [clip(folder, number) for number in range(5, 9)])
  flags = [*data_flags(made), f'--gin.DATA="{folder}"']
  few = ['--gin.MODEL_DIR="' + str(made / "later") + '"', "--gin.TRAIN_STEPS=4", *SHORT]
  assert gin_main.run(train.main, [RUN, AHEAD, *flags, *few]) == 2
  said = capsys.readouterr().err
  assert re.search(r"error: the text 'A long tone.*not among .*`n2m data embed` again", said)
  assert embed(RUN, AHEAD, *flags) == 0
  assert "3 texts embedded, 2 were there" in capsys.readouterr().out


def test_such_a_run_is_planned_without_a_file(tmp_path) -> None:
  command = [
    *(sys.executable, "-m", "noise2music.cli", "plan", "--topology=v4:2x2x1", "--no_compile"),
    *("--gin_file=configs/runs/paper/waveform_generator.gin", AHEAD, "--json"),
    *("--gin.BATCH_SIZE=8", "--gin.TRAIN_SECONDS=4.096"),
  ]
  result = subprocess.run(
    command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
  )
  assert result.returncode == 0, result.stderr
  plan = json.loads(result.stdout)
  assert not any("text_encoder" in room for room in plan["parameters"])
  assert sum(plan["parameters"].values()) == pytest.approx(717e6, rel=0.02)
