"""Rows that begin alike, laid out so that one forward of the model reads what they share once: for CORE's options.

A group is one line of tokens: the beginning, then the rest of each of its rows. A token sees the beginning and what is
before it in its own row's rest, at the positions that it has in that row. Promises: the features of every row's tokens
are those of the row read alone; nothing is padded but lines of unlike length. Not here: which rows make a group, what
is done with the features (core_metric.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat.model.attention import KEY_BLOCK, attention, by_blocks, fused, in_blocks

SHARED, NOBODY = -1, -2  # owners of a token that are no row: the beginning, and what only fills a place


@dataclass(frozen=True)
class Line:
    """One group: its tokens in the order of reading, each with its position and its owner, an index of a row.

    `starts` says where each row's rest begins.
    """

    tokens: list[int]
    positions: list[int]
    owners: list[int]
    shared: int
    starts: list[int]

    @classmethod
    def of(cls, shared: Sequence[int], rests: Sequence[Sequence[int]]) -> "Line":
        """The rests follow each other; before all but the first, the last shared token is repeated for the smear."""
        count = len(shared)
        line = cls(list(shared), list(range(count)), [SHARED] * count, count, [])
        for row, rest in enumerate(rests):
            if rest and len(line.tokens) > count:
                line._add([shared[-1]], count - 1, NOBODY)
            line.starts.append(len(line.tokens))
            line._add(rest, count, row)
        return line

    def _add(self, tokens: Sequence[int], position: int, owner: int) -> None:
        self.tokens.extend(tokens)
        self.positions.extend(range(position, position + len(tokens)))
        self.owners.extend([owner] * len(tokens))

    def place(self, row: int, position: int) -> int:
        """Where in the line the token at this position of this row is."""
        return position if position < self.shared else self.starts[row] + position - self.shared


class PrefixTree:
    """Lines side by side, given to the model in place of a cache: `model.features(tree.tokens, tree)`."""

    def __init__(self, lines: Sequence[Line], device: torch.device) -> None:
        longest = max(len(line.tokens) for line in lines)

        def filled(values: Sequence[list[int]], filler: Sequence[int]) -> Tensor:
            rows = [each + [fill] * (longest - len(each)) for each, fill in zip(values, filler, strict=True)]
            return torch.tensor(rows, device=device)

        self.tokens = filled([line.tokens for line in lines], [0] * len(lines))  # (B, T)
        # what fills a place sees the end of the beginning: a query that sees no key would be NaN
        self.positions = filled([line.positions for line in lines], [line.shared - 1 for line in lines])
        self.before = torch.full((len(lines),), -1, device=device)  # (B,) no token is before the first
        self.deepest = max(max(line.positions) for line in lines)
        self.branches = any(sum(owner >= 0 for owner in {*line.owners}) > 1 for line in lines)
        owners = filled([line.owners for line in lines], [NOBODY] * len(lines))
        self._tree = (owners[:, None] == owners[:, :, None]) | (owners == SHARED)[:, None]  # (B, T, T)
        self._tree &= torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        self._seen: dict[int, Tensor] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
        """Attention of q (B, T, H, D) over k and v (B, T, K, D), as the tree lets it."""
        on_cpu = q.device.type == "cpu"
        if not self.branches:  # only the order counts
            return by_blocks(q, k, v, window, KEY_BLOCK) if on_cpu else attention(q, k, v, window)
        seen = self.visible(window)
        return in_blocks(q, k, v, seen) if on_cpu else fused(q, k, v, seen[:, None])

    def visible(self, window: int) -> Tensor:
        """(B, T, T) bool, True where the query sees the key."""
        if window > self.deepest:
            return self._tree
        if window not in self._seen:
            self._seen[window] = self._tree & (self.positions[:, :, None] - self.positions[:, None] < window)
        return self._seen[window]
