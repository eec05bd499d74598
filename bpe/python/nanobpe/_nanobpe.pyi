from collections.abc import Iterable
from os import PathLike

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

def count(texts: Iterable[str], *, pattern: str = ..., threads: int | None = None) -> Counts:
    """Counts the words that `pattern` cuts (default: `GPT4_PATTERN`), on `threads` threads (None: one per core).

    Text that the pattern does not match is a word of its own. The result depends neither on threads nor on the order of
    texts. Memory grows with the distinct words; texts are let go every 16 MB.
    """

def learn(counts: Counts, *, vocab_size: int) -> Vocabulary:
    """Learns `vocab_size` tokens: always the most frequent pair next; of several, the smallest pair of ids."""
