import argparse
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch.evaluate_listening import add_commands, read_prompts
from noise2music.audio.wav_io import read_audio, write_audio
from noise2music.errors import Parser, UserError
from noise2music.evaluation.listening import (
  ListeningTest,
  Trial,
  key_path,
  level_pair,
  write_listening_test,
)
from noise2music.evaluation.listening_page import LOGIC, RESULT_FORMAT, listening_page
from noise2music.evaluation.listening_score import read_key, score_listening
from noise2music.evaluation.proportions import calibrate, sign_test, wilson

NAMES = ("old-model", "new-model")
STEMS = [f"song-{index}" for index in range(8)]


def _tone(path: Path, *, hz: float, level: float, seconds: float = 0.3, rate: int = 16_000) -> None:
  audio = level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)
  write_audio(path, audio.astype(np.float32), sample_rate_hz=rate)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
  a, b = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
  for index, stem in enumerate(STEMS):
    _tone(a / f"{stem}.wav", hz=200 + 20 * index, level=0.9)
    _tone(b / f"{stem}.flac", hz=400 + 20 * index, level=0.01, seconds=0.4)
  _tone(b / "alone.wav", hz=300, level=0.1)
  return a, b


def _write(path: Path, folders: tuple[Path, Path], **changes: Any) -> ListeningTest:
  return write_listening_test(path, *folders, **{"names": NAMES, "seed": 1, **changes})


def _command(*argv: str) -> int:
  parser = Parser(prog="n2m evaluate")
  add_commands(parser.add_subparsers(required=True))
  args: argparse.Namespace = parser.parse_args(argv)
  return args.run(args)


def _data(page: Path) -> dict[str, Any]:
  text = page.read_text()
  start = text.index('id="data">') + len('id="data">')
  return json.loads(text[start : text.index("</script>", start)])


def _answer(path: Path, test: ListeningTest, rater: str, choices: Mapping[str, str]) -> Path:
  answers = [{"trial": trial, "choice": choice} for trial, choice in choices.items()]
  content = {
    "format": RESULT_FORMAT,
    "test": test.id,
    "rater": rater,
    "trials": len(test.trials),
    "answers": answers,
  }
  path.write_text(json.dumps(content))
  return path


def _for_first(test: ListeningTest, wins: set[str], ties: set[str] = frozenset()) -> dict[str, str]:
  """Answers that give the first folder's clip these pairs, repeats answered alike."""
  other = {"left": "right", "right": "left"}
  return {
    t.id: "none" if t.pair in ties else t.first_on if t.pair in wins else other[t.first_on]
    for t in test.trials
  }


def test_the_page_does_not_tell_the_sides_apart(folders: tuple[Path, Path], tmp_path: Path) -> None:
  page = tmp_path / "test.html"
  test = _write(page, folders, prompts=dict.fromkeys(STEMS, "</script><b>a & b"))
  text = page.read_text()
  for word in (*NAMES, *STEMS, "alone", folders[0].name, folders[1].name, ".wav", ".flac"):
    assert word not in text
  assert text.count("</script>") == 2  # the prompt did not end the element
  data = _data(page)
  assert list(data["clips"]) == sorted(data["clips"])  # not in the order of the folders
  assert {t["id"] for t in data["trials"]} == {t.id for t in test.trials}
  assert all(set(t) == {"id", "prompt", "left", "right"} for t in data["trials"])
  assert data["trials"][0]["prompt"] == "</script><b>a & b"
  sides = {t.first_on for t in test.trials}
  assert sides == {"left", "right"}
  assert len(test.unpaired) == 1
  assert test.unpaired[0].endswith("alone.wav")


def test_the_key_names_the_clip_that_is_heard(folders: tuple[Path, Path], tmp_path: Path) -> None:
  import base64

  page = tmp_path / "test.html"
  test, data = _write(page, folders), _data(page)
  for trial, shown in zip(read_key(key_path(page)).trials, data["trials"], strict=True):
    assert trial.id == shown["id"]
    for side in ("left", "right"):
      sound = tmp_path / "clip.mp3"
      sound.write_bytes(base64.b64decode(data["clips"][shown[side]].split(",")[1]))
      audio, rate = read_audio(sound)
      hz = np.argmax(np.abs(np.fft.rfft(audio))) * rate / len(audio)
      index = STEMS.index(trial.pair)
      expected = (200 if side == trial.first_on else 400) + 20 * index
      assert hz == pytest.approx(expected, abs=8)
  assert read_key(key_path(page)) == test


