"""SQLite files that are made at first use in many steps, and what is left of one whose making was cut off.

Promises: a file made here is whole or not there, since it is made under a lock, under another name, and renamed; two
processes make one; a half-made file is set aside under another name with a word to the user, never deleted; one that
holds anything, or that another program may just be making, is left alone. It knows no schema: its callers name a table.
"""

from __future__ import annotations

import fcntl
import logging
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from nanochat.artifacts.files import sync

STILL_SECONDS = 10.0  # without a change, before a half-made file counts as left behind by its maker
COMPANIONS = ("-journal", "-wal", "-shm")  # of SQLite
log = logging.getLogger(__name__)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Alone among all processes that use this lock file; a killed one lets go of it."""
    with path.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def has_rows(database: Path, tables: Iterable[str]) -> bool:
    """Whether one of the tables is there and holds anything.

    Raises:
        sqlite3.Error: the file cannot be read as a database, or is in use for long.
    """
    if not database.exists():
        return False
    uri = f"file:{urllib.parse.quote(str(database.absolute()))}?mode=rw"  # a journal left by a kill is rolled back
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return any(connection.execute(f"SELECT 1 FROM {each} LIMIT 1").fetchone() for each in tables if each in there)


def set_aside(database: Path, cause: str) -> Path:
    """Renames a half-made database and what SQLite keeps beside it; says so. Where it lies now."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    count = len(list(database.parent.glob(f"{database.name}.half-made-*")))
    aside = database.with_name(f"{database.name}.half-made-{stamp}-{count}")
    for part in (*_companions(database), database):  # it last: a journal left beside a new one is rolled into that
        if part.exists():
            part.rename(aside.with_name(part.name.replace(database.name, aside.name, 1)))
    log.warning("%s was half-made (%s): it is now %s, and a new one is made", database, cause, aside)
    return aside


def made_whole(database: Path, table: str, make: Callable[[Path], None]) -> None:
    """Has `make` make the database, unless it is there; `table` has a row in every one that was made to its end.

    A database that cannot be read is left for its owner to complain of. Raises what `make` raises.
    """
    if _is_whole(database, table):
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.with_name(f".{database.name}.lock")):
        while not (whole := _is_whole(database, table)) and _may_be_at_work(database):
            time.sleep(0.2)
        if whole:
            return
        if database.exists():
            set_aside(database, "its first start was cut off")
        fresh = database.with_name(f".{database.name}.making")
        for part in (*_companions(fresh), fresh):  # of one that was killed here
            part.unlink(missing_ok=True)
        make(fresh)
        sync(fresh)
        if any(part.exists() for part in _companions(database)):
            set_aside(database, "its database was taken away")
        fresh.rename(database)
        sync(database.parent)


def _companions(database: Path) -> list[Path]:
    return [database.with_name(f"{database.name}{each}") for each in COMPANIONS]


def _may_be_at_work(database: Path) -> bool:
    """Whether a program that does not know the lock has just written to it."""
    return database.exists() and 0 <= time.time() - database.stat().st_mtime < STILL_SECONDS


def _is_whole(database: Path, table: str) -> bool:
    try:
        return has_rows(database, [table])
    except sqlite3.Error:
        return True
