"""Numbers a stage writes down while it works: one JSON line each, appended to a file that others follow.

The file is the truth: MLflow, the progress display and the plots all read it. Promises: a line is whole or absent (a
torn last line is ignored and cut off on resume); after a resume no step stands twice. It sends nothing anywhere.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.artifacts.files import write_aside

FILE = "metrics.jsonl"


class Metrics:
    """Appends metrics to `path`; with path None (the other ranks) it does nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_torn_line(path)

    def log(self, step: int, **values: float) -> None:
        """One line: {"step": step, "time": now, name: value, ...}."""
        self._append({"step": step, "time": round(time.time(), 3), **values})

    def progress(self, done: float, total: float, unit: str) -> None:
        """For stages without steps: how much of how much is done. Shown as it happens, not kept as a metric."""
        self._append({"done": done, "total": total, "unit": unit, "time": round(time.time(), 3)})

    def _append(self, row: dict[str, Any]) -> None:
        if self.path is None:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def truncate(self, step: int) -> None:
        """Drops everything after `step`: what an interrupted attempt wrote beyond its last checkpoint."""
        if self.path is None or not self.path.exists():
            return
        kept = [row for row in read(self.path) if row.get("step", 0) <= step]
        write_aside(self.path, "".join(json.dumps(row) + "\n" for row in kept))


def _cut_torn_line(path: Path) -> None:
    """Removes what a killed process left of its last line."""
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """All whole rows of a metrics file."""
    if path.exists():
        yield from Follower(path).rows()


class Follower:
    """Reads a metrics file while it is being written; survives its truncation."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset, self.inode = path, 0, 0

    def rows(self) -> list[dict[str, Any]]:
        """The whole rows since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self.inode:  # replaced by truncate(): everything is read again, keyed by step
                self.inode, self.offset = inode, 0
            file.seek(self.offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        return [row for line in whole.splitlines() if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:  # two halves joined: a line torn by a kill, then continued by the next attempt
        return None
    return row if isinstance(row, dict) else None
