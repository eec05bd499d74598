"""Trains byte-level BPE vocabularies: counts the words of a corpus in parallel, then learns exact greedy merges.

The work is done in Rust; this file only says `train` in terms of `count` and `learn`. It does not encode text: hand
`tokens` to tiktoken, or to any encoder that merges by rank.
"""

from collections.abc import Iterable

from nanobpe._nanobpe import (
    GPT4_PATTERN,
    CorpusTooSmallError,
    Counts,
    CountsError,
    EmptyCorpusError,
    NanobpeError,
    PatternError,
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
    "NanobpeError",
    "PatternError",
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
