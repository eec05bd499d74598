"""One maker per address: a lease in the store, taken and kept by conditional puts.

Promises: at most one holder whose heartbeat is alive; a dead holder is taken over (at once when it was a process of
this host, else when its heartbeat stood still for `ttl` seconds by our own clock, so that clocks need not agree); each
holder has a higher fencing token than the one before; a holder that cannot renew in time is told to stop. It does not
stop anything itself.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat.artifacts.store import Conflict, Store

TTL_SECONDS = 60.0


class Lease:
    """The lease of one address. `acquire`, then watch `lost`; `release` in the end."""

    def __init__(self, store: Store, address: str, *, ttl: float = TTL_SECONDS, poll: float = 0.5) -> None:
        self.store, self.address, self.ttl, self.poll = store, address, ttl, poll
        self.key = f"leases/{address}.json"
        self.holder = uuid.uuid4().hex
        self.token = 0
        self.lost = threading.Event()
        self._etag = ""
        self._mutex = threading.Lock()  # one writer of our own at a time
        self._renewed = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, done: Callable[[], bool], waiting: Callable[[dict[str, Any]], None]) -> bool:
        """Waits until the lease is ours (True) or `done()` says that there is nothing left to do (False).

        `waiting(holder)` is called once per poll with what the present holder wrote; it may raise to give up.
        """
        seen, since = "", time.monotonic()
        while not done():
            found = self.store.get(self.key)
            if found is None:
                if self._take({"token": 0}, None):
                    return True
                continue
            held, etag = json.loads(found[0]), found[1]
            if etag != seen:
                seen, since = etag, time.monotonic()
            if held.get("released") or _is_dead(held) or time.monotonic() - since > self.ttl:
                if self._take(held, etag):
                    return True
                continue
            waiting(held)
            time.sleep(self.poll)
        return False

    def _take(self, before: dict[str, Any], etag: str | None) -> bool:
        self.token = before["token"] + 1
        try:
            self._etag = self.store.put(self.key, self._content(), if_absent=etag is None, if_match=etag)
        except Conflict:
            return False
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name=f"lease {self.address}", daemon=True)
        self._thread.start()
        return True

    def _content(self, *, released: bool = False) -> bytes:
        held = {"holder": self.holder, "token": self.token, "beat": time.time(), "released": released, **_process()}
        return json.dumps(held).encode()

    def _keep(self) -> None:
        while not self._stop.wait(self.ttl / 6) and self.confirm():
            continue

    def confirm(self) -> bool:
        """Renews the lease now; False (and `lost`) when it is not ours any more. Called before publishing, too."""
        with self._mutex:
            late = time.monotonic() - self._renewed > self.ttl * 2 / 3  # others may soon think us dead
            try:
                self._renew(released=False)
                self._renewed = time.monotonic()
            except Conflict:
                self.lost.set()
            except OSError:  # the store is away
                if late:
                    self.lost.set()
            return not self.lost.is_set()

    def _renew(self, *, released: bool) -> None:
        """A conditional put; one whose answer was lost on the way is recognised as ours by the holder's name."""
        content = self._content(released=released)
        try:
            self._etag = self.store.put(self.key, content, if_match=self._etag)
        except Conflict:
            found = self.store.get(self.key)
            if found is None or json.loads(found[0]).get("holder") != self.holder:
                raise
            self._etag = self.store.put(self.key, content, if_match=found[1])

    def release(self) -> None:
        """Gives the lease back; harmless if it was lost."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if not self.lost.is_set():
            try:
                self._renew(released=True)
            except (Conflict, OSError):
                self.lost.set()


def _process() -> dict[str, Any]:
    """Who we are, so that others on this host can see whether we still live."""
    namespace = Path("/proc/self/ns/pid")  # two containers of a host may share its name but not its pids
    space = str(namespace.readlink()) if namespace.exists() else ""
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot_id(), "pids": space, "pid": pid, "started": started_at(pid)}


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def started_at(pid: int) -> str:
    """Start time of a process in clock ticks since boot (field 22 of /proc/PID/stat); empty where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # a zombie does no more work


def _is_dead(held: dict[str, Any]) -> bool:
    here = _process()
    if not here["boot"] or any(held.get(name) != here[name] for name in ("host", "boot", "pids")):
        return False
    return started_at(held["pid"]) != held["started"]
