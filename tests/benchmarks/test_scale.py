"""Plans are made once each, and docs/scale.md says what the kept ones say."""

import json
from pathlib import Path

import pytest

from benchmarks import scale
from noise2music.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ARITHMETIC = ["--stages=spectrogram_vocoder", "--topologies=v4:4x4x8", "--no_compile"]


def test_the_docs_hold_the_table_of_the_plans() -> None:
  told = set((ROOT / "docs/scale.md").read_text().splitlines())
  for line in scale.table(ROOT / "benchmarks/plans").splitlines():
    assert line in told


def test_a_plan_is_made_once_and_again_where_more_is_asked_for(tmp_path, capsys) -> None:
  run = [f"--out={tmp_path}", *ARITHMETIC]
  assert scale.main([*run, "--training_alone"]) == 0
  (path,) = tmp_path.iterdir()
  training_alone = path.read_text()
  assert json.loads(training_alone)["sample"] is None
  assert scale.main([*run, "--training_alone"]) == 0
  assert path.read_text() == training_alone
  assert scale.main(run) == 0
  assert json.loads(path.read_text())["sample"]["flops"] > 0
  assert capsys.readouterr().out.count("done") == 2
  assert scale.main([f"--out={tmp_path}", "--table"]) == 0
  assert "| spectrogram vocoder | v4:4x4x8 | 16 |" in capsys.readouterr().out


def test_a_plan_that_failed_shows_in_the_status(tmp_path, capsys) -> None:
  run = [f"--out={tmp_path}", "--no_compile", "--stages=super_resolution"]
  assert scale.main([*run, "--topologies=v4:1x1x3"]) == 1  # among which fsdp=8 does not go
  assert "as by --gin.MeshShape" in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_what_is_no_plan_is_named(tmp_path) -> None:
  with pytest.raises(UserError, match="no plans in"):
    scale.table(tmp_path)
  (tmp_path / "other.json").write_text("[1]")
  with pytest.raises(UserError, match=r"other.json is no plan of a model of the paper"):
    scale.table(tmp_path)
  with pytest.raises(UserError, match="is this machine"):
    scale.main([f"--out={tmp_path}", "--topologies=cpu:8"])


@pytest.mark.parametrize("stage", scale.STAGES)
def test_a_run_file_costs_what_its_plan_says(stage) -> None:
  plan = json.loads((ROOT / f"benchmarks/plans/{stage}-v4-4x8x8.json").read_text())
  low, high = plan["days"]
  head = (ROOT / f"configs/runs/paper/{stage}.gin").read_text()
  assert f"# Costs: {low:.1f} to {high:.1f} days on 256 TPU v4 (" in head
