"""Captions that a language model writes, given titles and artists (as in the paper, section 3.5).

Replies are kept as they come (`replies`); the vocabulary is made of them at the end, also when a
limit was reached. So the same command goes on where an earlier one stopped, and asks nothing twice
that was answered. What got no answer stands in `NAME.failed.jsonl` and is asked again next time.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.captions.caption_list import EmptyList, ListSummary, list_path, write_list
from data_pipelines.captions.chat import Chat, Endpoint, NoReply, Reply, TryAgain
from data_pipelines.captions.cleaning import normal_form
from data_pipelines.captions.prompts import Prompt, Song, read_songs
from data_pipelines.captions.refine import Dropped, Raw, Rules
from data_pipelines.captions.replies import Replies, request_key
from data_pipelines.captions.spending import Budget, Limits, Spent
from data_pipelines.ingest_local import Stopped
from data_pipelines.manifest import write_json_lines
from data_pipelines.parallel import Advance, Progress, no_progress, ordered_map
from noise2music.errors import UserError

ANSWERED, KNOWN, FAILED, NOT_ASKED = "answered", "known before", "failed", "not asked"

NO_LIMITS, LLM_RULES = Limits(), Rules(about_music=True)

_OVERHEAD_TOKENS = 16  # of a message, at most, beside its text
_GIVE_UP_AFTER = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ask:
  """What is asked of which model. reply_tokens: at most, of one reply. concurrency: requests."""

  model: str
  prompt: Prompt = Prompt()
  temperature: float = 1.0
  reply_tokens: int = 300
  concurrency: int = 4

  def __post_init__(self):
    if not self.model.strip():
      raise UserError("the name of the model is empty: give one that the server has")
    if self.reply_tokens < 1 or self.concurrency < 1 or not 0 <= self.temperature <= 2:
      raise UserError("reply_tokens and concurrency must be 1 or more, temperature between 0 and 2")

  def body(self, song: Song) -> dict[str, Any]:
    messages = self.prompt.messages(song)
    settings = {"temperature": self.temperature, "max_tokens": self.reply_tokens}
    return {"model": self.model, "messages": messages, **settings}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """What became of a song; reason: why there is no reply."""

  song: Song
  status: str
  reply: Reply | None = None
  reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlmSummary:
  """songs: counts by status, which add up to the rows of the table. spent: earlier runs included.

  written: None where there was no reply to make a vocabulary of. damaged: lines among the replies
  that could not be read, whose songs were asked again. error: what ended the run early.
  """

  songs: dict[str, int]
  spent: Spent
  cost: float | None
  written: ListSummary | None
  replies: Path
  failed: Path
  damaged: int
  error: UserError | None

  def __str__(self) -> str:
    songs = ", ".join(f"{count} {status}" for status, count in self.songs.items() if count)
    cost = "" if self.cost is None else f", a cost of {self.cost:.4g}"
    lines = [
      f"{sum(self.songs.values())} songs: {songs or 'none'}",
      f"spent in all: {self.spent.requests} requests, {self.spent.tokens} tokens{cost}",
      f"replies: {self.replies}\nwithout reply, with reasons: {self.failed}",
    ]
    if self.damaged:
      lines.append(f"{self.damaged} damaged lines among the replies were passed over")
    if self.songs.get(NOT_ASKED) and self.error is None:
      lines.append("the limit is reached: raise it and run the same command to go on")
    return "\n".join([*lines, str(self.written)] if self.written else lines)


def make_llm_list(
  songs: Path,
  out: str | os.PathLike,
  *,
  endpoint: Endpoint,
  ask: Ask,
  limits: Limits = NO_LIMITS,
  rules: Rules = LLM_RULES,
  progress: Progress = no_progress,
) -> LlmSummary:
  """Asks for captions of the songs in a table and writes a vocabulary of them to `out`.

  What ended the run early is the summary's `error`; all replies until then, those of earlier runs
  included, are kept and written.
  Raises UserError for input of which nothing can be asked, `Stopped` on Ctrl-C.
  """
  path = list_path(out)
  rows = list(read_songs(songs))
  if not any(isinstance(row, Song) for row in rows):
    raise UserError(f"{songs} lists no song: give rows under the columns title and artist")
  replies_path, failed_path = path.with_suffix(".replies.jsonl"), path.with_suffix(".failed.jsonl")
  stop = threading.Event()
  chat = Chat(endpoint, stop=stop)
  with Replies(replies_path) as replies:
    budget = Budget(limits, spent=replies.spent)
    asker = _Asker(chat=chat, ask=ask, attempts=endpoint.attempts, budget=budget, replies=replies)
    run = _Run(asker=asker, rows=rows, stop=stop, progress=progress)
    written = None
    try:
      made = {"model": ask.model, "prompt_sha256": _digest(ask.prompt), "songs": str(songs)}
      with contextlib.closing(run.texts()) as texts:
        written = write_list(path, texts, rules=rules, source=ask.model, about=made)
    except KeyboardInterrupt:
      raise Stopped(
        f"stopped; {len(replies)} replies are kept in {replies_path}: run the same command to go on"
      ) from None
    except EmptyList as error:
      run.error = run.error or (None if run.counts[NOT_ASKED] else error)
    except UserError as error:
      run.error = run.error or error
    finally:
      write_json_lines(failed_path, run.failed)
  return LlmSummary(
    songs=dict(run.counts),
    spent=budget.spent,
    cost=limits.cost_of(budget.spent),
    written=written,
    replies=replies_path,
    failed=failed_path,
    damaged=replies.damaged,
    error=run.error,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Asker:
  """One song at a time, called by many threads."""

  chat: Chat
  ask: Ask
  attempts: int
  budget: Budget
  replies: Replies
  answered: set[str] = dataclasses.field(default_factory=set)  # keys, in this run

  def known(self, song: Song) -> Answer | None:
    """The answer that is kept, None where the song has to be asked about."""
    key = request_key(self.ask.body(song))
    reply = self.replies.get(key)
    status = ANSWERED if key in self.answered else KNOWN
    return None if reply is None else Answer(song=song, status=status, reply=reply)

  def __call__(self, song: Song) -> Answer:
    if known := self.known(song):
      return known
    body = self.ask.body(song)
    key = request_key(body)
    text = "".join(message["content"] for message in body["messages"])
    # A token is a byte or more, so a prompt has no more tokens than bytes.
    prompt_tokens = len(text.encode()) + _OVERHEAD_TOKENS * len(body["messages"])
    most = Spent(requests=1, prompt_tokens=prompt_tokens, reply_tokens=self.ask.reply_tokens)
    spent, reason = Spent(), "stopped"
    for attempt in range(self.attempts):
      if not self.chat.wait_for_others():
        break
      if not self.budget.reserve(most):
        reason = f"the limit is reached; before that: {reason}" if attempt else ""
        break
      if self.chat.stopped:  # while it waited for room
        self.budget.settle(most, Spent())
        break
      used, wait = Spent(requests=1), None
      try:
        reply = self.chat.attempt(body)
        used = _used(reply, most=most)
        self.replies.add(key, reply, spent=spent + used)
        self.answered.add(key)
        return Answer(song=song, status=ANSWERED, reply=reply)
      except NoReply as error:
        reason, wait = str(error), getattr(error, "wait_seconds", None)
        used = most if error.maybe_billed else used
        spent += used
        if not isinstance(error, TryAgain) or attempt + 1 == self.attempts:
          break
      except UserError:
        with contextlib.suppress(UserError):  # where nothing can be written, that is the error
          self.replies.add_failure(spent=spent + used)
        raise
      finally:
        self.budget.settle(most, used)
      if not self.chat.wait(key, attempt=attempt, asked=wait):
        break
    if not spent.requests:
      return Answer(song=song, status=NOT_ASKED)
    self.replies.add_failure(spent=spent)
    return Answer(song=song, status=FAILED, reason=f"{reason} ({spent.requests} attempts)")


class _Run:
  """Turns rows into raw texts and counts; `error` is what ended it before its time.

  Known replies behind an error are still given: the vocabulary must not shrink by it.
  """

  def __init__(
    self,
    *,
    asker: "_Asker",
    rows: Sequence[Song | Dropped],
    stop: threading.Event,
    progress: Progress,
  ):
    self._asker, self._rows, self._stop, self._progress = asker, rows, stop, progress
    self.counts: collections.Counter[str] = collections.Counter()
    self.failed: list[dict[str, str]] = []
    self._taken = 0  # songs
    self.error: UserError | None = None

  def texts(self) -> Iterator[Raw | Dropped]:
    songs = [row for row in self._rows if isinstance(row, Song)]
    for row in self._rows:
      if isinstance(row, Dropped):
        self._fail(row.place, f"{row.reason} {row.detail}".strip(), status="unusable rows")
    try:
      with self._progress("captions", float(len(songs)), 0.0) as advance:
        yield from self._answered(songs, advance)
    except UserError as error:
      self.error = error
      for answer in filter(None, map(self._asker.known, songs[self._taken :])):
        self.counts[answer.status] += 1
        yield from raw_texts(answer.song, answer.reply)
    finally:
      self.counts[NOT_ASKED] += len(self._rows) - self.counts.total()

  def _answered(self, songs: Sequence[Song], advance: Advance) -> Iterator[Raw | Dropped]:
    in_a_row = 0
    answers = ordered_map(
      self._asker, songs, workers=self._asker.ask.concurrency, on_stop=self._stop.set
    )
    with contextlib.closing(answers):  # now, not when the last reference to it happens to go
      for answer in answers:
        advance(1.0)
        self._taken += 1
        in_a_row = in_a_row + 1 if answer.status == FAILED else 0
        if answer.status == FAILED:
          self._fail(answer.song.place, answer.reason, status=FAILED)
        else:
          self.counts[answer.status] += 1
        if answer.reply is not None:
          yield from raw_texts(answer.song, answer.reply)
        if in_a_row == _GIVE_UP_AFTER:
          raise UserError(
            f"{in_a_row} songs in a row got no reply, the last because of {answer.reason}; "
            "mend that and run the same command to go on"
          )

  def _fail(self, place: str, reason: str, *, status: str) -> None:
    self.counts[status] += 1
    self.failed.append({"place": place, "reason": reason})


def raw_texts(song: Song, reply: Reply) -> Iterator[Raw | Dropped]:
  """The lines of a reply; a last line that was cut off, and lines that name the song, are lost."""
  lines = [line for line in reply.text.splitlines() if line.strip() and not _is_fence(line)]
  if not lines:
    yield Dropped(place=song.place, reason="an empty reply")
  for number, line in enumerate(lines, start=1):
    if reply.finish == "length" and number == len(lines):
      yield Dropped(place=song.place, reason="cut off by the length of replies", text=line)
    elif _names(line, song):
      yield Dropped(place=song.place, reason="names the song or the artist", text=line)
    else:
      yield Raw(place=song.place, text=line)


def _names(line: str, song: Song) -> bool:
  """Titles of one word are often words of the language ("Waltz"), so only longer ones count."""
  line = f" {normal_form(line)} "
  title, artist = normal_form(song.title), normal_form(song.artist)
  words = normal_form(re.sub("['\u2019]", "", song.title)).split()  # "Don't" is one
  artist = "" if artist in ("traditional", "unknown", "anonymous", "various artists") else artist
  long_title = title if len(words) > 1 else ""
  return any(name and f" {name} " in line for name in (long_title, artist))


def _is_fence(line: str) -> bool:
  return line.strip().startswith("```")


def _used(reply: Reply, *, most: Spent) -> Spent:
  told = reply.prompt_tokens, reply.reply_tokens
  return dataclasses.replace(
    most,
    prompt_tokens=most.prompt_tokens if told[0] is None else told[0],
    reply_tokens=most.reply_tokens if told[1] is None else told[1],
  )


def _digest(prompt: Prompt) -> str:
  text = json.dumps(dataclasses.asdict(prompt), sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()
