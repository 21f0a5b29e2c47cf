"""The HTML of a listening test: one file that works from a disk, without a server or a network.

The script has two parts. LOGIC is pure functions of a rater's state, which the tests run in node;
the rest listens to keys and buttons, plays, and stores the state in the browser after every answer,
so that a closed tab goes on where it was. State and exported file hold ids and sides alone.
"""

import html
import json
from collections.abc import Mapping
from typing import Any

RESULT_FORMAT = "noise2music listening result 1"

LOGIC = r"""
const CHOICES = ["left", "none", "right"];
const KEYS = {
  "1": "play left", "2": "play right", " ": "pause", "Backspace": "back",
  "ArrowLeft": "choose left", "ArrowRight": "choose right", "ArrowDown": "choose none",
};

// What a key means. A key belongs to the control that has the focus where that one uses it.
function action(key, {tag = "", type = "", modified = false} = {}) {
  if (modified) return null;
  if (tag === "TEXTAREA" || (tag === "INPUT" && type !== "range")) return null;
  if (tag === "INPUT" && key.startsWith("Arrow")) return null;
  if (tag === "BUTTON" && key === " ") return null;
  return KEYS[key] || null;
}

function fresh(rater) { return {rater, index: 0, answers: {}, heard: {}}; }

// Names differ by more than case and spaces, here and where they are scored.
function raterKey(rater) { return rater.trim().replace(/\s+/g, " ").toLowerCase(); }

// The stored state, or a fresh one where nothing, or nothing usable, was stored.
function restored(text, trials, rater) {
  const state = fresh(rater);
  let stored;
  try { stored = JSON.parse(text); } catch { return state; }
  if (stored === null || typeof stored !== "object") return state;
  for (const {id} of trials) {
    if (CHOICES.includes((stored.answers || {})[id])) state.answers[id] = stored.answers[id];
    const heard = (stored.heard || {})[id];
    if (Array.isArray(heard)) {
      state.heard[id] = heard.filter((side) => side === "left" || side === "right");
    }
  }
  if (Number.isInteger(stored.index)) {
    state.index = Math.min(Math.max(stored.index, 0), trials.length);
  }
  return state;
}

function hear(state, trials, side) {
  const id = trials[state.index].id;
  const heard = state.heard[id] || [];
  if (heard.includes(side)) return state;
  return {...state, heard: {...state.heard, [id]: [...heard, side]}};
}

// An answer counts once both clips were played.
function mayChoose(state, trials) {
  return state.index < trials.length && (state.heard[trials[state.index].id] || []).length === 2;
}

function choose(state, trials, choice) {
  if (!mayChoose(state, trials) || !CHOICES.includes(choice)) return state;
  const answers = {...state.answers, [trials[state.index].id]: choice};
  return {...state, answers, index: state.index + 1};
}

// To the pair before; from the end to the first that is open, if one is.
function back(state, trials) {
  const open = trials.findIndex(({id}) => !(id in state.answers));
  const early = state.index >= trials.length && open >= 0;
  return {...state, index: early ? open : Math.max(0, state.index - 1)};
}

function finish(state, trials) { return {...state, index: trials.length}; }

function answered(state) { return Object.keys(state.answers).length; }

function result(data, state) {
  const answers = data.trials.filter(({id}) => id in state.answers)
    .map(({id}) => ({trial: id, choice: state.answers[id]}));
  return {
    format: data.format, test: data.test, rater: state.rater, trials: data.trials.length, answers,
  };
}

function fileName(data, state) {
  const name = raterKey(state.rater).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `listening-${data.test.slice(0, 6)}-${name || "rater"}.json`;
}
"""

