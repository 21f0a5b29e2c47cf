"""Captions cleaned by Beam are those cleaned here, byte for byte."""

from pathlib import Path

import pytest

from data_pipelines import command
from data_pipelines.captions import refine_beam
from data_pipelines.captions.refine import Dropped, Raw, Rules, refine
from data_pipelines.captions.refine_beam import refine_with_beam
from noise2music.errors import UserError

TEXTS = [
  *(
    Raw(place=f"a:{k}", text=f"A slow tune number {k % 40} for harp. It is calm.")
    for k in range(60)
  ),
  Dropped(place="a:61", reason="no UTF-8", detail="byte 3"),
  Raw(place="b:1", text=""),
  Raw(place="b:2", text="half \ud83d a pair of drums"),
  Raw(place="b:3", text="  - \u201cUn air très lent.\u201d\r\n 静かなピアノの曲。"),
  Raw(place="b:4", text="x" * 5_000),
]


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
  monkeypatch.setattr(refine_beam, "TEXTS_A_FILE", 7)


@pytest.mark.parametrize("rules", [Rules(), Rules(similarity=1.0, about_music=True)])
def test_every_text_has_the_fate_it_has_here(tmp_path: Path, rules: Rules) -> None:
  here = list(refine(TEXTS, rules=rules))
  there = list(refine_with_beam(TEXTS, rules=rules, folder=tmp_path / "work"))
  assert there == here
  assert {type(item) for item in here} == {str, Dropped}
  assert not (tmp_path / "work").exists()


def test_what_an_earlier_run_left_has_no_part(tmp_path: Path) -> None:
  some = refine_with_beam(TEXTS, rules=Rules(), folder=tmp_path)
  next(some)  # and it is killed
  texts = [Raw(place="c:1", text="Only one tune here.")]
  assert list(refine_with_beam(texts, rules=Rules(), folder=tmp_path)) == ["Only one tune here."]


def test_a_piece_of_work_that_is_done_again_changes_nothing(tmp_path: Path) -> None:
  names = refine_beam._deal(TEXTS, tmp_path / "raw")
  for name in [*names, *names]:
    refine_beam._judge(name, folder=str(tmp_path), rules=Rules())
  first = list(refine_beam._read(tmp_path / "judged", names))
  assert sum(isinstance(item, Dropped) for item in first) == 1
  (tmp_path / "judged" / names[3]).unlink()
  with pytest.raises(UserError, match=r"000003.jsonl is missing: let all workers see one disk"):
    list(refine_beam._read(tmp_path / "judged", names))
  (tmp_path / "judged" / names[3]).write_text('{"piece": [')
  with pytest.raises(UserError, match=r"000003.jsonl:1"):
    list(refine_beam._read(tmp_path / "judged", names))


def test_the_command_writes_the_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
  texts = tmp_path / "texts.txt"
  texts.write_text("".join(f"A slow tune number {k % 30} for harp.\n" for k in range(50)))
  for name, more in (("here", []), ("there", ["--runner=DirectRunner"])):
    out = ["--out", str(tmp_path / f"{name}.txt")]
    assert command.main(["captions", "text", str(texts), *out, *more]) == 0
  for suffix in (".txt", ".json", ".dropped.jsonl"):
    here, there = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("here", "there"))
    assert here == there
  assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == []
  capsys.readouterr()
  request = ["captions", "text", str(texts), "--out", str(tmp_path / "x.txt"), "--beam=--x"]
  assert command.main(request) == 2
  assert "name a --runner besides" in capsys.readouterr().err
