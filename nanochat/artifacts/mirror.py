"""The newest checkpoint of a stage at work, kept in the store too: a machine that is lost then costs minutes.

A checkpoint is a directory `checkpoints/step-N` of the work directory, whole when it has its manifest; with it go the
metrics and what else a resumed stage would miss. Promises: what the store names is whole (its name is written last);
only the newest is kept; work is never held up: what fails is told and tried again later; a run that lost its lease to
another cannot put its own in the other's place; what was fetched is held against its manifest. Not here: what is in a
checkpoint (nanochat/training/checkpoint.py).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat.artifacts import metrics, provenance
from nanochat.artifacts.files import sha256_of
from nanochat.artifacts.store import Conflict, Damaged, Store

CHECKPOINTS, MANIFEST = "checkpoints", "manifest.json"
NEWEST = "newest.json"
BESIDE = (metrics.FILE, provenance.ARITHMETIC)  # files of the work directory that a resumed stage goes on with
POLL_SECONDS = 5.0
FAILED_SECONDS = 60.0  # until the next try
HELD = "mirrored"  # folder of the work directory: what is uploaded, held against pruning

log = logging.getLogger(__name__)


class Mirror:
    """The checkpoints of one address. `token` is the lease's, so that no two runs write the same files."""

    def __init__(self, store: Store, address: str, work: Path, token: int) -> None:
        self.store, self.work, self.token = store, work, token
        self.prefix = f"{CHECKPOINTS}/{address}"
        found = store.get(f"{self.prefix}/{NEWEST}")
        self.etag = found[1] if found else None
        self.newest: dict[str, Any] = json.loads(found[0]) if found else {"step": -1}

    def restore(self) -> None:
        """Fetches what the store has into the work directory, if that is further than what lies there."""
        if self.newest["step"] <= _step(_newest(self.work)):
            return
        final = self.work / CHECKPOINTS / self.newest["name"]
        fresh = final.with_name(f".fetching-{final.name}")
        for old in (fresh, final):  # the latter without its manifest
            shutil.rmtree(old, ignore_errors=True)
        fresh.mkdir(parents=True)
        place = f"{self.prefix}/{self.newest['place']}"
        try:
            for name in self.newest["files"]:
                self.store.download(f"{place}/{name}", fresh / name)
            for name in self.newest["beside"]:
                self.store.download(f"{place}/{name}", self.work / name)
            _check(fresh)
        except Damaged as error:
            log.warning("the checkpoint in the store cannot be used: %s", error)
            self.newest = {"step": -1}  # the next one, of whatever step, takes its place
            return
        fresh.rename(final)

    def update(self, stop: threading.Event) -> None:
        """Uploads the newest checkpoint, if the store has an older one. Conflict: another run has taken over."""
        found = _newest(self.work)
        if found is None or _step(found) <= self.newest["step"]:
            return
        with _held(found, self.work / HELD) as directory:
            self._upload(directory, stop)

    def _upload(self, directory: Path, stop: threading.Event) -> None:
        described = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
        place, files = f"{self.token}-{directory.name}", sorted(path.name for path in directory.iterdir())
        beside = [name for name in BESIDE if (self.work / name).exists()]
        for name in files:
            if stop.is_set():
                return
            digest = described[name]["sha256"] if name in described else sha256_of(directory / name)
            self.store.upload(f"{self.prefix}/{place}/{name}", directory / name, digest)
        for name in beside:  # copies, of what goes on growing
            self.store.put(f"{self.prefix}/{place}/{name}", (self.work / name).read_bytes())
        if stop.is_set():  # who stops may remove everything next
            return
        newest = {"step": _step(directory), "name": directory.name, "place": place, "files": files, "beside": beside}
        key, first = f"{self.prefix}/{NEWEST}", self.etag is None
        self.etag = self.store.put(key, json.dumps(newest).encode(), if_absent=first, if_match=self.etag)
        self.newest = newest
        self._remove_all_but(place)

    def forget(self) -> None:
        """Removes everything: the artifact is whole. What cannot be removed now costs room and no more."""
        try:
            self.store.delete(f"{self.prefix}/{NEWEST}")
            self._remove_all_but("")
        except OSError as error:
            log.warning("checkpoints of what is whole stay in the store under %s: %s", self.prefix, error)

    def _remove_all_but(self, place: str) -> None:
        for key in list(self.store.keys(f"{self.prefix}/")):
            if key.split("/")[-2] != place and not key.endswith(f"/{NEWEST}"):
                self.store.delete(key)

    @contextmanager
    def following(self) -> Iterator[None]:
        """Copies each new checkpoint while the block runs, in a thread."""
        stop = threading.Event()
        thread = threading.Thread(target=self._follow, args=(stop,), name="checkpoint mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()  # at the longest until the file on its way is there: left alone it would write later

    def _follow(self, stop: threading.Event) -> None:
        pause = 0.0
        while not stop.wait(pause):
            pause = POLL_SECONDS
            try:
                self.update(stop)
            except Conflict:
                log.warning("checkpoints are no longer mirrored: another run has taken over %s", self.prefix)
                return
            except OSError as error:
                log.warning("the newest checkpoint is not in the store yet, trying again: %s", error)
                pause = FAILED_SECONDS


def _check(directory: Path) -> None:
    """Raises Damaged for a file that is not what the manifest of the checkpoint says."""
    described = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]
    for name, facts in described.items():
        if sha256_of(directory / name) != facts["sha256"]:
            raise Damaged(f"{name} of {directory.name} has another digest than its manifest")


@contextmanager
def _held(directory: Path, aside: Path) -> Iterator[Path]:
    """The files of a checkpoint under a second name, so that training may prune it while they are uploaded."""
    shutil.rmtree(aside, ignore_errors=True)
    held = aside / directory.name
    held.mkdir(parents=True)
    try:
        for path in directory.iterdir():
            os.link(path, held / path.name)
        yield held
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _newest(work: Path) -> Path | None:
    """The newest checkpoint that is whole."""
    found = [manifest.parent for manifest in (work / CHECKPOINTS).glob(f"step-*/{MANIFEST}")]
    return max(found, key=_step, default=None)


def _step(directory: Path | None) -> int:
    """Its step; -1 for none."""
    return int(directory.name.removeprefix("step-")) if directory is not None else -1