def test_repeats_come_later_with_sides_swapped(folders: tuple[Path, Path], tmp_path: Path) -> None:
  for seed in range(6):
    test = _write(tmp_path / f"{seed}.html", folders, seed=seed, repeats=3)
    assert (test.pairs, test.repeats) == (8, 3)
    place = {(t.pair, t.repeat): index for index, t in enumerate(test.trials)}
    side = {(t.pair, t.repeat): t.first_on for t in test.trials}
    repeated = [t.pair for t in test.trials if t.repeat]
    assert len(set(repeated)) == 3
    for pair in repeated:
      assert place[pair, True] > place[pair, False] + 1
      assert side[pair, True] != side[pair, False]


def test_a_seed_is_a_test(folders: tuple[Path, Path], tmp_path: Path) -> None:
  first, again, other = (
    _write(tmp_path / f"{name}.html", folders, seed=seed)
    for name, seed in (("a", 1), ("b", 1), ("c", 2))
  )
  assert first == again
  assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
  assert other.id != first.id
  assert [t.pair for t in other.trials] != [t.pair for t in first.trials]


def test_without_a_seed_nobody_can_compute_the_sides(
  folders: tuple[Path, Path], tmp_path: Path
) -> None:
  tests = []
  for name in ("a", "b"):
    page = tmp_path / f"{name}.html"
    assert _command("listening-page", *map(str, folders), "--out", str(page)) == 0
    tests.append(read_key(key_path(page)))
    assert str(tests[-1].seed) not in page.read_text()
    assert f"{tests[-1].seed:x}" not in page.read_text()
    assert json.loads(key_path(page).read_text())["seed"] == tests[-1].seed
  first, other = tests
  assert first.id != other.id
  assert not {t.id for t in first.trials} & {t.id for t in other.trials}
  clips = [set(_data(tmp_path / f"{name}.html")["clips"]) for name in ("a", "b")]
  assert not clips[0] & clips[1]
  sides = [[(t.pair, t.first_on) for t in test.trials] for test in tests]
  assert sides[0] != sides[1]
  assert all(test.seed.bit_length() > 64 for test in tests)
  # The key's seed gives its test again.
  again = tmp_path / "again.html"
  seed = ("--seed", str(first.seed))
  assert _command("listening-page", *map(str, folders), "--out", str(again), *seed) == 0
  assert again.read_bytes() == (tmp_path / "a.html").read_bytes()


def test_pairs_are_equally_loud_and_long(tmp_path: Path) -> None:
  rng = np.random.default_rng(0)
  # One that would clip at the usual level: nearly silent but for a click.
  peaky = 1e-3 * rng.normal(size=16_000)
  peaky[8_000] = 0.99
  write_audio(tmp_path / "peaky.wav", peaky.astype(np.float32), sample_rate_hz=16_000)
  _tone(tmp_path / "long.wav", hz=440, level=0.02, seconds=2, rate=24_000)
  one, other = level_pair(tmp_path / "peaky.wav", tmp_path / "long.wav", seconds=30)
  rms = [np.sqrt(np.mean(player.audio**2)) for player in (one, other)]
  assert rms[0] == pytest.approx(rms[1], rel=1e-4)
  assert len(one.audio) == len(other.audio) == 24_000
  assert one.sample_rate_hz == other.sample_rate_hz == 24_000
  assert max(np.abs(one.audio).max(), np.abs(other.audio).max()) <= 0.9 + 1e-6
  plain = level_pair(tmp_path / "long.wav", tmp_path / "long.wav", seconds=0.5)[0].audio
  assert 20 * np.log10(np.sqrt(np.mean(plain**2))) == pytest.approx(-20, abs=1e-3)
  assert len(plain) == 12_000
  hiss = 1e-4 * rng.normal(size=16_000)
  write_audio(tmp_path / "silent.wav", hiss.astype(np.float32), sample_rate_hz=16_000)
  silent, loud = level_pair(tmp_path / "silent.wav", tmp_path / "long.wav", seconds=1)
  assert np.abs(silent.audio).max() < 1e-3
  assert 20 * np.log10(np.sqrt(np.mean(loud.audio**2))) == pytest.approx(-20, abs=1e-3)


