"""Captions of a language model, asked of a real server on this machine that misbehaves."""

import dataclasses
import email.utils
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from data_pipelines import command
from data_pipelines.captions.caption_list import read_list
from data_pipelines.captions.chat import Endpoint, Reply
from data_pipelines.captions.llm import FAILED, NOT_ASKED, Ask, make_llm_list, raw_texts
from data_pipelines.captions.prompts import Prompt, Song, read_prompt, read_songs
from data_pipelines.captions.refine import Dropped
from data_pipelines.captions.replies import Replies
from data_pipelines.captions.spending import Budget, Limits, Spent
from noise2music.errors import UserError
from tests.data_pipelines.chat_server import KEY, Answer, serving


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", KEY)
  monkeypatch.setenv("no_proxy", "*")


def table(path, count):
  rows = (f"Song {index},Artist {index}\n" for index in range(count))
  path.write_text("title,artist\n" + "".join(rows))
  return path


def caption(title, about="piano"):
  number = title.split()[-1]
  return f"The {about} of number {number} plays {'la ' * (int(number) + 1)}slowly.\n"


def good(title, before):
  return Answer(body=caption(title))


def ask_all(tmp_path, server, *, count=3, **changes):
  endpoint = {"timeout_seconds": 5.0, "attempts": 4, "first_wait_seconds": 0.01}
  names = {field.name for field in dataclasses.fields(Endpoint)}
  endpoint |= {name: changes.pop(name) for name in names & changes.keys()}
  ask = Ask(model="m", concurrency=changes.pop("concurrency", 1))
  return make_llm_list(
    table(tmp_path / "songs.csv", count),
    tmp_path / "made" / "llm.txt",
    endpoint=Endpoint(url=server.url, **endpoint),
    ask=ask,
    **changes,
  )


def no_key_in(folder):
  for path in folder.rglob("*"):
    assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def failures(summary):
  return [json.loads(line)["reason"] for line in summary.failed.read_text().splitlines()]


def test_captions_replies_and_counts(tmp_path):
  with serving(good) as server:
    summary = ask_all(tmp_path, server, count=5, concurrency=3)
    assert summary.songs == {"answered": 5, NOT_ASKED: 0}
    assert summary.spent == Spent(requests=5, prompt_tokens=500, reply_tokens=100)
    assert summary.error is None
    made = read_list(tmp_path / "made" / "llm.txt")
    assert made.captions == tuple(caption(f"Song {index}").strip() for index in range(5))
    assert (made.kind, made.source, made.about["captions"]) == ("long", "m", 5)
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in server.asked)
    before = (tmp_path / "made" / "llm.txt").read_bytes()
    again = ask_all(tmp_path, server, count=6)
    assert again.songs == {"known before": 5, "answered": 1, NOT_ASKED: 0}
    assert len(server.asked) == 6
  assert (tmp_path / "made" / "llm.txt").read_bytes().startswith(before)
  no_key_in(tmp_path)


MISBEHAVIOURS = {
  "429": lambda: Answer(status=429, body=b'{"error": {"message": "slow down"}}'),
  "500": lambda: Answer(status=500, body=b"<html>oops</html>"),
  "slow": lambda: Answer(slow_seconds=1.0),
  "cut off": lambda: Answer(missing_bytes=5),
  "short JSON": lambda: Answer(body=b'{"choices": [{"mess'),
  "no choices": lambda: Answer(body=b'{"choices": []}'),
  "no text": lambda: Answer(body=b'{"choices": [{"message": {"content": null}}]}'),
  "a list": lambda: Answer(body=b"[1, 2]"),
  "not UTF-8": lambda: Answer(body=b'{"choices": "\xff"}'),
  "nothing": lambda: Answer(body=b""),
}


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_what_may_pass_is_tried_again(tmp_path, name):
  def answer(title, before):
    return MISBEHAVIOURS[name]() if title == "Song 1" and before < 2 else good(title, before)

  with serving(answer) as server:
    summary = ask_all(tmp_path, server, timeout_seconds=0.3)
    assert summary.songs == {"answered": 3, NOT_ASKED: 0}
    assert server.titles == ["Song 0", "Song 1", "Song 1", "Song 1", "Song 2"]
  assert summary.spent.requests == 5
  assert summary.written.captions == 3


