"""`n2m evaluate listening-page` and `n2m evaluate listening`: options around a blind test."""

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

from noise2music.errors import UserError
from noise2music.evaluation.listening import QUESTION, key_path, write_listening_test
from noise2music.evaluation.listening_score import score_listening
from noise2music.evaluation.report import write_whole


def add_commands(commands: Any) -> None:
  """Adds both to what `add_subparsers` gave; each sets `run`, which takes the parsed arguments.

  `run` returns the exit status and raises UserError.
  """

  def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
    added = commands.add_parser(name, help=text, description=text)
    added.set_defaults(run=run)
    return added

  page = command("listening-page", _page, "write a page on which people compare two folders, blind")
  page.add_argument("a", metavar="A", help="folder of audio")
  page.add_argument("b", metavar="B", help="folder of audio with the same file names")
  page.add_argument("--out", required=True, help="the page; its key is written beside it")
  page.add_argument(
    "--names", nargs=2, metavar=("A", "B"), help="of the two in scores; the folders' where left out"
  )
  page.add_argument("--prompts", help="JSON {file stem: text}, or CSV with file_name and caption")
  page.add_argument("--question", default=QUESTION, help="asked of each pair; %(default)s")
  page.add_argument("--repeats", type=int, help="pairs asked twice; a tenth where left out")
  page.add_argument("--seconds", type=float, default=30.0, help="of a clip at most; %(default)s")
  page.add_argument(
    "--seed",
    type=int,
    help="to write the test of a key again; a secret one, kept in the key, where left out",
  )

  score = command("listening", _score, "score what raters saved")
  score.add_argument("results", nargs="+", metavar="RESULT.json", help="a file a rater")
  score.add_argument("--key", required=True, help="the file that was written with the page")
  score.add_argument("--out", help="JSON of the score")


def read_prompts(path: str) -> dict[str, str]:
  """{stem: text} of a JSON object, or of a CSV with the columns file_name and caption.

  Raises UserError.
  """
  try:
    text = Path(path).read_text(encoding="utf-8-sig")
    if Path(path).suffix.lower() == ".json":
      prompts = json.loads(text)
      good = isinstance(prompts, dict) and all(isinstance(value, str) for value in prompts.values())
    else:
      rows = list(csv.DictReader(io.StringIO(text, newline="")))
      prompts = {Path(row["file_name"]).stem: row["caption"] or "" for row in rows}
      good = True
  except OSError as error:
    raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error
  except (ValueError, KeyError, TypeError, csv.Error):
    good = False
  if not good:
    raise UserError(f"{path} holds no prompts: give a JSON object, or file_name,caption as CSV")
  return prompts


def _page(args: argparse.Namespace) -> int:
  a, b = Path(args.a), Path(args.b)
  test = write_listening_test(
    args.out,
    a,
    b,
    names=tuple(args.names) if args.names else (a.resolve().name, b.resolve().name),
    seed=args.seed,
    prompts=read_prompts(args.prompts) if args.prompts else None,
    question=args.question,
    repeats=args.repeats,
    longest_seconds=args.seconds,
  )
  for path in test.unpaired:
    print(f"left out, without a partner: {path}")
  if test.without_prompt:
    print(f"{test.without_prompt} of {test.pairs} pairs have no prompt")
  print(f"{test.pairs} pairs, {test.repeats} of them asked twice: {args.out}")
  print(f"keep from the raters until they are done: {key_path(args.out)}")
  return 0


def _score(args: argparse.Namespace) -> int:
  score = score_listening(args.results, args.key)
  print(score)
  if args.out:
    write_whole(args.out, json.dumps(score.to_json(), indent=2, ensure_ascii=False) + "\n")
  return 0
