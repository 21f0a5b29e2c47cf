"""What a blind listening test says: how often one of two is preferred, and whether that is chance.

A pair counts once, however many people judged it: it goes to the clip that more of them chose, and
is a tie where as many chose either or nobody chose. People who hear the same two clips are no
independent witnesses, so intervals and p values are over pairs; each rater's own answers are
counted beside. Repeats count for consistency alone.
"""

import dataclasses
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from noise2music.errors import UserError
from noise2music.evaluation.listening import KEY_FORMAT, SIDES, ListeningTest, Trial
from noise2music.evaluation.listening_page import RESULT_FORMAT
from noise2music.evaluation.proportions import sign_test, wilson

_CHOICES = (*SIDES, "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
  """Judgements or pairs for the first of the two, for neither, and for the second."""

  wins: int
  ties: int
  losses: int

  @property
  def n(self) -> int:
    return self.wins + self.ties + self.losses

  def to_json(self) -> dict[str, int]:
    return {**dataclasses.asdict(self), "n": self.n}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
  """hits of n with the 95 % interval of Wilson; no value where n is 0."""

  hits: int
  n: int

  @property
  def value(self) -> float | None:
    return self.hits / self.n if self.n else None

  def to_json(self) -> dict[str, Any]:
    interval = list(wilson(self.hits, self.n)) if self.n else None
    return {"value": self.value, "interval_95": interval, "hits": self.hits, "n": self.n}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RaterScore:
  """One person's answers. consistent: of pairs asked twice, those answered alike both times.

  unanswered: trials left open, repeats among them.
  """

  rater: str
  counts: Counts
  consistent: Share
  unanswered: int

  def to_json(self) -> dict[str, Any]:
    return {
      "rater": self.rater,
      **self.counts.to_json(),
      "consistent": self.consistent.to_json(),
      "unanswered": self.unanswered,
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListeningScore:
  """names: wins are of the first, losses are the second's.

  pairs: by the majority of each pair's raters; preference: wins of the pairs that are no ties;
  p_value: of the exact two-sided sign test over the same. judgements: answers, repeats left out.
  unjudged: pairs without an answer. left: of the answers with a preference, those for the left
  side, which is near a half where raters listen.
  """

  test: str
  names: tuple[str, str]
  question: str
  pairs: Counts
  unjudged: int
  judgements: Counts
  left: Share
  consistent: Share
  raters: tuple[RaterScore, ...]

  @property
  def preference(self) -> Share:
    return Share(hits=self.pairs.wins, n=self.pairs.wins + self.pairs.losses)

  @property
  def p_value(self) -> float:
    return sign_test(self.pairs.wins, self.pairs.losses)

  def to_json(self) -> dict[str, Any]:
    return {
      "metric": "listening_preference",
      "protocol": "blind pairs, majority of a pair's raters, ties left out of value and p_value",
      **self.preference.to_json(),
      "p_value": self.p_value,
      "names": list(self.names),
      "question": self.question,
      "test": self.test,
      "pairs": {**self.pairs.to_json(), "unjudged": self.unjudged},
      "judgements": self.judgements.to_json(),
      "left": self.left.to_json(),
      "consistent": self.consistent.to_json(),
      "raters": [rater.to_json() for rater in self.raters],
    }

  def __str__(self) -> str:
    first, second = self.names
    pairs, share = self.pairs, self.preference
    lines = [f"{first} against {second}: {self.question}"]
    lines.append(
      f"pairs: {pairs.wins} for {first}, {pairs.ties} ties, {pairs.losses} for {second}"
      f" ({self.unjudged} not judged)"
    )
    if share.n:
      low, high = wilson(share.hits, share.n)
      lines.append(
        f"{first} preferred in {share.value:.0%} of {share.n} decided pairs (95 %: {low:.0%} to"
        f" {high:.0%}), sign test p = {self.p_value:.3g}"
      )
    else:
      lines.append("no pair was decided")
    lines += [_line(rater) for rater in self.raters]
    return "\n".join(lines)


def score_listening(results: Sequence[str | os.PathLike], key: str | os.PathLike) -> ListeningScore:
  """Scores the files that raters saved, by the key that was written with the page.

  Raises UserError for no files, a file that is damaged or of another test, or two files of one
  rater.
  """
  if not results:
    raise UserError("there is nothing to score: give the files that raters saved")
  test = read_key(key)
  trials = {trial.id: trial for trial in test.trials}
  seen: dict[str, str | os.PathLike] = {}
  everyone = {}
  for path in results:
    rater, answers = _read_result(path, test=test, trials=trials)
    # As the page tells names apart, so that a name cannot vote twice by its case.
    name = " ".join(rater.split()).lower()
    if name in seen:
      raise UserError(f"{path} and {seen[name]} are both of rater {rater!r}: leave one out")
    seen[name] = path
    everyone[rater] = answers
  return _score(test, everyone)


def read_key(path: str | os.PathLike) -> ListeningTest:
  """The key of a test; raises UserError where it is none."""
  content = _json(path, kind="key", format=KEY_FORMAT)
  try:
    trials = tuple(Trial(**trial) for trial in content.pop("trials"))
    names, unpaired = content.pop("names"), content.pop("unpaired")
    del content["format"]
    test = ListeningTest(
      **content, names=(names[0], names[1]), trials=trials, unpaired=tuple(unpaired)
    )
    if len({trial.id for trial in trials}) != len(trials):
      raise ValueError("a trial is there twice")
  except (KeyError, TypeError, ValueError, IndexError) as error:
    raise UserError(f"{path} is damaged: use the key as it was written with the page") from error
  return test


def _read_result(
  path: str | os.PathLike, *, test: ListeningTest, trials: Mapping[str, Trial]
) -> tuple[str, dict[str, str]]:
  """(name of the rater, {id of the trial: choice})."""
  content = _json(path, kind="result", format=RESULT_FORMAT)
  if content.get("test") != test.id:
    raise UserError(f"{path} answers another test than this key's: give the key of its page")
  damaged = f"{path} is damaged: ask the rater to save the answers again"
  rater, answers = content.get("rater"), content.get("answers")
  if not isinstance(rater, str) or not rater.strip() or not isinstance(answers, list):
    raise UserError(damaged)
  if content.get("trials") != len(trials):
    raise UserError(damaged)
  out: dict[str, str] = {}
  for answer in answers:
    if not isinstance(answer, dict) or set(answer) != {"trial", "choice"}:
      raise UserError(damaged)
    trial, choice = answer["trial"], answer["choice"]
    if not isinstance(trial, str) or trial not in trials or trial in out or choice not in _CHOICES:
      raise UserError(damaged)
    out[trial] = choice
  return rater, out


def _json(path: str | os.PathLike, *, kind: str, format: str) -> dict[str, Any]:
  try:
    content = json.loads(Path(path).read_text(encoding="utf-8"))
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error
  except ValueError as error:
    raise UserError(f"{path} is no JSON: give the {kind} as it was saved") from error
  if not isinstance(content, dict) or content.get("format") != format:
    raise UserError(f"{path} is no {kind} of a listening test: give the file as it was saved")
  return content


def _score(test: ListeningTest, everyone: Mapping[str, Mapping[str, str]]) -> ListeningScore:
  first_asked = {trial.pair: trial for trial in test.trials if not trial.repeat}
  repeats = [trial for trial in test.trials if trial.repeat]
  votes: dict[str, Counter] = defaultdict(Counter)
  raters, sides = [], Counter()
  for rater, answers in everyone.items():
    sides.update(answers.values())
    own: Counter = Counter()
    for pair, trial in first_asked.items():
      if trial.id in answers:
        vote = _vote(trial, answers[trial.id])
        own[vote] += 1
        votes[pair][vote] += 1
    twice = [
      _vote(first_asked[trial.pair], answers[first_asked[trial.pair].id])
      == _vote(trial, answers[trial.id])
      for trial in repeats
      if trial.id in answers and first_asked[trial.pair].id in answers
    ]
    raters.append(
      RaterScore(
        rater=rater,
        counts=_counts(own),
        consistent=Share(hits=sum(twice), n=len(twice)),
        unanswered=len(test.trials) - len(answers),
      )
    )
  outcomes = Counter(_sign(votes[pair]) for pair in first_asked if pair in votes)
  return ListeningScore(
    test=test.id,
    names=test.names,
    question=test.question,
    pairs=_counts(outcomes),
    unjudged=len(first_asked) - outcomes.total(),
    judgements=_counts(sum(votes.values(), Counter())),
    left=Share(hits=sides["left"], n=sides["left"] + sides["right"]),
    consistent=Share(
      hits=sum(rater.consistent.hits for rater in raters),
      n=sum(rater.consistent.n for rater in raters),
    ),
    raters=tuple(raters),
  )


def _vote(trial: Trial, choice: str) -> int:
  """1 for the first folder's clip, -1 for the second's, 0 for neither."""
  if choice == "none":
    return 0
  return 1 if choice == trial.first_on else -1


def _sign(votes: Counter) -> int:
  return (votes[1] > votes[-1]) - (votes[1] < votes[-1])


def _counts(votes: Counter) -> Counts:
  return Counts(wins=votes[1], ties=votes[0], losses=votes[-1])


def _line(rater: RaterScore) -> str:
  counts, twice = rater.counts, rater.consistent
  return (
    f"  {rater.rater}: {counts.wins} / {counts.ties} / {counts.losses}, {rater.unanswered} not"
    f" answered, {twice.hits} of {twice.n} repeats alike"
  )
