"""The queue behind best-fit packing: pieces wait, and the longest that fits into the room left is taken.

It holds lengths and numbers, not the pieces. Which piece opens a row and what happens when none fits is for the two
packers to say: document_packing.py and conversation_packing.py.
"""

from __future__ import annotations

from bisect import bisect_right, insort


class BestFitQueue:
    """Pieces by length; `number` counts up in the order of arrival, and of equal lengths the oldest goes first."""

    def __init__(self) -> None:
        self._by_length: list[tuple[int, int]] = []  # (length, -number): of equals the oldest stands last

    def __len__(self) -> int:
        return len(self._by_length)

    def add(self, number: int, length: int) -> None:
        insort(self._by_length, (length, -number))

    def take_longest(self, room: int) -> int | None:
        """The number of the longest piece of at most `room`, which leaves the queue; None where none fits."""
        at = bisect_right(self._by_length, (room, 1)) - 1
        return None if at < 0 else -self._by_length.pop(at)[1]

    def take_shortest(self) -> int:
        """The number of the shortest piece, the youngest of equals. IndexError where nothing waits."""
        return -self._by_length.pop(0)[1]

    def remove(self, number: int, length: int) -> None:
        """Takes out one that is known to wait."""
        del self._by_length[bisect_right(self._by_length, (length, -number)) - 1]
