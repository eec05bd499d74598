"""Files of a remote store on the local disk: by content, verified, with a size limit.

`files/<sha256>` holds each content once; the directory of an artifact is hard links to them, so the link count says
what is still needed. Promises: a file that is handed out had the right size and digest in this process; an altered one
is fetched again; the least recently used artifact goes first, and never one that a living process has fetched. It knows
no S3: `S3Store` tells it how to fetch.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.artifacts.store import Damaged, verify

Download = Callable[[str, Path], None]
ATTEMPTS = 2  # a second look tells a torn transfer from a damaged object
PARALLEL_FILES = 4


class Cache:
    """A directory of at most about `limit` bytes (what is in use is kept, even beyond it)."""

    def __init__(self, root: Path, limit: int) -> None:
        self.root, self.limit = root.absolute(), limit
        self._held: dict[str, int] = {}  # address -> descriptor of its lock file, shared until the process ends
        self._verified: dict[tuple[int, int], tuple[int, int, str]] = {}  # (device, inode) -> (size, mtime, sha256)
        self._mutex = threading.RLock()

    def artifact(self, address: str, files: Mapping[str, Mapping[str, Any]], download: Download) -> Path:
        """The directory of an artifact, after `download(name, path)` of what is missing or altered.

        Raises:
            Damaged: a file has another size or digest, also when fetched again.
        """
        self._hold(address)
        where = self.root / "artifacts" / address
        where.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(PARALLEL_FILES) as pool:
            list(pool.map(lambda name: self._provide(where / name, files[name], lambda to: download(name, to)), files))
        self.evict()
        return where

    def close(self) -> None:
        """Lets go of everything: it may be evicted from now on."""
        with self._mutex:
            for descriptor in self._held.values():
                os.close(descriptor)
            self._held.clear()

    def _hold(self, address: str) -> None:
        lock = self.root / "artifacts" / f"{address}.lock"
        with self._mutex:
            while address not in self._held:
                lock.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                    self._held[address] = descriptor
                else:  # evicted by another process between the two calls
                    os.close(descriptor)
        os.utime(lock)  # its time is when the artifact was last asked for

    def _provide(self, path: Path, entry: Mapping[str, Any], download: Callable[[Path], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = self.root / "files" / entry["sha256"]
        if self._is_sound(path, entry) or (self._is_sound(content, entry) and self._link(content, path)):
            return
        for attempt in range(ATTEMPTS):
            fresh = self.root / "incoming" / uuid.uuid4().hex
            fresh.parent.mkdir(parents=True, exist_ok=True)
            try:
                download(fresh)
                verify(fresh, entry["size"], entry["sha256"])
                fresh.chmod(0o444)
                self._remember(fresh, entry["sha256"])
                self._link(fresh, content)
                self._link(fresh, path)
                return
            except Damaged as error:
                if attempt == ATTEMPTS - 1:
                    raise Damaged(f"{path.name}: {error} (fetched {ATTEMPTS} times)") from None
            finally:
                fresh.unlink(missing_ok=True)

    def _link(self, source: Path, target: Path) -> bool:
        """Replaces `target` by a hard link; False: another process has evicted the source."""
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        with self._locked(fcntl.LOCK_SH):
            try:
                os.link(source, aside)
            except FileNotFoundError:
                return False
            aside.replace(target)
            aside.unlink(missing_ok=True)  # rename does nothing where both are the same file already
        return True

    def _is_sound(self, path: Path, entry: Mapping[str, Any]) -> bool:
        if not path.is_file():
            return False
        try:
            status = path.stat()
            seen = (status.st_size, status.st_mtime_ns, entry["sha256"])
            if self._verified.get((status.st_dev, status.st_ino)) != seen:
                verify(path, entry["size"], entry["sha256"])
                self._remember(path, entry["sha256"])
        except (Damaged, FileNotFoundError):  # another process may just evict it
            return False
        return True

    def _remember(self, path: Path, sha256: str) -> None:
        status = path.stat()
        self._verified[(status.st_dev, status.st_ino)] = (status.st_size, status.st_mtime_ns, sha256)

    def size(self) -> int:
        """Bytes of all contents."""
        return sum(map(_bytes_of, (self.root / "files").glob("*")))

    def evict(self) -> list[str]:
        """Removes least recently used artifacts until the limit holds or all that is left is in use."""
        gone: list[str] = []
        if self.size() <= self.limit:
            return gone
        with self._locked(fcntl.LOCK_EX):
            locks = sorted((self.root / "artifacts").rglob("*.lock"), key=lambda lock: lock.stat().st_mtime)
            for lock in locks:
                if self.size() <= self.limit:
                    break
                with _alone(lock) as alone:
                    if alone:
                        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                        lock.unlink()
                        gone.append(lock.relative_to(self.root / "artifacts").with_suffix("").as_posix())
                self._sweep()
        return gone

    def _sweep(self) -> None:
        for path in (self.root / "files").glob("*"):
            if path.stat().st_nlink == 1:
                path.unlink()

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        with (self.root / "artifacts.lock").open("w", encoding="utf-8") as file:
            fcntl.flock(file, how)
            yield


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # evicted by another process since it was listed
        return 0


@contextmanager
def _alone(lock: Path) -> Iterator[bool]:
    """Whether no living process holds this artifact."""
    with lock.open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
