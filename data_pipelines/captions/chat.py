"""Asks a language model over HTTP: any server with the interface of OpenAI's chat completions.

The key comes from the environment and goes into one header of requests to that one server: it is
not followed to where a server redirects, not sent without encryption to another machine, and taken
out of whatever a server says before that is shown or stored. Short words that servers on this
machine take for a key ("x", "none") are no secret, and left where they stand.
"""

import dataclasses
import email.utils
import hashlib
import http.client
import ipaddress
import json
import math
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from data_pipelines.captions.timed_http import TimedHttp, TimedHttps
from data_pipelines.importers.fields import clean_text
from noise2music.errors import UserError

_PATH = "/chat/completions"
_MOST_REPLY_BYTES = 1 << 22
_MOST_SECONDS = 86_400.0
_LEAST_SECRET = 16  # characters; a shorter key would be found within words
_AGAIN = {408, 409, 425, 429}  # and all from 500 on
_THIS_REQUEST = {400, 413, 422}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reply:
  """finish: why the model stopped, "length" where it was cut off. Tokens: None if not told."""

  text: str
  finish: str
  prompt_tokens: int | None = None
  reply_tokens: int | None = None


class NoReply(Exception):
  """This request has no reply; the text says why. maybe_billed: it may have cost its tokens."""

  def __init__(self, reason: str, *, maybe_billed: bool = False):
    super().__init__(reason)
    self.maybe_billed = maybe_billed


class TryAgain(NoReply):
  """Another attempt may succeed, after `wait_seconds` where the server named a time."""

  def __init__(self, reason: str, *, wait_seconds: float | None = None, maybe_billed: bool = False):
    super().__init__(reason, maybe_billed=maybe_billed)
    self.wait_seconds = wait_seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
  """url: up to /v1, or all of it. key_variable: of the environment, "" sends no key.

  timeout_seconds: for a whole reply. attempts: for one request, with waits that double from
  first_wait_seconds; a server that wants a longer wait than most_wait_seconds is not asked again.
  Raises UserError for a url that is none, or that would show the key to others.
  """

  url: str
  key_variable: str = "OPENAI_API_KEY"
  timeout_seconds: float = 60.0
  attempts: int = 6
  first_wait_seconds: float = 1.0
  most_wait_seconds: float = 120.0

  def __post_init__(self):
    try:
      parts = urllib.parse.urlsplit(self.url)
      host = parts.hostname
      _ = parts.port
    except ValueError:
      parts, host = urllib.parse.SplitResult("", "", "", "", ""), None
    if parts.scheme not in ("http", "https") or not host or not self.url.isprintable():
      raise UserError(
        "the url of the server must be like https://HOST/v1 or http://localhost:8000/v1"
      )
    if parts.username or parts.password or parts.query or parts.fragment or " " in self.url:
      raise UserError(
        "the url of the server must end with its path: a key or password belongs into the "
        f"environment variable {self.key_variable or 'that --key-variable names'}"
      )
    waits = self.first_wait_seconds, self.most_wait_seconds
    if not 0 < self.timeout_seconds <= _MOST_SECONDS or not self.attempts >= 1:
      raise UserError("timeout_seconds must be above 0 and at most a day, and attempts 1 or more")
    if not all(0 <= seconds <= _MOST_SECONDS for seconds in waits):
      raise UserError(
        "first_wait_seconds and most_wait_seconds must be 0 or more and at most a day"
      )

  @property
  def local(self) -> bool:
    """Whether the server is this machine."""
    host = urllib.parse.urlsplit(self.url).hostname
    try:
      return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may begin with 127. and be that of any machine
      return host == "localhost"

  @property
  def address(self) -> str:
    """Where requests go."""
    url = self.url.rstrip("/")
    return url if url.endswith(_PATH) else url + _PATH

  def key(self) -> str:
    """From the environment, "" where there is none. Raises UserError for what cannot be sent."""
    key = os.environ.get(self.key_variable, "").strip() if self.key_variable else ""
    if key and not re.fullmatch(r"[\x21-\x7e]+", key):
      raise UserError(f"{self.key_variable} holds characters that no key has; set it again")
    parts = urllib.parse.urlsplit(self.url)
    if key and parts.scheme == "http" and not self.local:
      raise UserError(
        f"the key in {self.key_variable} would be sent to {parts.hostname} without encryption; "
        "use https, or send none by --key-variable ''"
      )
    return key


