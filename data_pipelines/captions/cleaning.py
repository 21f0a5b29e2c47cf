"""Texts as raters, web pages and language models leave them, made into clean single sentences."""

import re
import unicodedata

# Invisible characters that join or direct scripts and emoji have to stay.
_KEPT_FORMATS = "\u200c\u200d"
_STRAIGHT = str.maketrans({
  "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'",
  "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u00ab": '"', "\u00bb": '"',
})  # fmt: skip
# "- ", "1. ", "(2) ", "b) "; not "3/4 time", "80s pop" or "1.5 beats".
_BULLET = re.compile(r"^(?:[-*+•‣▪·–—>#]+\s+|\(?(?:\d{1,3}|[a-zA-Z])[.)]\s+|\(\d{1,3}\)\s+)+")
_ABBREVIATIONS = {
  "approx", "bros", "cf", "co", "dr", "e.g", "eg", "esp", "etc", "feat", "ft", "i.e", "ie", "inc",
  "instr", "jr", "max", "min", "mr", "mrs", "ms", "pt", "resp", "sr", "st", "vol", "vs",
}  # fmt: skip
_NUMBERED = {"no", "nos", "nr", "op", "opus"}
# An end of a sentence: its marks, closing quotes, then a space (none in Chinese and Japanese).
_END = re.compile(r"""(?:[.!?…]+["')\]]*(?=\s)|[。！？]+["'」』）]*)""")
_NO_WORD = re.compile(r"[\W_]+")
_GLUED = re.compile(r"(?<=[a-z]{2})([.!?])(?=[A-Z][a-z])")


def clean_caption(text: str) -> str:
  """One line in composed form, with straight quotes; "" for what holds no letter or digit.

  Bullets, numbering, marks of emphasis, control and invisible characters and quotes around the
  whole are taken off. Applying it twice changes nothing more.
  """
  before = None
  while text != before:
    before, text = text, _clean_once(text)
  return text if any(c.isalnum() for c in text) else ""


def split_sentences(text: str) -> list[str]:
  """Sentences of a text, cleaned. A line's end is a space, as where a caption is broken in two.

  A full stop ends a sentence before a space, and before a capital that is glued to it; not after an
  abbreviation, a single letter ("J. S. Bach") or a number in front ("No. 5"). The next sentence may
  begin with a small letter, as raters write: so a name with an abbreviation unknown here is split.
  """
  text = _GLUED.sub(r"\1 ", " ".join(text.split()))
  found, begin = [], 0
  for end in _END.finditer(text):
    if end.group().startswith(".") and len(end.group()) == 1 and _abbreviates(text, end.start()):
      continue
    found.append(text[begin : end.end()])
    begin = end.end()
  found.append(text[begin:])
  return [sentence for sentence in map(clean_caption, found) if sentence]


def normal_form(text: str) -> str:
  """What two spellings of one text have in common: words in small letters, one space between two.

  Apostrophes part words, straight or not, so that a name is found in "Bob Dylan's voice".
  """
  return _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def _clean_once(text: str) -> str:
  text = unicodedata.normalize("NFC", text).translate(_STRAIGHT)
  if not text.isprintable():
    text = "".join(_visible(c) for c in text)
  text = " ".join(re.sub(r"\*\*|__|`+", "", text).split())
  text = _BULLET.sub("", text)
  for quote in ('"', "'", "*"):
    inner = text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == quote and quote not in inner:
      text = inner.strip()
  return text


def _visible(character: str) -> str:
  category = unicodedata.category(character)
  if category in ("Cc", "Cs", "Zl", "Zp", "Zs"):
    return " "
  return "" if category == "Cf" and character not in _KEPT_FORMATS else character


def _abbreviates(text: str, dot: int) -> bool:
  word = text[:dot].rpartition(" ")[2].lstrip("(\"'").lower()
  if word in _NUMBERED:  # "No. 5", but "says no."
    return text[dot + 1 :].lstrip()[:1].isdigit()
  return word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word not in "ai")