@pytest.mark.parametrize("name", MISBEHAVIOURS)
def test_what_does_not_pass_loses_one_song(tmp_path, name):
  def answer(title, before):
    return MISBEHAVIOURS[name]() if title == "Song 1" else good(title, before)

  with serving(answer) as server:
    summary = ask_all(tmp_path, server, timeout_seconds=0.3, attempts=2)
    assert summary.songs == {"answered": 2, FAILED: 1, NOT_ASKED: 0}
    server.answer = good
    again = ask_all(tmp_path, server)  # failures are not remembered
    assert again.songs == {"answered": 1, "known before": 2, NOT_ASKED: 0}
  assert summary.written.captions == 2
  assert again.written.captions == 3
  assert again.spent.requests == 5  # the attempts of the first run included


def test_a_server_is_left_alone_as_long_as_it_asks(tmp_path):
  date = email.utils.formatdate(time.time() + 3600, usegmt=True)

  def answer(title, before):
    if title == "Song 0" and not before:
      return Answer(status=429, body=b"", headers={"Retry-After": "0.7"})
    if title == "Song 2":
      return Answer(status=503, body=b"", headers={"Retry-After": date})
    return good(title, before)

  with serving(answer) as server:
    summary = ask_all(tmp_path, server, concurrency=1)
    times = [moment for title, _, moment in server.asked if title == "Song 0"]
    assert times[1] - times[0] >= 0.7
    assert server.titles.count("Song 2") == 1
  assert summary.songs == {"answered": 2, FAILED: 1, NOT_ASKED: 0}
  assert "asks to wait" in failures(summary)[0]


def test_a_request_that_is_refused_is_not_repeated(tmp_path):
  def answer(title, before):
    body = json.dumps({"error": {"message": f"no {KEY}\nhere"}}).encode()
    return Answer(status=400, body=body) if title == "Song 1" else good(title, before)

  with serving(answer) as server:
    summary = ask_all(tmp_path, server)
    assert server.titles.count("Song 1") == 1
  assert failures(summary) == ["HTTP 400: no (key) here (1 attempts)"]
  no_key_in(tmp_path)


@pytest.mark.parametrize(
  ("status", "mend"),
  [
    (401, "set OPENAI_API_KEY to a key"),
    (402, "top up the balance of the account"),
    (404, "the name of the model"),
    (307, "it sends to"),
  ],
)
def test_what_would_fail_for_every_song_ends_the_run(tmp_path, status, mend, capsys):
  def answer(title, before):
    if title == "Song 0":
      return good(title, before)
    headers = {"Location": "http://127.0.0.1:1/v1"}
    return Answer(status=status, body=f"your key {KEY}".encode(), headers=headers)

  with serving(answer) as server:
    songs = table(tmp_path / "songs.csv", 9)
    arguments = ["captions", "llm", str(songs), "--out", str(tmp_path / "o.txt"), "--model", "m"]
    assert command.main([*arguments, "--url", server.url, "--concurrency", "1"]) == 2
    assert len(server.asked) < 9
  out, err = capsys.readouterr()
  assert f"answers HTTP {status}: your key (key); " in err
  assert mend in err
  assert "1 answered, 8 not asked" in out
  assert read_list(tmp_path / "o.txt").captions == (caption("Song 0").strip(),)
  assert KEY not in out + err
  no_key_in(tmp_path)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_an_error_in_a_later_run_does_not_shrink_the_vocabulary(tmp_path, concurrency):
  def once_refused(title, before):
    return Answer(status=400, body=b"") if title == "Song 2" else good(title, before)

  with serving(once_refused) as server:
    first = ask_all(tmp_path, server, count=20)
    assert (first.written.captions, first.error) == (19, None)
    before = first.written.path.read_bytes()
    server.answer = lambda title, before: Answer(status=401, body=b"expired")
    again = ask_all(tmp_path, server, count=20, concurrency=concurrency)
  assert again.songs == {"known before": 19, NOT_ASKED: 1}
  assert "HTTP 401" in str(again.error)
  assert first.written.path.read_bytes() == before


def test_what_attempts_may_have_cost_before_an_error_is_kept(tmp_path):
  def answer(title, before):
    return Answer(status=401, body=b"") if before else Answer(missing_bytes=5)

  with serving(answer) as server:
    summary = ask_all(tmp_path, server, count=1)
  assert (summary.spent.requests, summary.spent.reply_tokens) == (2, Ask(model="m").reply_tokens)
  with Replies(summary.replies) as kept:
    assert kept.spent == summary.spent


