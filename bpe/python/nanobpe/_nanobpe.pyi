from collections.abc import Iterable
from os import PathLike

import numpy as np
import numpy.typing as npt

GPT4_PATTERN: str
"""The pattern of GPT-4 (tiktoken's cl100k_base, of 2023), but with digit groups of at most 2."""

class NanobpeError(ValueError):
    """What this package refuses; all of its exceptions derive from this."""

class VocabularySizeError(NanobpeError):
    """vocab_size is below 256, the number of single bytes."""

class PatternError(NanobpeError):
    """The pattern is no regular expression, or the engine gave up on a text."""

class EmptyCorpusError(NanobpeError):
    """There is no text."""

class CorpusTooSmallError(NanobpeError):
    """The text has fewer merges than vocab_size needs."""

class CountsError(NanobpeError):
    """Word counts that cannot be read, added or held."""

class TokensError(NanobpeError):
    """Tokens that cannot encode every text, or not in one way: empty, equal, or without some single byte."""

class Counts:
    """The distinct words of a text, each with its number of occurrences."""

    @property
    def pattern(self) -> str:
        """The pattern that cut the text into words."""
    @property
    def total_bytes(self) -> int:
        """UTF-8 bytes of the text; equal to the sum over all words of length times count."""
    def __len__(self) -> int:
        """Number of distinct words."""
    def __add__(self, other: Counts) -> Counts:
        """The counts of both texts together; CountsError if they were cut by different patterns."""
    def items(self) -> list[tuple[bytes, int]]:
        """Words and counts, in order of the words' bytes."""
    def save(self, path: str | PathLike[str]) -> None:
        """Writes a file that depends on the text alone; it is whole or absent."""
    @staticmethod
    def load(path: str | PathLike[str]) -> Counts:
        """Reads what `save` wrote; CountsError for anything else."""

class Vocabulary:
    """What was learnt."""

    @property
    def pattern(self) -> str:
        """The pattern that cuts text into words."""
    @property
    def tokens(self) -> list[bytes]:
        """The bytes of each token by id: the 256 single bytes, then the merges in order."""
    def __len__(self) -> int:
        """Number of tokens."""

class Encoder:
    """Text to ids: those of tiktoken's `encode_ordinary`, for any vocabulary and pattern, on any number of threads.

    A piece that the pattern cuts is the token with its bytes if there is one; else the adjacent pair that makes the
    lowest id is merged, again and again. Text that the pattern does not match is a piece too (tiktoken drops it).
    Surrogates that are no pair become U+FFFD. Each thread in use keeps up to 60 MB of pieces seen and output memory.
    """

    def __new__(cls, tokens: Iterable[bytes], pattern: str = ...) -> Encoder:
        """`tokens` are bytes by id, all 256 single bytes among them; default pattern: `GPT4_PATTERN`."""
    @property
    def pattern(self) -> str:
        """The pattern that cuts text into pieces."""
    def __len__(self) -> int:
        """Number of tokens."""
    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """The ids of one text, on this thread."""
    def encode_batch(
        self, texts: Iterable[str], threads: int | None = None
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """The ids of all texts end to end, and len(texts) + 1 offsets: text i has ids[offsets[i] : offsets[i + 1]].

        The work is done without the interpreter's lock on `threads` threads (None: one per core); Ctrl-C ends it.
        """

def count(texts: Iterable[str], *, pattern: str = ..., threads: int | None = None) -> Counts:
    """Counts the words that `pattern` cuts (default: `GPT4_PATTERN`), on `threads` threads (None: one per core).

    Text that the pattern does not match is a word of its own. The result depends neither on threads nor on the order of
    texts. Memory grows with the distinct words; texts are let go every 16 MB.
    """

def learn(counts: Counts, *, vocab_size: int) -> Vocabulary:
    """Learns `vocab_size` tokens: always the most frequent pair next; of several, the smallest pair of ids."""
