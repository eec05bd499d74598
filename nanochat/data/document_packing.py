"""Packs tokenized documents into rows of equal length.

Two ways: `best_fit`, where every row opens with a document start, and `stream`, which cuts anywhere. Promises: rows are
full, no token is invented but the beginning-of-sequence token, and the rows depend on the documents and their order
alone. Documents longer than a row are split before packing, so that none can clog the buffer. There is no padding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nanochat.data.best_fit import BestFitQueue


def pieces(ids: Sequence[int] | np.ndarray, bos: int, capacity: int) -> Iterator[np.ndarray]:
    """The document as arrays of at most `capacity` tokens, each opened by `bos`: a long one is several documents."""
    step = capacity - 1
    for start in range(0, len(ids), step):
        some = ids[start : start + step]
        piece = np.empty(len(some) + 1, np.uint32)  # (n,)
        piece[0], piece[1:] = bos, some
        yield piece


def best_fit(documents: Iterable[np.ndarray], capacity: int, buffer_docs: int, bos: int) -> Iterator[np.ndarray]:
    """Rows (capacity,): into the room left goes the longest buffered document that fits (the oldest of equals).

    When none fits, the shortest is cropped to fill the row and its rest dropped: that loses least, and the next row
    again opens with a document start (nanochat's loader, measured there: 35 % of the tokens dropped on web text at
    2,048 a row). Room for one token takes a lone `bos`. A last row that cannot be filled is dropped.

    Args:
        documents: arrays of at most `capacity` tokens, each opened by `bos`.
    """
    coming = iter(documents)
    waiting: dict[int, np.ndarray] = {}  # by number, in order of arrival
    queue = BestFitQueue()
    number = 0
    assert capacity > 1, capacity
    row, room = _empty(capacity)
    while True:
        while len(queue) < buffer_docs and (document := next(coming, None)) is not None:
            assert 0 < len(document) <= capacity, (len(document), capacity)
            number += 1
            waiting[number] = document
            queue.add(number, len(document))
        if room == 1:
            row[-1:], room = bos, 0
        elif queue:
            fitting = queue.take_longest(room)
            taken = waiting.pop(queue.take_shortest() if fitting is None else fitting)[:room]
            row[capacity - room :][: len(taken)] = taken
            room -= len(taken)
        else:
            return
        if room == 0:
            yield row
            row, room = _empty(capacity)


def stream(documents: Iterable[np.ndarray], capacity: int) -> Iterator[np.ndarray]:
    """Rows (capacity,): the documents one after another, cut anywhere; only the tail that fills no row is lost."""
    row, room = _empty(capacity)
    for document in documents:
        while len(document):
            taken, document = document[:room], document[room:]
            row[capacity - room :][: len(taken)] = taken
            room -= len(taken)
            if room == 0:
                yield row
                row, room = _empty(capacity)


def _empty(capacity: int) -> tuple[np.ndarray, int]:
    return np.empty(capacity, np.uint32), capacity
