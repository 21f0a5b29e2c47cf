"""A page to look at and listen to: one HTML file with players, spectrograms, curves and figures.

Audio and pictures are embedded, so the file can be moved, sent and opened without a server.
"""

import base64
import dataclasses
import html
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from noise2music.audio.framing import pad_to, padded_length
from noise2music.audio.log_mel import LogMel
from noise2music.audio.resample import resample
from noise2music.audio.wav_io import write_audio
from noise2music.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Player:
  """One clip: audio is float32 [samples] in [-1, 1]."""

  label: str
  audio: np.ndarray
  sample_rate_hz: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """Clips to hear next to one another, under one heading (the prompt)."""

  heading: str
  players: Sequence[Player]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """header: column names; rows: as many cells each."""

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str | int]]
  note: str = ""


def write_report(
  path: str | Path,
  *,
  title: str,
  summary: Sequence[str],
  tables: Sequence[Table],
  rows: Sequence[Row],
  curves: Mapping[str, Sequence[tuple[int, float]]],
) -> None:
  """Writes the page to `path`, whole or not at all.

  summary: paragraphs of plain text. curves: {name: [(step, loss), ...]}, drawn side by side.
  """
  parts = [f"<h1>{html.escape(title)}</h1>"]
  parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in summary]
  parts += [table_html(table) for table in tables]
  if curves:
    parts += ["<h2>Training</h2>", f'<img class="wide" alt="loss curves" src="{_curves(curves)}">']
  parts += ["<h2>Listen</h2>", *(row_html(row) for row in rows)]
  write_whole(path, page_html(title=title, body="\n".join(parts)))


def page_html(*, title: str, body: str) -> str:
  """The whole page: `body` is HTML, `title` plain text."""
  return _PAGE.format(title=html.escape(title), body=body)


def write_whole(path: str | os.PathLike, text: str) -> None:
  """Writes the file whole or not at all, so that an older one stays where this fails."""
  temporary = Path(f"{path}.tmp")
  try:
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
  except OSError as error:
    reason = error.strerror or error
    raise UserError(
      f"{path} cannot be written ({reason}): check its folder and the room there"
    ) from error
  finally:
    temporary.unlink(missing_ok=True)


def spectrogram_png(audio: np.ndarray, *, sample_rate_hz: int) -> str:
  """The log-mel spectrogram of float [samples] as a data URI."""
  plt = pyplot()
  log_mel = LogMel()
  audio_16k = resample(audio, from_hz=sample_rate_hz, to_hz=log_mel.sample_rate_hz)
  length = padded_length(audio_16k.shape[-1], log_mel.hop)
  frames = np.asarray(log_mel(pad_to(audio_16k, length)))
  figure, axes = plt.subplots(figsize=(4, 1.5))
  seconds = len(audio) / sample_rate_hz
  axes.imshow(
    frames.T, origin="lower", aspect="auto", cmap="magma", vmin=-1, vmax=1,
    extent=(0, seconds, 0, log_mel.bands),
  )  # fmt: skip
  axes.set_yticks([])
  axes.tick_params(labelsize=6)
  return figure_uri(figure)


def _curves(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
  plt = pyplot()
  figure, all_axes = plt.subplots(1, len(curves), figsize=(4 * len(curves), 2.4), squeeze=False)
  for axes, (name, points) in zip(all_axes[0], curves.items(), strict=True):
    steps, losses = zip(*points, strict=True) if points else ((), ())
    axes.plot(steps, losses, linewidth=1.2)
    axes.set_title(name, fontsize=9)
    axes.set_xlabel("step", fontsize=8)
    axes.set_yscale("log")
    axes.tick_params(labelsize=7, which="both")
  return figure_uri(figure)


def pyplot() -> Any:
  """matplotlib without a window; raises UserError where it is not installed."""
  try:
    import matplotlib
  except ImportError as error:
    raise UserError(
      "The page's pictures need matplotlib: pip install 'noise2music[demo]' brings it."
    ) from error

  matplotlib.use("Agg")
  import matplotlib.pyplot as plt

  return plt


def figure_uri(figure: Any) -> str:
  """A data URI of the figure, which is closed."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
  pyplot().close(figure)
  return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def audio_uri(player: Player) -> str:
  """The clip as mp3, in a data URI."""
  with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "clip.mp3"
    write_audio(path, player.audio, sample_rate_hz=player.sample_rate_hz)
    return "data:audio/mpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def row_html(row: Row) -> str:
  """A section: heading, spectrograms and players."""
  cells = [
    f"<figure><figcaption>{html.escape(player.label)}</figcaption>"
    f'<img alt="spectrogram" src="'
    f'{spectrogram_png(player.audio, sample_rate_hz=player.sample_rate_hz)}">'
    f'<audio controls preload="none" src="{audio_uri(player)}"></audio></figure>'
    for player in row.players
  ]
  return f"<section><h3>{html.escape(row.heading)}</h3><div>{''.join(cells)}</div></section>"


def table_html(table: Table) -> str:
  """A heading, the table, and its note."""
  head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
  body = "".join(
    "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
    for row in table.rows
  )
  note = f"<p class=note>{html.escape(table.note)}</p>" if table.note else ""
  return f"<h2>{html.escape(table.title)}</h2><table><tr>{head}</tr>{body}</table>{note}"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto }}
body {{ padding: 0 1rem }}
h1 {{ font-size: 1.6rem }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem }}
h3 {{ font-size: 1rem; font-weight: 600; margin: 0 0 .4rem }}
table {{ border-collapse: collapse }} th, td {{ padding: .25rem .8rem; text-align: left }}
th {{ border-bottom: 1px solid #8888 }} .note {{ opacity: .75; font-size: .9em }}
section {{ border-top: 1px solid #8884; padding: 1rem 0 }}
section div {{ display: flex; flex-wrap: wrap; gap: 1rem }}
figure {{ margin: 0; flex: 1 1 300px; max-width: 360px }}
figcaption {{ font-size: .85em; opacity: .8; overflow-wrap: anywhere }}
img {{ width: 100%; background: #fff; border-radius: 4px }} .wide {{ max-width: 100% }}
audio {{ width: 100%; height: 34px }}
.plots {{ display: flex; flex-wrap: wrap; gap: 1rem }} .plot {{ max-width: 520px }}
summary {{ cursor: pointer }} .facts th {{ vertical-align: top; border: 0; white-space: nowrap }}
.facts td, h3 {{ overflow-wrap: anywhere }}
@media (max-width: 700px) {{ table {{ display: block; overflow-x: auto }} }}
</style>
{body}
</html>
"""
