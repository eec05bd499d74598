"""Trains byte-level BPE vocabularies, by exact greedy merges of the words of a corpus, and encodes text with them.

The work is done in Rust; this file only says `train` in terms of `count` and `learn`. `Encoder` turns text into ids,
those of tiktoken; it knows no special tokens and does not decode.
"""

from collections.abc import Iterable

from nanobpe._nanobpe import (
    GPT4_PATTERN,
    CorpusTooSmallError,
    Counts,
    CountsError,
    EmptyCorpusError,
    Encoder,
    NanobpeError,
    PatternError,
    TokensError,
    Vocabulary,
    VocabularySizeError,
    count,
    learn,
)

__all__ = [
    "GPT4_PATTERN",
    "CorpusTooSmallError",
    "Counts",
    "CountsError",
    "EmptyCorpusError",
    "Encoder",
    "NanobpeError",
    "PatternError",
    "TokensError",
    "Vocabulary",
    "VocabularySizeError",
    "count",
    "learn",
    "train",
]


def train(
    texts: Iterable[str], *, vocab_size: int, pattern: str = GPT4_PATTERN, threads: int | None = None
) -> Vocabulary:
    """`learn` from the `count` of the texts; a vocabulary below 256 is refused before any text is read."""
    if vocab_size < 256:
        raise VocabularySizeError(f"vocab_size={vocab_size}: the 256 single bytes are always in; ask for at least 256")
    return learn(count(texts, pattern=pattern, threads=threads), vocab_size=vocab_size)
