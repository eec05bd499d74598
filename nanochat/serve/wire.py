"""What server and replica tell each other: JSON, a line a message, over a socket pair.

To the replica: {"id", "prompt", "sampling", "samples"}, {"cancel": id}. From it: {"ready": facts} or {"failed": why}
once, then {"deltas": [[id, ...delta], ...]}, {"refused": id, "message", "retry_after"}, {"statistics": numbers}.
Standard library only. Not here: who sends what when (replica.py, replica_process.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Piece:
    """What one step added to one answer: the engine's Delta without the engine. `token` is -1 where it is none."""

    sample: int
    token: int
    text: str
    forced: bool
    log_prob: float
    top: tuple[tuple[int, float], ...]
    finish: str | None
    shared: int = 0  # with the first piece: tokens of the prompt that had not to be read again


def message(value: Any) -> bytes:
    """A message on its way."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


class Lines:
    """Messages out of bytes that come in any pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that became whole."""
        self._rest += data
        end = self._rest.rfind(b"\n")
        if end < 0:
            return
        whole, self._rest = bytes(self._rest[:end]), self._rest[end + 1 :]
        yield from map(json.loads, whole.split(b"\n"))
