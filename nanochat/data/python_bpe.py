"""Turns text into tokens with nothing but the standard library: for machines without tiktoken.

Promises the same tokens as tiktoken, for `SPLIT_PATTERN` and any Unicode text, several times slower; long pieces cost
n log n. It covers no other pattern, and no special tokens: text is only ever text.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from heapq import heapify, heappop, heappush

# GPT-4's pattern (tiktoken's cl100k_base) with digit groups of at most 2: a small vocabulary has no room for a thousand
# numbers.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)

# The same over text in which one character stands for each class that the pattern tells apart; see `_Classes`.
_CLASS_PATTERN = re.compile(r"'(?:[sdmt]|ll|ve|re)|[^\na-z0]?+[a-z]+|0{1,2}| ?[!']++\n*|\s*\n|\s+(?!\S)|\s+")
_KEPT = {ord(c): c for c in "' \nsdmtlver"} | {ord(c): c.lower() for c in "SDMTLVER"} | {ord("\r"): "\n", 0x17F: "s"}

# tiktoken knows Unicode 16, Python 3.11 only 14: the code points that became letters and numbers in between.
_NEW_LETTERS = """
    1C89-1C8A A7CB-A7CD A7DA-A7DC 105C0-105F3 10D4A-10D65 10D6F-10D85 10EC2-10EC4 1123F-11240 11380-11389 1138B 1138E
    11390-113B5 113B7 113D1 113D3 11BC0-11BE0 11F02 11F04-11F10 11F12-11F33 1342F 13441-13446 13460-143FA 16100-1611D
    16D40-16D6C 18CFF 1B132 1B155 1DF25-1DF2A 1E030-1E06D 1E4D0-1E4EB 1E5D0-1E5ED 1E5F0 2B739 2EBF0-2EE5D 31350-323AF"""
_NEW_NUMBERS = """
    10D40-10D49 116D0-116E3 11BF0-11BF9 11F50-11F59 16130-16139 16D70-16D79 1CCF0-1CCF9 1D2C0-1D2D3 1E4F0-1E4F9
    1E5F1-1E5FA"""


@cache
def _code_points(ranges: str) -> frozenset[int]:
    bounds = ([int(bound, 16) for bound in entry.split("-")] for entry in ranges.split())
    return frozenset(code for first, *last in bounds for code in range(first, (last or [first])[0] + 1))


class _Classes(dict[int, str]):
    """A table for `str.translate`: letters become `a`, numbers `0`, white space a tab, other characters `!`.

    The apostrophe, the space, line ends and the letters of contractions stay themselves, in lower case (the long s is
    an s). Filled as characters are met.
    """

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        if category[0] == "L" or (category == "Cn" and code in _code_points(_NEW_LETTERS)):
            found = "a"
        elif category[0] == "N" or (category == "Cn" and code in _code_points(_NEW_NUMBERS)):
            found = "0"
        else:  # \x1c to \x1f are white space to Python only
            found = "\t" if chr(code).isspace() and not 0x1C <= code <= 0x1F else "!"
        self[code] = found
        return found


_classes = _Classes(_KEPT)


def split(text: str) -> Iterable[str]:
    """The pieces that `SPLIT_PATTERN` cuts `text` into; together they are the text."""
    return (text[m.start() : m.end()] for m in _CLASS_PATTERN.finditer(text.translate(_classes)))


class PlainEncoder:
    """Byte-pair encoding by rank; the part of tiktoken's `Encoding` that a tokenizer needs."""

    def __init__(self, pattern: str, ranks: dict[bytes, int]) -> None:
        if pattern != SPLIT_PATTERN:
            raise ValueError(f"pattern = {pattern!r}: only tiktoken can split by it; install tiktoken")
        self._ranks = ranks
        self._encode_piece = lru_cache(maxsize=1 << 16)(self._merge)

    def encode_ordinary(self, text: str) -> list[int]:
        """The tokens of `text`. As in tiktoken, half a surrogate pair counts as U+FFFD."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return [token for piece in split(text) for token in self._encode_piece(piece.encode())]

    def encode_ordinary_batch(self, texts: Sequence[str], *, num_threads: int) -> list[list[int]]:
        """The tokens of each text; threads would not help pure Python."""
        return [self.encode_ordinary(text) for text in texts]

    def _merge(self, piece: bytes) -> tuple[int, ...]:
        """Joins, while there is one, the adjacent pair whose union has the lowest rank; of equals the leftmost."""
        ranks, n = self._ranks, len(piece)
        if piece in ranks:
            return (ranks[piece],)
        ends, starts = list(range(1, n + 1)), list(range(-1, n))  # of the token from i; of the token up to i
        heap = [(rank, i, i + 2) for i in range(n - 1) if (rank := ranks.get(piece[i : i + 2])) is not None]
        heapify(heap)
        while heap:
            _, start, end = heappop(heap)
            middle = ends[start]
            if not start < middle < end or ends[middle] != end:
                continue  # one of the two has been joined to another since
            ends[start], ends[middle], starts[end] = end, 0, start
            for first, last in ((start, ends[end] if end < n else 0), (starts[start], end)):
                if 0 <= first < last and (rank := ranks.get(piece[first:last])) is not None:
                    heappush(heap, (rank, first, last))
        tokens, at = [], 0
        while at < n:
            tokens.append(ranks[piece[at : ends[at]]])
            at = ends[at]
        return tuple(tokens)