class Chat:
  """Sends requests; safe to share among threads. `stop` ends waits and attempts."""

  def __init__(self, endpoint: Endpoint, *, stop: threading.Event):
    self._endpoint, self._stop = endpoint, stop
    self._key = endpoint.key()
    # The environment may name a proxy, which would be told the key of a server on this machine.
    no_proxy = [urllib.request.ProxyHandler({})] if endpoint.local else []
    self._opener = urllib.request.build_opener(_NoRedirects, TimedHttp, TimedHttps, *no_proxy)
    self._pause_until = 0.0

  @property
  def stopped(self) -> bool:
    return self._stop.is_set()

  def attempt(self, body: Mapping[str, Any]) -> Reply:
    """One request. Raises TryAgain, NoReply, or UserError for what would fail for any request."""
    begin = time.monotonic()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if self._key:
      headers["Authorization"] = f"Bearer {self._key}"
    request = urllib.request.Request(
      self._endpoint.address, json.dumps(body).encode(), headers, method="POST"
    )
    try:
      with self._opener.open(request, timeout=self._endpoint.timeout_seconds) as response:
        raw = self._read(response, begin=begin)
    except urllib.error.HTTPError as error:
      with error:
        raise self._refusal(error, begin=begin) from None
    except TimeoutError:
      reason = f"no reply within {self._endpoint.timeout_seconds:g} s"
      raise TryAgain(reason, maybe_billed=True) from None
    except (OSError, http.client.HTTPException) as error:
      cause = getattr(error, "reason", error)
      if isinstance(cause, TimeoutError):
        raise TryAgain("no connection in time", maybe_billed=True) from None
      reason = self._clean(f"the connection failed ({cause})")
      raise TryAgain(reason, maybe_billed=not isinstance(cause, ConnectionRefusedError)) from None
    return self._parse(raw)

  def wait(self, body_key: str, *, attempt: int, asked: float | None) -> bool:
    """Waits before another attempt, all threads together where the server asked; False: stopped.

    The doubling waits are spread by a hash, so that threads do not come back at the same moment.
    """
    endpoint = self._endpoint
    spread = hashlib.sha256(f"{body_key}/{attempt}".encode()).digest()[0] / 510 + 0.5
    doubled = endpoint.first_wait_seconds * 2 ** min(attempt, 30)
    seconds = min(doubled, endpoint.most_wait_seconds) * spread
    if asked is not None:
      seconds = max(asked, 0.0)
      self._pause_until = max(self._pause_until, time.monotonic() + seconds)
    return not self._stop.wait(seconds)

  def wait_for_others(self) -> bool:
    """Waits while the server has asked any thread to; False: stopped."""
    while (left := self._pause_until - time.monotonic()) > 0:
      if self._stop.wait(left):
        return False
    return not self.stopped

  def _read(self, response, *, begin: float) -> bytes:
    """The body within the time and size allowed: a drop now and then keeps no thread waiting."""
    raw = bytearray()
    while data := response.read1(1 << 16):
      raw += data
      if len(raw) > _MOST_REPLY_BYTES:
        raise NoReply(f"a reply of more than {_MOST_REPLY_BYTES} bytes", maybe_billed=True)
      if time.monotonic() - begin > self._endpoint.timeout_seconds:
        raise TimeoutError
    return bytes(raw)

  def _refusal(self, error: urllib.error.HTTPError, *, begin: float) -> Exception:
    code, said = error.code, self._said(error, begin=begin)
    about = f"HTTP {code}{': ' + said if said else ''}"
    if code in _AGAIN or code >= 500:
      wait = _retry_after(error.headers.get("Retry-After"))
      if wait is not None and wait > self._endpoint.most_wait_seconds:
        return NoReply(f"{about}; asks to wait {wait:.0f} s")
      return TryAgain(about, wait_seconds=wait)
    if code in _THIS_REQUEST:
      return NoReply(about)
    where = self._endpoint.address
    if code in (401, 403):
      mend = f"set {self._endpoint.key_variable or 'a key'} to a key that may use the model"
    elif code == 402:
      mend = "top up the balance of the account that the key belongs to"
    elif 300 <= code < 400:
      mend = "give the address that it sends to"
    else:
      mend = "check the url and the name of the model"
    return UserError(f"{where} answers {about}; {mend}")

  def _said(self, error: urllib.error.HTTPError, *, begin: float) -> str:
    try:
      raw = self._read(error, begin=begin).decode(errors="replace")
    except (OSError, http.client.HTTPException, NoReply):
      return ""
    try:
      raw = json.loads(raw)["error"]
      raw = raw["message"] if isinstance(raw, dict) else raw
    except (ValueError, KeyError, TypeError, RecursionError):
      pass
    return clean_text(self._without_key(str(raw))[: 1 << 14])[:200]

  def _parse(self, raw: bytes) -> Reply:
    try:
      fields = json.loads(raw.decode())
      choice = fields["choices"][0]
      text = choice["message"]["content"]
      if not isinstance(text, str):
        raise TypeError("no text")
      text.encode()
    except (ValueError, LookupError, TypeError, RecursionError):
      reason = "the reply is no chat completion, or cut off"
      raise TryAgain(reason, maybe_billed=True) from None
    usage = fields.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
      text=self._without_key(text),
      finish=str(choice.get("finish_reason") or "stop")[:40],
      prompt_tokens=_count(usage.get("prompt_tokens")),
      reply_tokens=_count(usage.get("completion_tokens")),
    )

  def _clean(self, text: str) -> str:
    return clean_text(self._without_key(text))

  def _without_key(self, text: str) -> str:
    return text.replace(self._key, "(key)") if len(self._key) >= _LEAST_SECRET else text


class _NoRedirects(urllib.request.HTTPRedirectHandler):
  def redirect_request(self, *_, **__):
    return None  # becomes an HTTPError


def _count(value: Any) -> int | None:
  return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _retry_after(value: str | None) -> float | None:
  """Seconds from a header that holds a number or a date; None where it holds neither."""
  try:
    seconds = float(value or "nan")
  except ValueError:
    try:
      seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
      return None
  return max(seconds, 0.0) if math.isfinite(seconds) else None
