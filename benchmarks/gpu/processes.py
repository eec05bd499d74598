"""Runs a job of child.py within a time limit and gives back what it found, whatever became of it.

Promises: what the child says is heard at once, and kept when it runs out of time or memory or crashes; nothing that it
started outlives it. Not here: what the jobs are (child.py), which are run (__main__.py).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LOOK_SECONDS = 0.2  # between two looks at what the child has said
Say = Callable[[dict[str, Any]], None]  # how a measurement tells what it has found, some numbers by name


@dataclass(frozen=True)
class Outcome:
    """What a child said, and how it ended: `error` is empty where it ended well."""

    said: list[dict[str, Any]]
    error: str

    def merged(self) -> dict[str, Any]:
        """Everything that it said as one, with the error if there was one."""
        numbers = {name: value for each in self.said for name, value in each.items()}
        return numbers | ({"error": self.error} if self.error else {})


def run(job: dict[str, Any], limit: float, hear: Say | None = None) -> Outcome:
    """The job in a process of its own, for at most `limit` seconds; `hear` is called with what it says, as it does."""
    with tempfile.TemporaryDirectory() as folder:
        found, heard = Path(folder) / "found", Path(folder) / "heard"
        found.touch()
        command = [sys.executable, "-m", "benchmarks.gpu.child", json.dumps(job), str(found)]
        with heard.open("wb") as output:
            child = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
            )
        said: list[dict[str, Any]] = []
        try:
            end = time.monotonic() + limit
            while (code := child.poll()) is None and time.monotonic() < end:
                time.sleep(LOOK_SECONDS)
                _listen(found, said, hear)
        finally:
            _end(child)
        _listen(found, said, hear)
        lines = heard.read_text(encoding="utf-8", errors="replace").splitlines()
    return Outcome(said, _error(code, limit, lines))


def _listen(found: Path, said: list[dict[str, Any]], hear: Say | None) -> None:
    """Adds what is new; the last line of a killed process may be torn, and does not count."""
    text = found.read_text(encoding="utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines()[len(said) :]:
        said.append(json.loads(line))
        if hear:
            hear(said[-1])


def _end(child: subprocess.Popen[bytes]) -> None:
    """The child and all that it started, the compiler's workers among them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _error(code: int | None, limit: float, lines: list[str]) -> str:
    if code == 0:
        return ""
    if code is None:
        return f"cut after {limit:.0f} s"
    heads = [line for line in lines if line and not line[0].isspace() and ("Error" in line or "error:" in line)]
    said = heads[-1] if heads else next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return f"exit code {code}: {said[:300]}"
