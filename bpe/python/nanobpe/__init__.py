"""Trains byte-level BPE vocabularies: counts the words of a corpus in parallel, then learns exact greedy merges.

The work is done in Rust; here are the names. `help(nanobpe.train)` is the place to start.
"""

from nanobpe._files import read
from nanobpe._nanobpe import (
    GPT4_PATTERN,
    CorpusTooSmallError,
    Counts,
    CountsError,
    EmptyCorpusError,
    FileFormatError,
    NanobpeError,
    PatternError,
    TextError,
    Texts,
    Vocabulary,
    VocabularyError,
    VocabularySizeError,
    count,
    learn,
    train,
)

__all__ = [
    "GPT4_PATTERN",
    "CorpusTooSmallError",
    "Counts",
    "CountsError",
    "EmptyCorpusError",
    "FileFormatError",
    "NanobpeError",
    "PatternError",
    "TextError",
    "Texts",
    "Vocabulary",
    "VocabularyError",
    "VocabularySizeError",
    "count",
    "learn",
    "read",
    "train",
]
