from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Progress = Callable[[Literal["count", "learn"], int], object]
TieOrder = Literal["bytes", "byte_level"]

class ArrowArray(Protocol):
    """What is used of a pyarrow.Array of type string, large_string, binary or large_binary."""

    @property
    def type(self) -> Any: ...
    @property
    def offset(self) -> int: ...
    def __len__(self) -> int: ...
    def buffers(self) -> list[Any]: ...

class ArrowChunks(Protocol):
    """What is used of a pyarrow.ChunkedArray."""

    @property
    def type(self) -> Any: ...
    @property
    def chunks(self) -> list[Any]: ...

GPT4_PATTERN: str
"""The pattern of GPT-4 (tiktoken's cl100k_base, of 2023), but with digit groups of at most 2."""
CL100K_PATTERN: str
"""The pattern of tiktoken's cl100k_base (GPT-4)."""
O200K_PATTERN: str
"""The pattern of tiktoken's o200k_base (GPT-4o)."""
GPT2_PATTERN: str
"""The pattern of GPT-2."""

class NanobpeError(ValueError):
    """What this package refuses; all of its exceptions derive from this."""

class VocabularySizeError(NanobpeError):
    """vocab_size is below 256, the number of single bytes, or not below 2**31."""

class PatternError(NanobpeError):
    """The pattern is no regular expression, or the engine gave up on a text."""

class EmptyCorpusError(NanobpeError):
    """There is no text."""

class CorpusTooSmallError(NanobpeError):
    """The text has fewer merges than vocab_size needs."""

class CountsError(NanobpeError):
    """Word counts that cannot be read, added or held."""

class VocabularyError(NanobpeError):
    """A file that is no vocabulary."""

class TextError(NanobpeError):
    """A text that is not UTF-8, or a line of a file that holds none; names which."""

class FileFormatError(NanobpeError):
    """A file that `read` does not take: another suffix, damaged, or without the column."""

class TokensError(NanobpeError):
    """Tokens that cannot encode every text, or not in one way: empty, equal, or without some single byte."""

class Counts:
    """The distinct words of a text, each with its number of occurrences."""

    @property
    def pattern(self) -> str:
        """The pattern that cut the text into words."""
    @property
    def total_bytes(self) -> int:
        """UTF-8 bytes of the text; if nothing was dropped, the sum over all words of length times count."""
    @property
    def dropped_words(self) -> int:
        """Words given up for `max_words`; one that came back and was dropped again counts twice."""
    @property
    def dropped_occurrences(self) -> int:
        """Occurrences of the dropped words."""
    def __len__(self) -> int:
        """Number of distinct words."""
    def __add__(self, other: Counts) -> Counts:
        """The counts of both texts together; CountsError if they were cut by different patterns."""
    def items(self) -> list[tuple[bytes, int]]:
        """Words and counts, in order of the words' bytes."""
    def save(self, path: str | PathLike[str]) -> None:
        """Writes a file that depends on the text alone; it is whole or absent. OSError names the file."""
    @staticmethod
    def load(path: str | PathLike[str], *more: str | PathLike[str]) -> Counts:
        """Reads what `save` wrote, and adds up several files with one of them in memory at a time.

        CountsError for anything else or for different patterns, OSError if a file cannot be read.
        """

class Vocabulary:
    """What was learnt. Equal to another with the same tokens and pattern."""

    @property
    def pattern(self) -> str:
        """The pattern that cuts text into words."""
    @property
    def tokens(self) -> list[bytes]:
        """The bytes of each token by id, in a new list: the 256 single bytes, then the merges in order; all differ."""
    def ranks(self) -> dict[bytes, int]:
        """The id of each token: `mergeable_ranks` for `tiktoken.Encoding`."""
    def __len__(self) -> int:
        """Number of tokens."""
    def __eq__(self, other: object) -> bool: ...
    def save(self, path: str | PathLike[str]) -> None:
        """Writes JSON (`format`, `pattern`, `tokens` in base64); it is whole or absent. OSError names the file."""
    @staticmethod
    def load(path: str | PathLike[str]) -> Vocabulary:
        """Reads what `save` wrote; VocabularyError for anything else, OSError if it cannot be read."""

