"""`n2m data captions text | rater | llm`: options and printing around the work."""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from data_pipelines.beam_jobs import add_beam_options, beam_args_from
from data_pipelines.captions.caption_list import list_path, write_list
from data_pipelines.captions.chat import Endpoint
from data_pipelines.captions.llm import Ask, make_llm_list
from data_pipelines.captions.prompts import Prompt, read_prompt
from data_pipelines.captions.refine import SHORT_RULES, Dropped, Raw, Rules, refine
from data_pipelines.captions.spending import Limits
from data_pipelines.captions.written import is_musiccaps, plain, rated
from data_pipelines.manifest import LONG, SHORT
from data_pipelines.parallel import terminal_progress


def add_captions(commands) -> None:
  """The command `captions` with its own three."""
  help = "make a vocabulary of captions, from people or from a language model"
  parser = commands.add_parser("captions", help=help, description=help)
  sources = parser.add_subparsers(title="sources", required=True, metavar="SOURCE")
  text = _add(sources, "text", _text, help="from text files, a caption a line")
  text.add_argument("sources", nargs="+", help="text files in UTF-8")
  _add_kind(text)
  rater = _add(sources, "rater", _rater, help="from a table of raters, as that of MusicCaps")
  rater.add_argument("table", help="CSV or TSV with a header")
  _add_kind(rater)
  rater.add_argument("--column", help="where the captions stand; caption or aspect_list")
  rater.add_argument("--split", choices=("train", "test"), help="of MusicCaps, by AudioSet's sets")
  _add_llm(sources)


def _add(sources, name: str, run: Callable, *, help: str) -> argparse.ArgumentParser:
  parser = sources.add_parser(name, help=help, description=help)
  parser.add_argument("--out", required=True, help="NAME.txt; NAME.json and others beside it")
  parser.add_argument(
    "--about-music",
    action=argparse.BooleanOptionalAction,
    default=name == "llm",
    help="drop what seems to be about other things (English); %(default)s",
  )
  parser.add_argument(
    "--similarity", type=float, help="captions at least so alike are one; 1 for equal"
  )
  parser.add_argument("--least-words", type=int)
  parser.add_argument("--most-characters", type=int)
  parser.set_defaults(run=run)
  return parser


def _add_kind(parser: argparse.ArgumentParser) -> None:
  help = "long: sentences, one by one; short: labels; %(default)s"
  parser.add_argument("--kind", choices=(LONG, SHORT), default=LONG, help=help)
  add_beam_options(parser, "clean with Beam, to the same bytes")


def _add_llm(sources) -> None:
  parser = _add(sources, "llm", _llm, help="from a language model, given titles and artists")
  parser.add_argument("songs", help="CSV or TSV with the columns title and artist")
  parser.add_argument("--url", required=True, help="of the server, as http://localhost:8000/v1")
  parser.add_argument("--model", required=True, help="its name on the server")
  parser.add_argument("--prompt", help="JSON with instruction and examples; our own if left out")
  parser.add_argument("--max-requests", type=int, help="in all, earlier runs included")
  parser.add_argument("--max-tokens", type=int, help="in all, of prompts and replies")
  parser.add_argument("--max-cost", type=float, help="in all, in the currency of the prices")
  parser.add_argument("--prompt-price", type=float, help="of a million tokens")
  parser.add_argument("--reply-price", type=float, help="of a million tokens")
  for cls, flags in ((Ask, _ASK), (Endpoint, _ENDPOINT)):
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    for name, (kind, about) in flags.items():
      flag = "--" + name.replace("_", "-")
      parser.add_argument(flag, type=kind, default=defaults[name], help=f"{about}; %(default)s")


_ASK = {
  "concurrency": (int, "requests at a time"),
  "temperature": (float, "of the model"),
  "reply_tokens": (int, "of a reply, at most"),
}
_ENDPOINT = {
  "key_variable": (str, "environment variable that holds the key, '' for none"),
  "timeout_seconds": (float, "for a reply"),
  "attempts": (int, "for one request"),
}


def _rules(args: argparse.Namespace) -> Rules:
  base = SHORT_RULES if getattr(args, "kind", LONG) == SHORT else Rules()
  names = ("similarity", "least_words", "most_characters", "about_music")
  given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
  return dataclasses.replace(base, **given)


def _text(args: argparse.Namespace) -> int:
  paths = [Path(source) for source in args.sources]
  source = ", ".join(path.name for path in paths)
  return _write(args, plain(paths), source=source)


def _rater(args: argparse.Namespace) -> int:
  table = Path(args.table)
  if args.kind == LONG and args.split != "train" and is_musiccaps(table):
    print(
      "note: a model that is trained with these captions cannot be judged by MusicCaps, whose "
      "own they are",
      file=sys.stderr,
    )
  texts = rated(table, kind=args.kind, column=args.column, split=args.split)
  return _write(args, texts, source=table.name)


def _write(args: argparse.Namespace, texts: Iterable[Raw | Dropped], *, source: str) -> int:
  refined, beam_args = refine, beam_args_from(args)
  if beam_args is not None:
    from data_pipelines.captions.refine_beam import refine_with_beam

    refined = functools.partial(
      refine_with_beam,
      folder=list_path(args.out).with_suffix(".work").absolute(),
      beam_args=beam_args,
    )
  summary = write_list(
    args.out,
    texts,
    rules=_rules(args),
    source=source,
    refined=refined,
    progress=terminal_progress,
  )
  print(summary)
  return 0


def _llm(args: argparse.Namespace) -> int:
  summary = make_llm_list(
    Path(args.songs),
    args.out,
    endpoint=Endpoint(url=args.url, **{name: getattr(args, name) for name in _ENDPOINT}),
    ask=Ask(
      model=args.model,
      prompt=read_prompt(Path(args.prompt)) if args.prompt else Prompt(),
      **{name: getattr(args, name) for name in _ASK},
    ),
    limits=Limits(
      requests=args.max_requests,
      tokens=args.max_tokens,
      cost=args.max_cost,
      prompt_price=args.prompt_price,
      reply_price=args.reply_price,
    ),
    rules=_rules(args),
    progress=terminal_progress,
  )
  print(summary)
  if summary.error is not None:
    print(f"error: {summary.error}", file=sys.stderr)
    return 2
  return 0