def test_refusals(folders: tuple[Path, Path], tmp_path: Path) -> None:
  page = tmp_path / "test.html"
  empty = tmp_path / "empty"
  empty.mkdir()
  with pytest.raises(UserError, match="no file name in common"):
    write_listening_test(page, folders[0], empty, names=NAMES, seed=0)
  with pytest.raises(UserError, match="different names"):
    _write(page, folders, names=("same", "same"))
  with pytest.raises(UserError, match="none of the 1 prompts"):
    _write(page, folders, prompts={"elsewhere": "text"})
  with pytest.raises(UserError, match="cannot be repeated: give 0 to 4"):
    _write(page, folders, repeats=5)
  assert not list(tmp_path.glob("*.html"))
  _write(page, folders)
  _write(page, folders)  # the same test may be written again
  with pytest.raises(UserError, match="key of another test"):
    _write(page, folders, seed=2)
  for suffix in (".wav", ".ogg"):
    _tone(empty / f"twice{suffix}", hz=300, level=0.1)
  with pytest.raises(UserError, match=r"both clip twice"):
    write_listening_test(page, folders[0], empty, names=NAMES, seed=0)


def test_scores_in_closed_form(folders: tuple[Path, Path], tmp_path: Path) -> None:
  page = tmp_path / "test.html"
  test = _write(page, folders, repeats=2)
  ada = _for_first(test, wins=set(STEMS[:6]), ties={STEMS[6]})
  bob = _for_first(test, wins=set(STEMS[:5]), ties={STEMS[6]})
  # Bob contradicts himself once, and leaves one pair open.
  repeats = [t for t in test.trials if t.repeat]
  flipped = {"left": "right", "right": "left", "none": "left"}
  bob[repeats[0].id] = flipped[bob[repeats[0].id]]
  open_pair = next(p for p in STEMS[:5] if p not in {t.pair for t in repeats})
  del bob[next(t.id for t in test.trials if t.pair == open_pair)]
  files = [
    _answer(tmp_path / "ada.json", test, "Ada", ada),
    _answer(tmp_path / "bob.json", test, "Bob", bob),
  ]
  score = score_listening(files, key_path(page))
  # STEMS[5] is a tie of the two, STEMS[6] one of each.
  assert (score.pairs.wins, score.pairs.ties, score.pairs.losses) == (5, 2, 1)
  assert (score.judgements.wins, score.judgements.ties, score.judgements.losses) == (10, 2, 3)
  assert score.p_value == pytest.approx(2 * (1 + 6) / 2**6)
  assert (score.consistent.hits, score.consistent.n) == (3, 4)
  by_name = {rater.rater: rater for rater in score.raters}
  assert (by_name["Ada"].counts.n, by_name["Ada"].unanswered) == (8, 0)
  assert (by_name["Bob"].counts.n, by_name["Bob"].unanswered) == (7, 1)
  out = score.to_json()
  assert out["value"] == pytest.approx(5 / 6)
  assert out["interval_95"] == pytest.approx(wilson(5, 6))
  assert out["n"] == 6
  assert json.loads(json.dumps(out)) == out
  assert "5 for old-model, 2 ties, 1 for new-model" in str(score)


def test_pairs_without_an_answer_are_counted(folders: tuple[Path, Path], tmp_path: Path) -> None:
  page = tmp_path / "test.html"
  test = _write(page, folders)
  score = score_listening([_answer(tmp_path / "x.json", test, "X", {})], key_path(page))
  assert (score.unjudged, score.pairs.n, score.p_value) == (8, 0, 1.0)
  assert score.to_json()["value"] is None
  assert "no pair was decided" in str(score)