@pytest.mark.parametrize(
  ("first", "reason"),
  [
    (b"HTTP/1.0 200 OK\r\nX-Slow: ", "no reply within 0.3 s (1 attempts)"),
    (b"HTTP/1.0 200 OK\r\n\r\n", "no reply within 0.3 s (1 attempts)"),
    (b"HTTP/1.0 500 No\r\n\r\n", "HTTP 500 (1 attempts)"),
  ],
)
def test_a_server_that_drips_holds_nobody(tmp_path, first, reason):
  with serving(lambda title, before: Answer(drips_after=first)) as server:
    summary = ask_all(tmp_path, server, count=1, timeout_seconds=0.3, attempts=1)
    deadline = time.monotonic() + 5
    while not server.left and time.monotonic() < deadline:
      time.sleep(0.02)
    assert server.left == 1
  assert failures(summary) == [reason]


def test_a_line_that_was_written_in_part_takes_no_other_with_it(tmp_path):
  resource = pytest.importorskip("resource")
  path, reply = tmp_path / "r.jsonl", Reply(text="A slow tune.", finish="stop")
  with Replies(path) as replies:
    replies.add("one", reply, spent=Spent(requests=1))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
      with pytest.raises(UserError, match="cannot write"):
        replies.add("two", reply, spent=Spent(requests=1))
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    replies.add("three", reply, spent=Spent(requests=1))
  with Replies(path) as kept:
    assert (len(kept), kept.damaged, kept.spent.requests) == (2, 0, 2)


def test_a_server_that_is_gone_ends_the_run(tmp_path):
  with serving(good) as server:
    pass
  summary = ask_all(tmp_path, server, count=40, attempts=2)
  assert summary.songs[FAILED] == 10
  assert sum(summary.songs.values()) == 40
  assert "10 songs in a row got no reply" in str(summary.error)
  assert summary.written is None
  assert not (tmp_path / "made" / "llm.txt").exists()


def test_an_echoed_key_is_not_stored(tmp_path):
  with serving(lambda title, before: Answer(body=f"The piano plays {KEY} softly.")) as server:
    summary = ask_all(tmp_path, server, count=1)
  assert read_list(summary.written.path).captions == ("The piano plays (key) softly.",)
  no_key_in(tmp_path)


def test_a_key_that_is_none_is_left_in_words(tmp_path, monkeypatch):
  monkeypatch.setenv("OPENAI_API_KEY", "x")
  with serving(lambda title, before: Answer(body="The saxophone is in the mix.")) as server:
    summary = ask_all(tmp_path, server, count=1)
    assert server.asked[0][1]["Authorization"] == "Bearer x"
  assert read_list(summary.written.path).captions == ("The saxophone is in the mix.",)


def test_no_proxy_is_told_the_key_of_a_server_on_this_machine(tmp_path, monkeypatch):
  with serving(good) as server, serving(good) as proxy:
    for name in ("no_proxy", "NO_PROXY"):
      monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.url)
    summary = ask_all(tmp_path, server, count=1)
    assert (len(server.asked), proxy.asked) == (1, [])
  assert summary.songs["answered"] == 1


@pytest.mark.parametrize(
  ("limits", "requests"),
  [
    (Limits(requests=3), 3),
    (Limits(tokens=10_000), None),
    (Limits(cost=0.01, prompt_price=1.0, reply_price=2.0), None),
  ],
)
def test_a_limit_is_kept_and_what_exists_too(tmp_path, limits, requests):
  with serving(good) as server:
    summary = ask_all(tmp_path, server, count=100, concurrency=4, limits=limits)
    assert limits.allow(summary.spent)
    assert 0 < len(server.asked) < 100
    assert requests in (None, len(server.asked))
    assert summary.songs["answered"] == len(server.asked) == summary.written.captions
    assert summary.songs[NOT_ASKED] == 100 - len(server.asked)
    assert "raise it and run the same command to go on" in str(summary)
    again = ask_all(tmp_path, server, count=100, concurrency=4, limits=limits)
    assert limits.allow(again.spent)  # the limit is on all runs together
    more = ask_all(tmp_path, server, count=100, concurrency=4)
    assert more.songs[NOT_ASKED] == 0
    assert sorted(server.titles) == sorted(f"Song {index}" for index in range(100))


def test_without_usage_the_most_counts(tmp_path):
  with serving(
    lambda title, before: dataclasses.replace(good(title, before), usage=None)
  ) as server:
    summary = ask_all(tmp_path, server, count=2)
  assert summary.spent.reply_tokens == 2 * Ask(model="m").reply_tokens
  assert summary.spent.prompt_tokens > 2 * 1000


