"""Where artifacts live: files under an address, and `record.json`, written last, whose presence means "whole".

`Store` is the small interface of all stores and what they share; `FileStore` is the local folder, the embedded default
(`flows/store.py` adds S3). Promises: what is not whole is invisible; what is damaged is refused by digest; a
conditional `put` lets exactly one writer win. It does not decide what has to be made (runner.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.artifacts.files import sha256_of, sync
from nanochat.errors import shortened, unknown
from nanochat.locations import file_uri, folder

RECORD = "record.json"


class Conflict(Exception):
    """A conditional put found another state than the one it was conditioned on."""


class Damaged(Exception):
    """An object's size or digest is not what its record says."""


class Store(ABC):
    """Objects by key, and artifacts by address on top of them."""

    uri: str

    @abstractmethod
    def get(self, key: str) -> tuple[bytes, str] | None:
        """The object's bytes and its etag; None where there is none."""

    @abstractmethod
    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        """Writes an object in one piece and returns its etag. Conflict: the condition does not hold."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Removes an object, if it is there."""

    @abstractmethod
    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Stores a local file under a key; invisible until complete."""

    @abstractmethod
    def download(self, key: str, path: Path) -> None:
        """Copies an object into a file, unverified. Damaged: there is none."""

    @abstractmethod
    def keys(self, prefix: str = "") -> Iterable[str]:
        """All keys that begin with the prefix, sorted."""

    @abstractmethod
    def fetch(self, address: str) -> Path:
        """A local directory with the artifact's files, verified. KeyError: no record; Damaged: not what it says."""

    def location(self, address: str) -> str:
        """Where a person finds the artifact."""
        return f"{self.uri.rstrip('/')}/{address}"

    def record(self, address: str) -> dict[str, Any] | None:
        """The record of a whole artifact, or None."""
        found = self.get(f"{address}/{RECORD}")
        return None if found is None else json.loads(found[0])

    def known(self, address: str) -> dict[str, Any]:
        """The record of an address that a person typed. ValueError: it is none, or nothing lies there."""
        if not re.fullmatch(r"[a-z][a-z0-9_]*/\w[\w.-]*", address, re.ASCII):
            raise ValueError(f"{shortened(address)} is no address: write STAGE/NAME-DIGEST as `nanochat ls` prints it")
        if (record := self.record(address)) is None:
            raise ValueError(unknown("artifact", address, self.addresses() or ["nothing in the store yet"]))
        return record

    def addresses(self) -> list[str]:
        """Addresses of all whole artifacts."""
        return [key.removesuffix(f"/{RECORD}") for key in self.keys() if key.endswith(f"/{RECORD}")]

    def publish(
        self,
        address: str,
        files: Mapping[str, Path],
        record: Mapping[str, Any],
        confirm: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Uploads the files in parallel, then the record. Where another writer was first, its record stands.

        `confirm` is called between the two; it raises where we must not publish any more. Returns the record that
        stands, with size and sha256 of each file.
        """
        with ThreadPoolExecutor(max_workers=8) as pool:
            digests = dict(zip(files, pool.map(sha256_of, files.values()), strict=True))
            list(pool.map(lambda name: self._upload_unless_whole(address, name, files[name], digests[name]), files))
        sizes = {name: {"size": path.stat().st_size, "sha256": digests[name]} for name, path in files.items()}
        whole = {"address": address, "files": sizes, **record}
        confirm()
        try:
            self.put(f"{address}/{RECORD}", json.dumps(whole, indent=1).encode(), if_absent=True)
        except Conflict:
            return self.record(address) or whole
        return whole

    def _upload_unless_whole(self, address: str, name: str, path: Path, sha256: str) -> None:
        """The file, unless another writer has published meanwhile: the files of a record that stands are its own."""
        if self.get(f"{address}/{RECORD}") is None:
            self.upload(f"{address}/{name}", path, sha256)

    def forget(self, address: str) -> None:
        """Makes an artifact invisible, so that it is made again; its files are overwritten then."""
        self.delete(f"{address}/{RECORD}")

    def check_writable(self) -> None:
        """Writes and removes a small object. ValueError with the remedy where that does not work."""
        key = f"probe-{uuid.uuid4().hex}"
        try:
            self.put(key, b"nanochat", if_absent=True)
            self.delete(key)
        except OSError as error:
            raise ValueError(f"store = {self.uri!r}: cannot be written ({error}): name another one") from error


def verify(path: Path, size: int, sha256: str) -> None:
    """Damaged, unless the file has this size and digest."""
    if not path.is_file():
        raise Damaged(f"{path.name} is missing")
    if path.stat().st_size != size:
        raise Damaged(f"{path.name} has {path.stat().st_size} bytes, its record says {size}")
    if sha256_of(path) != sha256:
        raise Damaged(f"{path.name} has another sha256 than its record")


class FileStore(Store):
    """A folder. Conditional puts hold one lock file; everything else is write-aside and rename."""

    def __init__(self, root: Path) -> None:
        self.root = folder(root)
        self.uri = file_uri(self.root)
        self._verified: dict[str, str] = {}

    def _path(self, key: str) -> Path:
        path = self.root / key  # links are followed: an artifact may have been moved to another disk and linked back
        if Path(key).is_absolute() or ".." in Path(key).parts:
            raise ValueError(f"{shortened(key)} is no key in {self.uri}: it leaves the folder")
        return path

    def get(self, key: str) -> tuple[bytes, str] | None:
        try:
            data = self._path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return data, hashlib.sha256(data).hexdigest()

    def put(self, key: str, data: bytes, *, if_absent: bool = False, if_match: str | None = None) -> str:
        path = self._path(key)
        with self._locked():
            found = self.get(key) if if_absent or if_match is not None else None
            if if_absent:
                if found is not None:
                    raise Conflict(key)
            elif if_match is not None and (found is None or found[1] != if_match):
                raise Conflict(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
            fresh.write_bytes(data)
            sync(fresh)
            fresh.replace(path)
            sync(path.parent)
        return hashlib.sha256(data).hexdigest()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the kernel frees it when the process dies
            yield

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def upload(self, key: str, path: Path, sha256: str) -> None:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            os.link(path, fresh)  # the stage's own directory is removed afterwards: one copy on disk
        except OSError:  # another file system
            shutil.copyfile(path, fresh)
        sync(fresh)
        fresh.replace(target)
        sync(target.parent)

    def download(self, key: str, path: Path) -> None:
        try:
            shutil.copyfile(self._path(key), path)
        except FileNotFoundError:
            raise Damaged(f"{key} is missing") from None

    def keys(self, prefix: str = "") -> list[str]:
        found = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
        return sorted(key for key in found if key.startswith(prefix) and not key.split("/")[-1].startswith("."))

    def fetch(self, address: str) -> Path:
        record = self.record(address)
        if record is None:
            raise KeyError(address)
        where = self._path(address)
        for name, entry in record["files"].items():
            if self._verified.get(f"{address}/{name}") == entry["sha256"]:
                continue
            try:
                verify(where / name, entry["size"], entry["sha256"])
            except Damaged as error:
                remedy = f"make it again with --force {address.split('/')[0]}"
                raise Damaged(f"{address} in {self.uri}: {error}; {remedy}") from None
            self._verified[f"{address}/{name}"] = entry["sha256"]
        return where