def test_what_does_not_belong_together_is_refused(
  folders: tuple[Path, Path], tmp_path: Path
) -> None:
  page, elsewhere = tmp_path / "test.html", tmp_path / "other.html"
  test, other = _write(page, folders), _write(elsewhere, folders, seed=9)
  key = key_path(page)
  good = _answer(tmp_path / "ada.json", test, "Ada", _for_first(test, set()))
  twice = _answer(tmp_path / "again.json", test, " ada ", {})
  with pytest.raises(UserError, match="both of rater"):
    score_listening([good, twice], key)
  with pytest.raises(UserError, match="both of rater"):
    score_listening([good, good], key)
  with pytest.raises(UserError, match="another test"):
    score_listening([_answer(tmp_path / "o.json", other, "Eve", {})], key)
  with pytest.raises(UserError, match="no key of a listening test"):
    score_listening([good], good)
  with pytest.raises(UserError, match="no result of a listening test"):
    score_listening([key], key)
  with pytest.raises(UserError, match="nothing to score"):
    score_listening([], key)
  content = json.loads(good.read_text())
  for damage in (
    {"rater": ""},
    {"trials": 3},
    {"answers": content["answers"][:1] * 2},
    {"answers": [{"trial": "unknown", "choice": "left"}]},
    {"answers": [{**content["answers"][0], "choice": "both"}]},
  ):
    (tmp_path / "bad.json").write_text(json.dumps({**content, **damage}))
    with pytest.raises(UserError, match=r"bad\.json is damaged"):
      score_listening([tmp_path / "bad.json"], key)
  (tmp_path / "bad.json").write_text(good.read_text()[:-20])
  with pytest.raises(UserError, match="is no JSON"):
    score_listening([tmp_path / "bad.json"], key)
  broken = json.loads(key.read_text())
  del broken["trials"][0]["first_on"]
  (tmp_path / "bad.json").write_text(json.dumps(broken))
  with pytest.raises(UserError, match="use the key as it was written"):
    score_listening([good], tmp_path / "bad.json")
  with pytest.raises(UserError, match="left or right"):
    Trial(id="1", pair="p", first_on="top", repeat=False)


