"""A server of the chat interface on this machine that misbehaves as a test tells it to."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-do-not-show-0123456789"


@dataclasses.dataclass
class Answer:
  """body: bytes as they are, else a completion of this text. slow_seconds: between two halves.

  drips_after: bytes that are the whole answer, but for two seconds of single letters behind them.
  """

  body: bytes | str = "A slow piano plays in a minor key.\nThe drums are soft and steady."
  status: int = 200
  headers: dict = dataclasses.field(default_factory=dict)
  slow_seconds: float = 0.0
  missing_bytes: int = 0
  drips_after: bytes = b""
  finish: str = "stop"
  usage: tuple[int, int] | None = (100, 20)


class ChatServer(ThreadingHTTPServer):
  """answer(title, how many times it was asked before) -> Answer; asked: (title, headers, time).

  left: how often a client was gone before a dripping answer had ended.
  """

  daemon_threads = True

  def __init__(self, answer: Callable[[str, int], Answer]):
    super().__init__(("127.0.0.1", 0), _Handler)
    self.answer, self.asked, self.left, self.lock = answer, [], 0, threading.Lock()

  @property
  def url(self) -> str:
    return f"http://127.0.0.1:{self.server_address[1]}/v1"

  @property
  def titles(self) -> list[str]:
    return [title for title, _, _ in self.asked]

  def handle_error(self, request, client_address):
    pass  # a client that went away is part of the tests


class _Handler(BaseHTTPRequestHandler):
  def do_POST(self):
    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
    title = body["messages"][-1]["content"].splitlines()[0].removeprefix("Title: ")
    with self.server.lock:
      before = self.server.titles.count(title)
      self.server.asked.append((title, dict(self.headers), time.monotonic()))
    answer = self.server.answer(title, before)
    if answer.drips_after:
      self._drip(answer.drips_after)
      return
    raw = answer.body if isinstance(answer.body, bytes) else completion(answer)
    self.send_response(answer.status)
    for name, value in {"Content-Length": str(len(raw)), **answer.headers}.items():
      self.send_header(name, value)
    self.end_headers()
    self.wfile.write(raw[:1])
    self.wfile.flush()
    time.sleep(answer.slow_seconds)
    self.wfile.write(raw[1 : len(raw) - answer.missing_bytes])

  def _drip(self, first: bytes):
    try:
      self.wfile.write(first)
      for _ in range(40):
        time.sleep(0.05)
        self.wfile.write(b"x")
    except OSError:
      self.server.left += 1

  def log_message(self, *_):
    pass


def completion(answer: Answer) -> bytes:
  choice = {"message": {"role": "assistant", "content": answer.body}}
  fields = {"choices": [{**choice, "finish_reason": answer.finish}]}
  if answer.usage:
    fields["usage"] = dict(zip(("prompt_tokens", "completion_tokens"), answer.usage, strict=True))
  return json.dumps(fields).encode()


@contextlib.contextmanager
def serving(answer: Callable[[str, int], Answer]) -> Iterator[ChatServer]:
  with ChatServer(answer) as server:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
      yield server
    finally:
      server.shutdown()
      thread.join()