_GLUE = r"""
const data = JSON.parse(document.getElementById("data").textContent);
const {trials} = data;
const element = (id) => document.getElementById(id);
const players = {left: element("audio-left"), right: element("audio-right")};
const sides = Object.keys(players);
let state = null;
let shown = null;

const slot = (rater) => `listening ${data.test} ${raterKey(rater)}`;

function save() {
  try {
    localStorage.setItem(slot(state.rater), JSON.stringify(state));
  } catch {
    element("storage").hidden = false;
  }
}

function stored(rater) {
  try { return localStorage.getItem(slot(rater)); } catch { return null; }
}

function update(next) { state = next; save(); render(); }

function show(id) {
  for (const part of ["start", "trial", "done"]) element(part).hidden = part !== id;
}

function render() {
  const count = answered(state);
  element("progress").max = trials.length;
  element("progress").value = count;
  element("counted").textContent = `${count} of ${trials.length} answered`;
  if (state.index >= trials.length) {
    stop(); shown = null; show("done");
    const open = trials.length - count;
    element("open").hidden = open === 0;
    element("open").textContent = `${open} without an answer; Back leads to the first.`;
    element("done-heading").focus();
    return;
  }
  const trial = trials[state.index];
  if (shown !== trial.id) {
    stop();
    shown = trial.id;
    show("trial");
    for (const side of sides) {
      players[side].src = data.clips[trial[side]];
      element(`seek-${side}`).value = 0;
    }
    element("place").textContent = `Pair ${state.index + 1} of ${trials.length}`;
    element("prompt").textContent = trial.prompt;
    element("prompt").hidden = !trial.prompt;
    element("hint").textContent = "";
    element("place").focus();
  }
  const heard = state.heard[trial.id] || [];
  for (const side of sides) {
    element(`heard-${side}`).textContent = heard.includes(side) ? "played" : "not played yet";
  }
  if (mayChoose(state, trials)) element("hint").textContent = "";
  for (const choice of CHOICES) {
    const button = element(`choose-${choice}`);
    button.setAttribute("aria-disabled", String(!mayChoose(state, trials)));
    button.setAttribute("aria-pressed", String(state.answers[trial.id] === choice));
  }
  element("back").disabled = state.index === 0;
}

function label(side) {
  const playing = !players[side].paused;
  const name = side === "left" ? "A" : "B";
  element(`play-${side}`).textContent = `${playing ? "Pause" : "Play"} ${name}`;
  element(`card-${side}`).classList.toggle("playing", playing);
}

// Labelled here and now: a player that gets another clip forgets to tell that it paused.
function stop() {
  for (const side of sides) { players[side].pause(); label(side); }
}

function play(side) {
  const other = side === "left" ? "right" : "left";
  players[other].pause();
  players[side].play();
}

function pause() {
  const playing = sides.find((side) => !players[side].paused);
  if (playing) players[playing].pause();
  else if (state && state.last) play(state.last);
}

function pick(choice) {
  if (!mayChoose(state, trials)) {
    element("hint").textContent = "Play both A and B first.";
    return;
  }
  update(choose(state, trials, choice));
}

function goBack() { if (state.index > 0) update(back(state, trials)); }

function download() {
  const text = JSON.stringify(result(data, state), null, 2) + "\n";
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
  link.download = fileName(data, state);
  link.click();
  URL.revokeObjectURL(link.href);
  element("saved").textContent = `Saved as ${link.download}.`;
}

for (const side of sides) {
  const player = players[side];
  const seek = element(`seek-${side}`);
  player.addEventListener("play", () => {
    label(side);
    if (player.paused) return;  // told late: the next pair is shown by now
    state = {...state, last: side};
    update(hear(state, trials, side));
  });
  for (const event of ["pause", "ended"]) player.addEventListener(event, () => label(side));
  player.addEventListener("timeupdate", () => {
    if (player.duration) seek.value = 100 * player.currentTime / player.duration;
  });
  seek.addEventListener("input", () => {
    if (player.duration) player.currentTime = seek.value / 100 * player.duration;
  });
  element(`play-${side}`).addEventListener("click", () => {
    if (player.paused) play(side); else player.pause();
  });
}
for (const choice of CHOICES) {
  element(`choose-${choice}`).addEventListener("click", () => pick(choice));
}
element("back").addEventListener("click", goBack);
element("finish").addEventListener("click", () => update(finish(state, trials)));
element("done-back").addEventListener("click", goBack);
element("export").addEventListener("click", download);
element("another").addEventListener("click", () => {
  state = null;
  element("saved").textContent = "";
  show("start");
});
element("start").addEventListener("submit", (event) => {
  event.preventDefault();
  const rater = element("rater").value.trim().replace(/\s+/g, " ");
  if (!rater) return;
  shown = null;
  update(restored(stored(rater), trials, rater));
});
document.addEventListener("keydown", (event) => {
  if (!state) return;
  const {tagName: tag, type} = event.target;
  const modified = event.ctrlKey || event.altKey || event.metaKey;
  const what = action(event.key, {tag, type, modified});
  if (!what) return;
  if (state.index >= trials.length && what !== "back") return;
  event.preventDefault();
  if (event.repeat) return;
  const [verb, side] = what.split(" ");
  ({play: () => play(side), choose: () => pick(side), pause, back: goBack})[verb]();
});
"""

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --accent: #1f6feb; --quiet: #666; }
@media (prefers-color-scheme: dark) { :root { --accent: #6aa8ff; --quiet: #aaa; } }
[hidden] { display: none !important; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0 0 .6rem } h2 { font-size: 1.1rem; margin: 1rem 0 .4rem }
h2:focus { outline: none }
progress { width: 100%; height: .6rem; accent-color: var(--accent) }
.quiet { color: var(--quiet); font-size: .9rem; margin: .2rem 0 }
blockquote { margin: .6rem 0; padding: .3rem .9rem; border-left: 3px solid var(--accent) }
.pair, .choices { display: grid; grid-template-columns: 1fr 1fr; gap: .8rem; margin: .8rem 0 }
.choices { grid-template-columns: 1fr 1fr 1fr }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .8rem }
.card.playing { border-color: var(--accent); box-shadow: 0 0 0 1px var(--accent) }
button, input[type=text] { font: inherit; padding: .5rem .9rem; border-radius: 6px;
  border: 1px solid var(--line); background: Canvas; color: CanvasText }
button { cursor: pointer } .card button { width: 100%; font-weight: 600 }
button:focus-visible, input:focus-visible { outline: 3px solid var(--accent); outline-offset: 1px }
button[aria-pressed=true] { border-color: var(--accent); color: var(--accent); font-weight: 600 }
button[aria-disabled=true], button:disabled { opacity: .5 }
input[type=range] { width: 100%; margin: .6rem 0 0; accent-color: var(--accent) }
kbd { border: 1px solid var(--line); border-radius: 4px; padding: 0 .35em; font-size: .85em }
#hint { min-height: 1.5em; margin: 0 }
"""

_BODY = """
<main>
<h1>Listening test</h1>
<div id="meter">
<progress id="progress" aria-label="Answers given" value="0" max="1"></progress>
<p class="quiet" id="counted" role="status"></p>
</div>
<p id="storage" role="alert" hidden>This browser keeps no progress: do not close the page before
you have saved your answers.</p>

<form id="start">
<p>$total questions, each with two clips, A and B. Play both, then answer: <b>$question</b> Go by
what you hear; there is no right answer. Headphones help.</p>
<p><label for="rater">Your name</label><br>
<input type="text" id="rater" autocomplete="off" required maxlength="80" pattern=".*\\S.*">
<button>Begin</button></p>
<p class="quiet">The same name on this computer goes on where it was left.</p>
</form>

<section id="trial" aria-labelledby="place" hidden>
<h2 id="place" tabindex="-1"></h2>
<blockquote id="prompt"></blockquote>
<div class="pair">$cards</div>
<p><b id="question">$question</b></p>
<div class="choices" role="group" aria-labelledby="question">
<button type="button" id="choose-left">A <kbd>←</kbd></button>
<button type="button" id="choose-none">No preference <kbd>↓</kbd></button>
<button type="button" id="choose-right">B <kbd>→</kbd></button>
</div>
<p id="hint" role="status"></p>
<p><button type="button" id="back">Back</button>
<button type="button" id="finish">Stop here</button></p>
<p class="quiet">Keys: <kbd>1</kbd> play A, <kbd>2</kbd> play B, <kbd>space</kbd> pause,
<kbd>←</kbd> A, <kbd>→</kbd> B, <kbd>↓</kbd> no preference, <kbd>backspace</kbd> the pair
before.</p>
</section>

<section id="done" aria-labelledby="done-heading" hidden>
<h2 id="done-heading" tabindex="-1">Thank you</h2>
<p id="open" hidden></p>
<p>Save your answers and send the file to whoever asked you.</p>
<p><button type="button" id="export">Save answers</button>
<button type="button" id="done-back">Back</button>
<button type="button" id="another">Another person rates</button></p>
<p class="quiet" id="saved" role="status"></p>
</section>
</main>
"""

_CARD = """
<div class="card" id="card-{side}">
<button type="button" id="play-{side}">Play {name}</button>
<input type="range" id="seek-{side}" min="0" max="100" step="0.5" value="0"
 aria-label="Position in {name}">
<p class="quiet" id="heard-{side}" aria-live="polite">not played yet</p>
<audio id="audio-{side}"></audio>
</div>"""

# Nothing but what is in the file: no network, even where a text tried to bring one in.
_POLICY = (
  "default-src 'none'; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def listening_page(data: Mapping[str, Any]) -> str:
  """The page of {test, question, trials: [{id, prompt, left, right}], clips: {id: data URI}}."""
  cards = "".join(_CARD.format(side=s, name=n) for s, n in (("left", "A"), ("right", "B")))
  body = _BODY.replace("$cards", cards).replace("$total", str(len(data["trials"])))
  body = body.replace("$question", html.escape(data["question"]))  # last: a text may hold a $
  # In a script element only "<" could end it.
  content = json.dumps({"format": RESULT_FORMAT, **data}).replace("<", "\\u003c")
  return (
    '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    f"<title>Listening test</title><style>{_STYLE}</style>{body}"
    f'<script type="application/json" id="data">{content}</script>\n'
    f"<script>{LOGIC}{_GLUE}</script>\n</html>\n"
  )