def test_the_commands(
  folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
  (tmp_path / "p.csv").write_text('file_name,caption\naudio/song-1.wav,"slow, soft"\n')
  page, a, b = tmp_path / "test.html", *map(str, folders)
  options = ["--names", *NAMES, "--prompts", str(tmp_path / "p.csv"), "--seed", "1"]
  assert _command("listening-page", a, b, "--out", str(page), *options) == 0
  told = capsys.readouterr().out
  assert "alone.wav" in told
  assert "7 of 8 pairs have no prompt" in told
  assert [t["prompt"] for t in _data(page)["trials"] if t["prompt"]] == ["slow, soft"]
  test = read_key(key_path(page))
  result = _answer(tmp_path / "ada.json", test, "Ada", _for_first(test, set(STEMS)))
  out = tmp_path / "score.json"
  assert _command("listening", str(result), "--key", str(key_path(page)), "--out", str(out)) == 0
  assert json.loads(out.read_text())["p_value"] == pytest.approx(2 / 2**8)
  assert "8 for old-model" in capsys.readouterr().out
  with pytest.raises(UserError, match="holds no prompts"):
    read_prompts(str(key_path(page)))


@pytest.mark.skipif(not shutil.which("node"), reason="needs node to run the page's script")
def test_the_logic_of_the_page() -> None:
  script = r"""
const assert = require("assert/strict");
const trials = [{id: "a"}, {id: "b"}, {id: "c"}];
assert.equal(action("1"), "play left");
assert.equal(action("ArrowDown", {tag: "BUTTON"}), "choose none");
assert.equal(action(" ", {tag: "BUTTON"}), null);
assert.equal(action("Backspace", {tag: "INPUT", type: "text"}), null);
assert.equal(action("ArrowLeft", {tag: "INPUT", type: "range"}), null);
assert.equal(action("1", {tag: "INPUT", type: "range"}), "play left");
assert.equal(action("ArrowLeft", {modified: true}), null);
assert.equal(action("x"), null);

let state = fresh("Ada");
assert.deepEqual(choose(state, trials, "left"), state);  // nothing was played
state = hear(state, trials, "left");
assert.deepEqual(choose(state, trials, "left"), state);
state = hear(hear(state, trials, "right"), trials, "right");
state = choose(state, trials, "left");
assert.deepEqual([state.index, answered(state), state.answers], [1, 1, {a: "left"}]);
const gone = back(state, trials);
assert.equal(gone.index, 0);
assert.equal(back(gone, trials).index, 0);
assert.deepEqual(choose(gone, trials, "none").answers, {a: "none"});
const early = finish(state, trials);
assert.equal(early.index, 3);
assert.equal(back(early, trials).index, 1);  // the first that is open
assert.equal(mayChoose(early, trials), false);

const stored = JSON.stringify(state);
assert.deepEqual(restored(stored, trials, "Ada"), state);
assert.deepEqual(restored(null, trials, "Ada"), fresh("Ada"));
assert.deepEqual(restored("{cut", trials, "Ada"), fresh("Ada"));
assert.deepEqual(restored('{"answers": {"a": "both", "z": "left"}, "index": 99}', trials, "A"),
  {...fresh("A"), index: 3});
assert.equal(raterKey("  ada   B "), raterKey("Ada b"));

const data = {format: "f", test: "0123456789", trials};
assert.deepEqual(result(data, state),
  {format: "f", test: "0123456789", rater: "Ada", trials: 3,
   answers: [{trial: "a", choice: "left"}]});
assert.equal(fileName(data, fresh(" Zoë / 2 ")), "listening-012345-zoë-2.json");
assert.equal(fileName(data, fresh("///")), "listening-012345-rater.json");
"""
  subprocess.run(["node", "-e", LOGIC + script], check=True)


def test_the_page_is_one_file_with_labels() -> None:
  page = listening_page({"test": "t", "question": "<Which>?", "trials": [], "clips": {}})
  assert "default-src 'none'" in page
  assert "http" not in page.replace("http-equiv", "")
  assert "&lt;Which&gt;?" in page
  for name in ("Position in A", "Position in B", "Answers given"):
    assert f'aria-label="{name}"' in page
  assert '<label for="rater">' in page
  assert page.count('role="status"') == 3


def test_wilson_and_sign_test() -> None:
  # Newcombe (1998), table I: 81 of 263, 15 of 148, 0 of 20 and 1 of 29.
  for hits, count, expected in (
    (81, 263, (0.2553, 0.3662)),
    (15, 148, (0.0624, 0.1605)),
    (0, 20, (0.0, 0.1611)),
    (1, 29, (0.0061, 0.1718)),
  ):
    assert wilson(hits, count) == pytest.approx(expected, abs=5e-5)
  assert wilson(0, 0) == (0.0, 1.0)
  assert sign_test(0, 0) == sign_test(3, 3) == 1.0
  assert sign_test(10, 0) == sign_test(0, 10) == pytest.approx(2 / 1024)
  assert sign_test(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
  assert 0 < sign_test(900, 1100) < 1e-4  # beyond what a float holds of 2^n


def test_a_threshold_is_an_order_statistic() -> None:
  values = np.random.default_rng(0).permutation(np.arange(1.0, 101.0))
  threshold = calibrate(values, false_alarm_rate=0.05)
  assert (threshold.value, threshold.above, threshold.n) == (95.0, 5, 100)
  assert threshold.false_alarm_rate == pytest.approx(6 / 101)
  # With none above, 1 - (1 - q)^(1 / n) is the quantile of Beta(1, n).
  none = calibrate(values, false_alarm_rate=0)
  expected = [1 - (1 - share) ** (1 / 100) for share in (0.025, 0.975)]
  assert none.value == 100
  assert none.interval_95 == pytest.approx(expected, rel=1e-9)
  assert calibrate([1.0] * 50, false_alarm_rate=0.1).above == 0
  for bad, rate in (([], 0.1), ([np.nan], 0.1), ([1.0], 1.0)):
    with pytest.raises(UserError):
      calibrate(bad, false_alarm_rate=rate)
