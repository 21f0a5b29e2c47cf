import base64
import html
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noise2music.audio.wav_io import read_audio
from noise2music.errors import UserError
from noise2music.evaluation import evaluation_plots
from noise2music.evaluation.alignment import Span
from noise2music.evaluation.evaluation_page import (
  AlignedPair,
  EvaluationPage,
  MemorisationSection,
  Outliers,
  Song,
  write_evaluation_page,
)
from noise2music.evaluation.evaluation_plots import (
  SweepPlot,
  TradeOffPlot,
  figure_of,
  histogram,
  number,
)
from noise2music.evaluation.memorisation import Finding, Memorisation
from noise2music.evaluation.proportions import calibrate
from noise2music.evaluation.report import Player

RATE = 8_000
EVIL = '<script>alert("x")</script> & "quoted" $x$'
_VOID = {"meta", "img", "br", "input", "link", "hr"}


class _Reader(HTMLParser):
  """Texts, sources and ids; fails where tags do not nest."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.sources, self.ids, self.links = [], [], [], [], []

  def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
    self.tags.append(tag)
    attributes = dict(attrs)
    self.sources += [attributes["src"]] if "src" in attributes else []
    self.ids += [attributes["id"]] if "id" in attributes else []
    self.links += [attributes["href"]] if "href" in attributes else []
    if tag == "img":
      assert attributes["alt"]
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag: str) -> None:
    assert self.open.pop() == tag


def _read(path: Path) -> _Reader:
  reader = _Reader()
  reader.feed(path.read_text())
  reader.close()
  assert not reader.open
  return reader


def _score(metric: str, value: float, half: float = 0.1, **more: Any) -> dict[str, Any]:
  interval = [value - half, value + half]
  return {"metric": metric, "value": value, "interval_95": interval, "n": 200, **more}


def _player(*, hz: float = 440, seconds: float = 0.5, label: str = EVIL) -> Player:
  audio = 0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE)
  return Player(label=label, audio=audio.astype(np.float32), sample_rate_hz=RATE)


def _memorisation(finding: Finding) -> Memorisation:
  held_out = np.linspace(0.1, 0.3, 20)
  threshold = calibrate(held_out, false_alarm_rate=0.1)
  return Memorisation(
    findings=(finding,),
    similarity_threshold=threshold,
    alignment_threshold=threshold,
    held_out_similarity=tuple(held_out),
    held_out_score=tuple(held_out),
    n_training=1234,
    candidates=3,
    window_seconds=4.0,
  )


def _finding(**changes: Any) -> Finding:
  span = Span(
    score=0.9,
    span_score=0.8,
    generated_start_seconds=0.5,
    training_start_seconds=1.0,
    length_seconds=1.0,
  )
  fields = {"clip": EVIL, "nearest": "n", "similarity": 0.7, "near": True, "training": "t"}
  return Finding(**{**fields, "span": span, "matched": True, **changes})


def _two_tones(first: float, second: float, *, at: float) -> Player:
  """Two seconds: `first` Hz, and from `at` seconds on `second` Hz."""
  parts = [_player(hz=first, seconds=at), _player(hz=second, seconds=2 - at)]
  audio = np.concatenate([part.audio for part in parts])
  return Player(label="", audio=audio, sample_rate_hz=RATE)


def _hz(source: str, folder: Path) -> tuple[float, float]:
  """(the loudest frequency, seconds) of a data URI."""
  path = folder / "clip.mp3"
  path.write_bytes(base64.b64decode(source.split(",")[1]))
  audio, rate = read_audio(path)
  return np.argmax(np.abs(np.fft.rfft(audio))) * rate / len(audio), len(audio) / rate


def test_the_whole_page_is_one_well_formed_file(tmp_path: Path) -> None:
  floor, ceiling = _score("fad", 28), _score("fad", 0.5)
  first = _score(
    EVIL, 3.25, n_reference=500, floor=floor, ceiling=ceiling, encoder={"name": EVIL}, protocol=EVIL
  )
  page = EvaluationPage(
    title=EVIL,
    summary=[EVIL],
    scores=[first, {"metric": "undecided", "value": None, "encoder": None, "floor": 0.25}],
    songs=[Song(id=EVIL, prompt=EVIL, players=[_player(), _player()], scores={EVIL: 0.25})],
    outliers=[Outliers(metric=EVIL, scores={EVIL: 1.0, "b": 2.0}, lower_is_better=True)],
    sweeps=[SweepPlot(parameter=EVIL, series={EVIL: [(1, first), (2, first)]})],
    trade_offs=[TradeOffPlot(series={EVIL: [(EVIL, first, first)]})],
    memorisation=MemorisationSection(result=_memorisation(_finding())),
    provenance={EVIL: EVIL, "versions": {EVIL: EVIL}, "seeds": [0, 1], "n": 3},
  )
  path = tmp_path / "page.html"
  write_evaluation_page(path, page)
  reader = _read(path)
  assert "script" not in reader.tags
  assert reader.tags.count("audio") == 2
  assert all(source.startswith("data:") for source in reader.sources)
  assert len(reader.sources) == 2 * 2 + 2 + 2  # players with pictures, plots, histograms
  assert reader.links == [f"#{reader.ids[0]}"]
  assert len(reader.ids) == 1
  text = path.read_text()
  for expected in ("3.25 (3.15 to 3.35)", "28 (27.9 to 28.1)", "<td>500</td>", "1,234"):
    assert expected in text
  assert list(tmp_path.iterdir()) == [path]


def test_a_score_is_shown_with_all_it_hangs_on(tmp_path: Path) -> None:
  encoder = {"name": "vggish", "fingerprint": "0123456789abcdef"}
  floor = {"value": 28.0, "interval_95": None, "n": 200, "what": f"white noise {EVIL}"}
  details = {
    "expected_bias": 0.4321,
    "fad_infinity": {"value": 1.2345, "slope": 67.8, "r_squared": 0.9876},
    EVIL: [EVIL],
  }
  fad = _score(
    "fad_vggish", 3.25, encoder=encoder, floor=floor, details=details, rows=(12_345, 6_789),
    resampler=f"soxr {EVIL}", warnings=(EVIL, "2 clips could not be scored"),
  )  # fmt: skip
  kad = _score("kad_vggish", 1.5, encoder=encoder, warnings=["2 clips could not be scored"])
  songs = [Song(id="a", prompt="p", players=[], scores={"fad_vggish vggish": 4.0})]
  ranks = {"fad_vggish vggish": {"a": 4.0, "b": 5.0}, "similarity_text joint": {"a": 0.5}}
  page = EvaluationPage(
    title="t",
    provenance={"n": 1},
    scores=[fad, kad],
    songs=songs,
    outliers=[Outliers(metric=m, scores=s, lower_is_better=True) for m, s in ranks.items()],
  )
  path = tmp_path / "page.html"
  write_evaluation_page(path, page)
  assert "script" not in _read(path).tags
  text, evil = path.read_text(), html.escape(EVIL)
  assert EVIL not in text
  assert f"<li><b>fad_vggish</b>: {evil}</li>" in text
  assert "<li><b>fad_vggish, kad_vggish</b>: 2 clips could not be scored</li>" in text
  assert text.index("<li>") < text.index("<h2>Scores</h2>")
  assert "expected_bias 0.432, fad_infinity (value 1.23, slope 67.8, r_squared 0.988)" in text
  assert f"<td>28, white noise {evil}</td>" in text
  assert "<td>12,345 and 6,789</td>" in text
  assert f"<td>soxr {evil}</td>" in text
  assert "fad_vggish vggish" not in text
  assert "fad_vggish 4" in text
  assert "similarity_text joint" in text
  assert "sampled as" not in text


def test_scores_of_all_variants_are_shown(tmp_path: Path) -> None:
  both, one = "of all", f"of one {EVIL}"
  scores = {
    "steps_5": [_score("fad", 3.0, warnings=[both, one]), _score("kad", 2.0, encoder="e")],
    f"<b>{EVIL}": [_score("fad", 1.0, warnings=[both]), _score("kad", 0.5, encoder="e")],
  }
  path = tmp_path / "page.html"
  write_evaluation_page(path, EvaluationPage(title="t", provenance={"n": 1}, scores=scores))
  _read(path)
  text = path.read_text()
  other = html.escape(f"<b>{EVIL}")
  rows = re.findall("<tr><td>([^<]*)</td><td>([^<]*)</td><td>([^ ]*) ", text.split("<details>")[0])
  assert rows == [
    ("fad", "steps_5", "3"), ("fad", other, "1"), ("kad", "steps_5", "2"), ("kad", other, "0.5"),
  ]  # fmt: skip
  assert "<th>sampled as</th>" in text
  assert text.count(f": {both}</li>") == 1
  assert "<li><b>fad</b>: of all</li>" in text
  assert f"<li><b>fad (steps_5)</b>: {html.escape(one)}</li>" in text
  with pytest.raises(UserError, match="is no score"):
    EvaluationPage(title="t", provenance={"n": 1}, scores={"a": [{"metric": "fad"}]})


def test_matching_spans_are_cut_and_played_side_by_side(tmp_path: Path) -> None:
  # Generated: 1500 Hz from 0.5 s on; training: from 1 s on.
  generated, training = _two_tones(300, 1500, at=0.5), _two_tones(300, 1500, at=1.0)
  pair = AlignedPair(finding=_finding(), generated=generated, training=training)
  page = EvaluationPage(
    title="t",
    provenance={"n": 1},
    memorisation=MemorisationSection(result=_memorisation(_finding()), pairs=[pair]),
  )
  path = tmp_path / "page.html"
  write_evaluation_page(path, page)
  players = [s for s in _read(path).sources if s.startswith("data:audio")]
  assert len(players) == 2
  for source in players:
    hz, seconds = _hz(source, tmp_path)
    assert hz == pytest.approx(1500, abs=3)
    assert seconds == pytest.approx(1.0, abs=0.01)
  text = path.read_text()
  assert "0.50 to 1.50 s" in text
  assert "offset +0.50 s" in text
  assert "2 of 20 (" in text  # held-out clips above the threshold
  short = AlignedPair(finding=_finding(), generated=_player(seconds=0.4), training=training)
  with pytest.raises(UserError, match="give the whole clip"):
    write_evaluation_page(
      path,
      EvaluationPage(
        title="t",
        provenance={"n": 1},
        memorisation=MemorisationSection(result=_memorisation(_finding()), pairs=[short]),
      ),
    )


def test_best_and_worst_share_no_song() -> None:
  scores = {"a": 3.0, "b": 1.0, "c": 2.0, "d": 5.0, "e": 4.0}
  lower = Outliers(metric="m", scores=scores, lower_is_better=True, shown=2)
  assert lower.ends() == (["b", "c"], ["d", "e"])
  higher = Outliers(metric="m", scores=scores, lower_is_better=False, shown=4)
  assert higher.ends() == (["d", "e", "a"], ["b", "c"])
  for bad in ({}, {"a": float("nan")}):
    with pytest.raises(UserError, match="ranks no songs"):
      Outliers(metric="m", scores=bad, lower_is_better=True)


def test_plots_draw_the_numbers_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
  figures: list[Any] = []
  monkeypatch.setattr(evaluation_plots, "figure_uri", lambda figure: figures.append(figure) or "")
  low, high = _score("fad", 2.0), _score("fad", 3.0)
  SweepPlot(parameter="steps", series={"a": [(8, high), (2, low)]}, logarithmic=True).picture()
  axes = figures[-1].axes[0]
  assert axes.lines[0].get_xydata().tolist() == [[2, 2], [8, 3]]
  assert axes.get_xscale() == "log"
  band = axes.collections[0].get_paths()[0].vertices
  assert band[:, 1].min() == pytest.approx(1.9)
  assert band[:, 1].max() == pytest.approx(3.1)

  clap = {**_score("clap", 0.4), "interval_95": None}
  TradeOffPlot(series={"a": [("cfg 1", clap, low), ("cfg 2", clap, high)]}).picture()
  axes = figures[-1].axes[0]
  assert axes.lines[0].get_xydata().tolist() == [[0.4, 2], [0.4, 3]]
  assert [text.get_text() for text in axes.texts] == ["cfg 1", "cfg 2"]
  assert (axes.get_xlabel(), axes.get_ylabel()) == ("clap", "fad")

  histogram({"real": [0.1, 0.2], "generated": [0.9]}, threshold=0.5, title="similarity")
  axes = figures[-1].axes[0]
  assert axes.lines[0].get_xdata() == [0.5, 0.5]
  labels = [text.get_text() for text in axes.get_legend().get_texts()]
  assert "generated (n = 1)" in labels
  assert "real (n = 2)" in labels
  for figure in figures:
    evaluation_plots.pyplot().close(figure)


def test_what_cannot_be_shown_is_refused() -> None:
  fad, clap = _score("fad", 1.0), _score("clap", 0.5)
  with pytest.raises(UserError, match="clap and fad share no axis"):
    SweepPlot(parameter="steps", series={"a": [(1, fad), (2, clap)]})
  with pytest.raises(UserError, match="without points: b"):
    SweepPlot(parameter="steps", series={"a": [(1, fad)], "b": []})
  with pytest.raises(UserError, match="no logarithm"):
    SweepPlot(parameter="scale", series={"a": [(0, fad)]}, logarithmic=True)
  with pytest.raises(UserError, match="no value that could be drawn"):
    TradeOffPlot(series={"a": [("x", fad, {"metric": "clap", "value": None})]})
  with pytest.raises(UserError, match="is no score"):
    EvaluationPage(title="t", provenance={"n": 1}, scores=[{"metric": "fad"}])
  with pytest.raises(UserError, match="is no score"):
    EvaluationPage(title="t", provenance={"n": 1}, scores=[{**fad, "interval_95": [1.0]}])
  with pytest.raises(UserError, match="provenance"):
    EvaluationPage(title="t", provenance={})
  song = Song(id="a", prompt="", players=[])
  with pytest.raises(UserError, match="twice"):
    EvaluationPage(title="t", provenance={"n": 1}, songs=[song, song])


def test_numbers_are_short() -> None:
  assert [number(x) for x in (None, float("nan"), 0.123456, 12.34, 999.7, 12345.6)] == [
    "-", "-", "0.123", "12.3", "1,000", "12,346",
  ]  # fmt: skip
  assert figure_of(None) == "-"
  assert figure_of(0.5) == "0.5"
  assert figure_of(_score("m", 2.0)) == "2 (1.9 to 2.1)"


def test_without_matplotlib_one_sentence_names_the_extra(
  monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  sweep = SweepPlot(parameter="steps", series={"a": [(1, _score("fad", 1.0))]})
  page = EvaluationPage(title="t", provenance={"n": 1}, sweeps=[sweep])
  with pytest.raises(UserError, match=re.escape("noise2music[demo]")):
    write_evaluation_page(tmp_path / "page.html", page)
  assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
  page = EvaluationPage(title="t", provenance={"n": 1})
  with pytest.raises(UserError, match="cannot be written"):
    write_evaluation_page(tmp_path / "missing" / "page.html", page)
  (tmp_path / "folder.html").mkdir()
  with pytest.raises(UserError, match="cannot be written"):
    write_evaluation_page(tmp_path / "folder.html", page)
  assert [path.name for path in tmp_path.iterdir()] == ["folder.html"]
