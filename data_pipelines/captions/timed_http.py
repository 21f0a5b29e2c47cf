"""Replies over HTTP that keep to a time as a whole: status line, headers and body.

The timeout of a socket is for each read, so a server that drips a byte now and then would hold a
thread for as long as it likes. Here every read gets only what is left of that time.
"""

import http.client
import io
import socket
import time
import urllib.request


class _Timed(io.RawIOBase):
  """Reads of `raw`, which is that of `timed`, until its timeout has passed since the first."""

  def __init__(self, raw: io.RawIOBase, *, timed: socket.socket):
    self._raw, self._timed, timeout = raw, timed, timed.gettimeout()
    self._end = None if timeout is None else time.monotonic() + timeout

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int | None:
    if self._end is not None:
      left = self._end - time.monotonic()
      if left <= 0:
        raise TimeoutError
      self._timed.settimeout(left)
    return self._raw.readinto(buffer)

  def close(self) -> None:
    self._raw.close()
    super().close()


class _Response(http.client.HTTPResponse):
  def __init__(self, sock: socket.socket, *args, **kwargs):
    super().__init__(sock, *args, **kwargs)
    self.fp = io.BufferedReader(_Timed(self.fp.detach(), timed=sock))


class _Http(http.client.HTTPConnection):
  response_class = _Response


class _Https(http.client.HTTPSConnection):
  response_class = _Response


class TimedHttp(urllib.request.HTTPHandler):
  """For `urllib.request.build_opener`; the timeout of `open` is then for the whole reply."""

  def http_open(self, request):
    return self.do_open(_Http, request)


class TimedHttps(urllib.request.HTTPSHandler):
  """The same with encryption, certificates checked as usual."""

  def https_open(self, request):
    return self.do_open(_Https, request)
