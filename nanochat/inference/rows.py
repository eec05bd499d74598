"""The rows of the cache and what each holds: whose answer it is, its tokens, and what is left of an answer that ended.

A row that is free keeps the tokens it has read until another answer takes it, so that a prompt that begins alike need
not be read again: the earlier turns of a chat, the examples before a question. Promises: the rows that speak stay close
to the first; the memory that is given up is the one not used for longest. Not here: what is done with a row
(scheduler.py).
"""

from enum import IntEnum
from typing import Any

import numpy as np

from nanochat.model.kv_cache import STEP, KVCache

SHARED_STEP = STEP  # tokens: so many at a time are shared, so that sums of the rest are made in the same order


class State(IntEnum):
    """What a row does."""

    FREE = 0
    READING = 1  # its prompt
    RESERVED = 2  # for an answer whose prompt another row is reading
    SPEAKING = 3


class Rows:
    """`max_rows` rows, as arrays over all of them; index 0 is the first row of the cache."""

    def __init__(self, cache: KVCache) -> None:
        self.cache, count, context = cache, cache.max_rows, cache.max_len
        self.state = np.zeros(count, np.int8)
        self.tokens = np.zeros((count, context), np.int64)  # the prompt and what follows
        self.spoken = np.zeros((count, context), bool)  # chosen by the model
        self.log_probs = np.zeros((count, context), np.float32)
        self.uniform = np.zeros((count, context))  # random numbers, by the token they choose
        self.prompt, self.length, self.limit = (np.zeros(count, np.int64) for _ in range(3))  # tokens
        self.used = np.zeros(count, np.int64)  # when last, in steps
        self.owner: list[Any] = [None] * count

    def in_state(self, state: State) -> np.ndarray:
        """The rows in that state, in order."""
        return np.flatnonzero(self.state == state)

    def source(self, prompt: np.ndarray) -> tuple[int, int, bool]:
        """(row, shared, soon): who has read the longest beginning of the prompt that can be shared, and whether one
        that is still reading its own will soon have read much more of it. row -1: nobody.
        """
        used = self.cache.lengths.copy()
        reading = self.in_state(State.READING)
        used[reading] = self.prompt[reading]
        candidates = np.flatnonzero(used >= SHARED_STEP)
        if not len(candidates):
            return -1, 0, False
        width = len(prompt) - 1  # one token is left to be read, for what comes after it
        differs = np.ones((len(candidates), width + 1), bool)  # the last column: at the latest there
        differs[:, :width] = self.tokens[candidates, :width] != prompt[:width]
        common = np.minimum(differs.argmax(axis=1), used[candidates]) // SHARED_STEP * SHARED_STEP
        there = np.minimum(common, self.cache.lengths[candidates] // SHARED_STEP * SHARED_STEP)
        best, shared = -1, 0
        for index in np.argsort(-there, kind="stable").tolist():
            if there[index] < SHARED_STEP:
                break
            if self.cache.can_share(int(candidates[index]), int(there[index])):
                best, shared = int(candidates[index]), int(there[index])
                break
        promised = max((int(common[i]) for i, row in enumerate(candidates) if row in reading), default=0)
        return best, shared, promised - shared >= SHARED_STEP

    def take(self, keep: int = -1) -> int:
        """The first free row, to be filled anew; what was in it goes to the row that was not used for longest.

        `keep` is not given up; it may itself be the row taken.
        """
        free = self.in_state(State.FREE)
        row = int(free[0])
        if row == keep or self.cache.lengths[row] < SHARED_STEP:
            return row
        others = free[free != keep]
        oldest = int(others[np.argmin(self.used[others])])
        if oldest != row:
            self._copy(row, oldest)
        return row

    def share(self, source: int, targets: list[int], length: int) -> None:
        """The targets have read the first `length` tokens of `source`."""
        others = [target for target in targets if target != source]
        latest = int(self.tokens[source, length - 1])
        if others:
            count = len(others)
            self.cache.copy([source] * count, others, [length] * count, [latest] * count)
        if len(others) < len(targets):
            self.cache.shorten(source, length, latest)

    def move(self, row: int, to: int) -> None:
        """What the row holds is in `to` from now on, and the row is free and empty."""
        self._copy(row, to)
        for each in (self.spoken, self.log_probs, self.uniform, self.prompt, self.length, self.limit):
            each[to] = each[row]
        self.state[to], self.owner[to] = self.state[row], self.owner[row]
        self.release(row)
        self.cache.forget([row])

    def release(self, row: int) -> None:
        """The row is free; what it has read stays until it is taken."""
        self.state[row], self.owner[row] = State.FREE, None

    def _copy(self, row: int, to: int) -> None:
        read = int(self.cache.lengths[row])
        if read:
            self.cache.copy([row], [to], [read], [int(self.cache.latest[row])])
        else:
            self.cache.forget([to])
        self.tokens[to], self.used[to] = self.tokens[row], self.used[row]