class Encoder:
    """Text to ids: those of tiktoken's `encode_ordinary`, for any vocabulary and pattern, on any number of threads.

    A piece that the pattern cuts is the token with its bytes if there is one; else the adjacent pair that makes the
    lowest id is merged, again and again. Text that the pattern does not match is a piece too (tiktoken drops it).
    Surrogates that are no pair become U+FFFD. Up to 80 MB of pieces seen and output memory are kept for each of the
    threads that were ever in use at once.
    """

    def __new__(cls, tokens: Iterable[bytes], pattern: str | None = None) -> Encoder:
        """`tokens` are bytes by id, all 256 single bytes among them; `pattern` as in `count`.

        Raises TokensError, PatternError.
        """
    @property
    def pattern(self) -> str:
        """The pattern that cuts text into pieces."""
    def __len__(self) -> int:
        """Number of tokens."""
    def encode(self, text: str) -> npt.NDArray[np.uint32]:
        """The ids of one text, on this thread."""
    def encode_batch(
        self, texts: Iterable[str] | Block, threads: int | None = None
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """The ids of all texts end to end, and len(texts) + 1 offsets: text i has ids[offsets[i] : offsets[i + 1]].

        Many texts at once, an Arrow array of strings (its nulls are no texts), save making each a `str`.
        The work is done without the interpreter's lock on `threads` threads (None: one per core); Ctrl-C ends it.
        """

class Texts:
    """Many texts in one block of memory, as `read` yields them."""

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of all texts."""
    def __len__(self) -> int:
        """Number of texts."""
    def to_list(self) -> list[str]:
        """Each text as a `str`, to look at."""

Block = Texts | ArrowArray | ArrowChunks
"""Many texts handed over at once."""

def count(
    texts: Iterable[str | bytes | Block] | Block,
    *,
    pattern: str | None = None,
    threads: int | None = None,
    max_words: int | None = None,
    progress: Progress | None = None,
) -> Counts:
    """Counts the words that `pattern` cuts (None: `GPT4_PATTERN`), on `threads` threads (None: one per core).

    An item of `texts` is a `str`, UTF-8 `bytes`, or many texts at once: what `read` yields, or an Arrow array of
    strings, whose nulls are no texts. Text that the pattern does not match is a word of its own. The result depends
    neither on threads nor on the order of texts. Memory grows with the distinct words; texts are let go every 16 MB.

    With `max_words`, the result has at most so many distinct words: whenever a thread has more (by some 64), it drops
    the rarer half. `Counts` says how much that was; the result then depends on threads and order.

    `progress("count", num_bytes)` is called after every batch with the bytes counted so far. What it raises, what
    `texts` raises and Ctrl-C end the work and come through unchanged.

    Raises PatternError, TextError (texts are numbered from 0), NanobpeError for `threads` or `max_words` out of range,
    and TypeError for other items or for one text in place of many.
    """

def learn(
    counts: Counts, *, vocab_size: int, tie_order: TieOrder = "bytes", progress: Progress | None = None
) -> Vocabulary:
    """Learns `vocab_size` tokens, 256 to 2**31 - 1: always the most frequent pair next; of several, the smallest ids.

    While ties are broken, single bytes have their values for ids (`"bytes"`, as in rustbpe) or their places in the
    byte-level alphabet (`"byte_level"`, as in Hugging Face tokenizers); `tokens` has them by value in both.

    `progress("learn", num_tokens)` is called at the end and before at most every percent; what it raises comes through.

    Raises VocabularySizeError, EmptyCorpusError, CorpusTooSmallError, and CountsError for more than 4 GiB of words.
    """

def train(
    texts: Iterable[str | bytes | Block] | Block,
    *,
    vocab_size: int,
    pattern: str | None = None,
    threads: int | None = None,
    max_words: int | None = None,
    tie_order: TieOrder = "bytes",
    progress: Progress | None = None,
) -> Vocabulary:
    """`learn` from the `count` of the texts; a `vocab_size` out of range is refused before any text is read."""

# For `nanobpe.read` only.
def arrow_texts(array: ArrowArray, path: str, first_row: int) -> Texts: ...
def json_texts(lines: bytes, column: str, path: str, first_line: int) -> tuple[Texts, int]: ...
def plain_texts(block: bytes, path: str, start: int) -> Texts: ...
def last_cut(block: bytes) -> int: ...