def test_a_limit_of_nothing_asks_nothing(tmp_path):
  with serving(good) as server:
    summary = ask_all(tmp_path, server, limits=Limits(requests=0))
    assert server.asked == []
  assert (summary.songs, summary.written, summary.error) == ({NOT_ASKED: 3}, None, None)


def test_killed_and_resumed_without_a_repeated_request(tmp_path):
  hang = threading.Event()

  def answer(title, before):
    if title == "Song 4" and not before:
      hang.set()
      time.sleep(2)
    return good(title, before)

  songs = table(tmp_path / "songs.csv", 8)
  out = tmp_path / "made" / "llm.txt"
  arguments = [sys.executable, "-m", "noise2music.cli", "data", "captions", "llm", str(songs)]
  with serving(answer) as server:
    arguments += ["--out", str(out), "--url", server.url, "--model", "m", "--concurrency", "1"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert hang.wait(60)
    process.send_signal(signal.SIGKILL)
    first = process.communicate()
    assert not out.exists()
    replies = out.with_suffix(".replies.jsonl")
    with open(replies, "ab") as file:
      file.write(b'{"key": "half of a li')
    second = subprocess.run(arguments, capture_output=True, check=True)
    # What was under way when the process died had no reply; nothing else is asked twice.
    assert server.titles == [f"Song {i}" for i in (0, 1, 2, 3, 4, 4, 5, 6, 7)]
  assert b"8 songs: 4 known before, 4 answered" in second.stdout
  assert b"1 damaged lines among the replies were passed over" in second.stdout
  assert len(read_list(out).captions) == 8
  with Replies(replies) as kept:
    assert (len(kept), kept.damaged) == (8, 1)
  for text in (*first, second.stdout, second.stderr):
    assert KEY.encode() not in text
  no_key_in(tmp_path)


def test_interrupted_in_a_wait(tmp_path):
  with serving(lambda title, before: Answer(status=500, body=b"")) as server:
    arguments = ["captions", "llm", str(table(tmp_path / "songs.csv", 3)), "--model", "m"]
    arguments += ["--out", str(tmp_path / "o.txt"), "--url", server.url]
    # A runner in the background is started with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
      assert command.main(arguments) == 130
    finally:
      signal.signal(signal.SIGINT, before)


def test_one_process_at_a_time(tmp_path):
  with Replies(tmp_path / "r.jsonl"), pytest.raises(UserError, match="another process is adding"):
    Replies(tmp_path / "r.jsonl").__enter__()


def test_the_key_goes_nowhere_else(monkeypatch):
  assert KEY not in repr(Endpoint(url="https://host/v1"))
  assert Endpoint(url="https://host/v1/").address == "https://host/v1/chat/completions"
  with pytest.raises(UserError, match="without encryption; use https") as caught:
    Endpoint(url="http://somewhere.example/v1").key()
  assert KEY not in str(caught.value)
  assert Endpoint(url="http://somewhere.example/v1", key_variable="").key() == ""
  for host in ("127.evil.example.com", "localhost.evil.example.com", "10.0.0.1"):
    with pytest.raises(UserError, match="without encryption; use https"):
      Endpoint(url=f"http://{host}/v1").key()
  for host in ("127.0.0.2", "[::1]", "LOCALHOST"):
    assert Endpoint(url=f"http://{host}:1/v1").key() == KEY
  monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX-Other: 1")
  with pytest.raises(UserError, match="characters that no key has") as caught:
    Endpoint(url="https://host/v1").key()
  assert KEY not in str(caught.value)
  for url in ("host/v1", "ftp://host", "https://", "https://host:x/", "https://[/"):
    with pytest.raises(UserError, match="must be like https://HOST/v1"):
      Endpoint(url=url)
  for url in (f"https://user:{KEY}@host/v1", f"https://host/v1?key={KEY}"):
    with pytest.raises(UserError, match="belongs into the environment variable") as caught:
      Endpoint(url=url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["timeout_seconds", "first_wait_seconds", "most_wait_seconds"])
def test_times_that_cannot_be(name, seconds):
  with pytest.raises(UserError, match=name):
    Endpoint(url="https://host/v1", **{name: seconds})


def test_a_budget_waits_for_what_is_under_way_and_then_says_no_for_good():
  one = Spent(requests=1, prompt_tokens=40, reply_tokens=20)
  budget = Budget(Limits(tokens=100))
  assert budget.reserve(one)
  answers = []
  thread = threading.Thread(target=lambda: answers.append(budget.reserve(one)))
  thread.start()
  thread.join(0.1)
  assert answers == []
  budget.settle(one, Spent(requests=1, prompt_tokens=30, reply_tokens=10))
  thread.join()
  assert answers == [True]
  budget.settle(one, one)
  assert not budget.reserve(one)
  assert not budget.reserve(Spent())
  assert budget.spent == Spent(requests=2, prompt_tokens=70, reply_tokens=30)
  with pytest.raises(UserError, match="give --prompt-price and --reply-price"):
    Limits(cost=1.0)
  with pytest.raises(UserError, match="tokens must be a number of 0 or more"):
    Limits(tokens=-1)


def test_songs_of_a_table(tmp_path):
  path = tmp_path / "songs.csv"
  path.write_bytes(
    "Artist\tTitle\tyear\nÉva\tNight, day\t1\néVA\tnight, Day\t2\nX\t \t3\nX\n".encode()
    + b"\xff\tY\t4\nZ\t" + b"t" * 201 + b"\t5\n\tAlone\t6\n"
  )  # fmt: skip
  rows = list(read_songs(path))
  songs = [(row.title, row.artist) for row in rows if isinstance(row, Song)]
  assert songs == [("Night, day", "Éva"), ("Alone", "")]
  assert [row.reason for row in rows if isinstance(row, Dropped)] == [
    "listed before",
    "no title",
    "a row that cannot be read",
    "a row that cannot be read",
    "a title or artist of more than 200 characters",
  ]
  assert Prompt().messages(Song(place="", title="T", artist=""))[-1]["content"] == (
    "Title: T\nArtist: unknown"
  )


def test_a_table_without_songs_is_one_sentence(tmp_path, capsys):
  songs = tmp_path / "songs.csv"
  arguments = ["captions", "llm", str(songs), "--out", str(tmp_path / "o.txt"), "--model", "m"]
  arguments += ["--url", "http://localhost:1/v1"]
  for content, reason in (("title,artist\n", "lists no song"), ("a,b\n", "no column title")):
    songs.write_text(content)
    assert command.main(arguments) == 2
    assert reason in capsys.readouterr().err
  assert command.main([*arguments, "--out", "o.csv"]) == 2
  assert "let it end in .txt" in capsys.readouterr().err


def test_lines_of_a_reply():
  song = Song(place="a:1", title="Blue Moon", artist="Sun Trio")
  text = "```\n1. A slow waltz.\n\n2. Sun Trio sing.\nIn 'blue moon' it rains.\nCut of"
  rows = list(raw_texts(song, Reply(text=text, finish="length")))
  assert [row.text for row in rows] == [
    "1. A slow waltz.", "2. Sun Trio sing.", "In 'blue moon' it rains.", "Cut of"
  ]  # fmt: skip
  assert [getattr(row, "reason", None) for row in rows] == [
    None,
    "names the song or the artist",
    "names the song or the artist",
    "cut off by the length of replies",
  ]
  (own,) = raw_texts(song, Reply(text="This is Sun Trio's sound.", finish="stop"))
  assert own.reason == "names the song or the artist"
  one_word = Song(place="a:1", title="Don't", artist="A")
  (word,) = raw_texts(one_word, Reply(text="The drums don't stop.", finish="stop"))
  assert not hasattr(word, "reason")
  (empty,) = raw_texts(song, Reply(text=" \n", finish="stop"))
  assert empty.reason == "an empty reply"


def test_a_prompt_of_ones_own(tmp_path):
  path = tmp_path / "prompt.json"
  example = {"title": "T", "artist": "A", "captions": ["One.", "Two."]}
  path.write_text(json.dumps({"instruction": "Do.", "examples": [example]}))
  messages = read_prompt(path).messages(Song(place="", title="S", artist="B"))
  assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
  assert messages[2]["content"] == "One.\nTwo."
  for content in ("{", "[]", '{"examples": []}', '{"instruction": " "}', '{"instruction": 1}'):
    path.write_text(content)
    with pytest.raises(UserError, match="is no prompt: give an object with instruction"):
      read_prompt(path)
  for fields, name in (
    ({"instruction": "Do.", "example": [example]}, "example"),
    ({"instruction": "Do.", "examples": [{**example, "caption": "One."}]}, "caption"),
  ):
    path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=f"unknown field '{name}'; use only"):
      read_prompt(path)
