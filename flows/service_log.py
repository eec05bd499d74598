"""Why a service that we start did not come up: the telling line of its log, and what to do.

Promises: one sentence names the cause, the remedy where we know one, and the log. It starts and reads nothing else.
"""

from __future__ import annotations

import re
from pathlib import Path

from nanochat.redaction import redacted

TAIL_BYTES = 20_000
EXCEPTION = re.compile(r"(?:[\w]+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b:? ?.*")
NOISE = re.compile(r"Server stopped!|ERROR: +Application startup failed|\(Background on this error at")
HALF_MADE = re.compile(r"(?:table|index|view) \S+ already exists|no such (?:table|column|index)|duplicate column")
NEWER = re.compile(r"Can't locate revision|out-of-date database schema")
REMEDIES = (
    (NEWER, "{database} is of another version of {service}, probably a newer one: install that one, or move the file "
     "aside to begin anew"),
    (re.compile(r"No space left|disk is full|disk I/O error|quota", re.I), "make room on the disk of {folder}"),
    (re.compile(r"unable to open database|readonly database|Permission denied|Read-only file"),
     "make {folder} and what lies in it writable"),
    (re.compile(r"not a database|malformed"), "{database} is damaged: move the file aside to begin anew"),
    (re.compile(r"database is locked"), "another program holds {database}: end it"),
    (HALF_MADE, "{database} was left half-made: move the file aside to begin anew"),
)  # fmt: skip


def tail(log: Path, start: int = 0) -> str:
    """What the log says from a position on, at most its last 20 kB."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def telling_line(text: str) -> str:
    """The line that says most: the last exception, else the last error, else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not NOISE.match(line.strip())]
    exceptions = [line for line in lines if EXCEPTION.fullmatch(line)]
    errors = [line for line in lines if re.match(r"(?:Error|ERROR)\b", line)]
    return redacted((exceptions or errors or lines or ["it said nothing"])[-1])[:500]


def remedy(service: str, cause: str, database: Path) -> str:
    """What to do about a cause; empty where we do not know."""
    for pattern, text in REMEDIES:
        if pattern.search(cause):
            return text.format(service=service, database=database, folder=database.parent)
    return ""


def reason(service: str, text: str, log: Path, database: Path) -> str:
    """The cause, the remedy and the log, as the end of an error's sentence."""
    cause = telling_line(text)
    parts = (cause.rstrip("."), remedy(service, cause, database), f"its log is {log}")
    return "; ".join(filter(None, parts))
