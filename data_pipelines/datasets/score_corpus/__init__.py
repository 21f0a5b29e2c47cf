"""Demo music that is always at hand: real scores, rendered, captioned, split by work."""

from data_pipelines.datasets.score_corpus.arrange import FAST, MODERATE, SLOW, TEMPOS, Tempo
from data_pipelines.datasets.score_corpus.captions import POLYPHONY, SINGLE_LINE
from data_pipelines.datasets.score_corpus.corpus import Prompt, ScoreCorpus

__all__ = [
  "FAST",
  "MODERATE",
  "POLYPHONY",
  "SINGLE_LINE",
  "SLOW",
  "TEMPOS",
  "Prompt",
  "ScoreCorpus",
  "Tempo",
]
