"""BPE as one would explain it, in Python: cut the texts, count all pairs, join the best everywhere, start again.

The oracle of the tests of nanobpe. Does not cover speed.
"""

import itertools
from collections import Counter
from collections.abc import Iterable

import regex


def count(texts: Iterable[str], pattern: str) -> Counter[bytes]:
    """How often each piece occurs; what lies between two matches is a piece too, and an empty match is none."""
    words = Counter[bytes]()
    for text in texts:
        covered = 0
        for match in filter(regex.Match.group, regex.finditer(pattern, text)):
            words.update([text[covered : match.start()].encode(), match.group().encode()])
            covered = match.end()
        words.update([text[covered:].encode()])
    del words[b""]
    return words


def learn(counts: dict[bytes, int], vocab_size: int) -> list[bytes]:
    """The tokens: the bytes, then always the most frequent pair; fewer than `vocab_size` if no pair is left."""
    words = Counter({tuple(word): number for word, number in counts.items()})
    tokens = [bytes([byte]) for byte in range(256)]
    while len(tokens) < vocab_size:
        pairs = Counter[tuple[int, int]]()
        for word, number in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += number
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        joined = Counter[tuple[int, ...]]()
        for word, number in words.items():
            joined[join(word, best, len(tokens))] += number
        words = joined
        tokens.append(tokens[best[0]] + tokens[best[1]])
    return tokens


def join(word: tuple[int, ...], pair: tuple[int, int], token: int) -> tuple[int, ...]:
    out: list[int] = []
    at = 0
    while at < len(word):
        found = word[at : at + 2] == pair
        out.append(token if found else word[at])
        at += 2 if found else 1
    return tuple(out)
