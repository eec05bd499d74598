"""Trains byte-level BPE vocabularies, by exact greedy merges of the words of a corpus, and encodes text with them.

The work is done in Rust; here are the names. `help(nanobpe.train)` is the place to start. `Encoder` gives the ids that
tiktoken gives; it knows no special tokens and does not decode.
"""

from nanobpe._files import read
from nanobpe._nanobpe import (
    CL100K_PATTERN,
    GPT2_PATTERN,
    GPT4_PATTERN,
    O200K_PATTERN,
    CorpusTooSmallError,
    Counts,
    CountsError,
    EmptyCorpusError,
    Encoder,
    FileFormatError,
    NanobpeError,
    PatternError,
    TextError,
    Texts,
    TokensError,
    Vocabulary,
    VocabularyError,
    VocabularySizeError,
    count,
    learn,
    train,
)

__all__ = [
    "CL100K_PATTERN",
    "GPT2_PATTERN",
    "GPT4_PATTERN",
    "O200K_PATTERN",
    "CorpusTooSmallError",
    "Counts",
    "CountsError",
    "EmptyCorpusError",
    "Encoder",
    "FileFormatError",
    "NanobpeError",
    "PatternError",
    "TextError",
    "Texts",
    "TokensError",
    "Vocabulary",
    "VocabularyError",
    "VocabularySizeError",
    "count",
    "learn",
    "read",
    "train",
]
