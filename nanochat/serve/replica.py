"""One replica: a process that holds the model on one device, as the server's event loop sees it.

A process each, because Python runs one thread at a time: the server's work and several GPUs would take turns, and a
GPU that fails takes its process along. Promises: what was asked is answered or fails, also when the process dies; a
replica whose server dies ends. Not here: which replica takes a request (replicas.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nanochat.serve import wire
from nanochat.workflow.launch import child_environment, python_command

END_SECONDS = 5.0
# For so many shapes of a product oneDNN, and torch before it, keep code: with their 1024 memory grows for hours, as the
# shapes are as many as rows times positions (docs/log.md). A step has fewer.
KEPT_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}


class LoadFailed(RuntimeError):
    """A replica could not load its model; the message says why."""


class Asked(Protocol):
    """Who waits for an answer."""

    def deliver(self, piece: wire.Piece) -> None:
        """One more piece."""

    def refuse(self, message: str, retry_after: float | None) -> None:
        """The engine did not take it: to be tried again after so long, or never."""

    def lost(self, replica: Replica) -> None:
        """The replica ended before the answer did."""


@dataclass(frozen=True)
class Placement:
    """Where and how a replica computes. `rows` are decoded at a time; 0: as many as memory allows."""

    device: str = "auto"
    rows: int = 0
    compile: bool = False
    local_rank: int = 0
    share: int = 1  # replicas of this machine

    @property
    def words(self) -> tuple[str, ...]:
        """For the command line of the process."""
        numbers = {"--rows": self.rows, "--local-rank": self.local_rank, "--share": self.share}
        words = [word for name, number in numbers.items() for word in (name, str(number))]
        return ("--device", self.device, *words, *["--compile"] * self.compile)


class Replica(asyncio.Protocol):
    """Started by `start`; everything is called on the event loop's thread."""

    def __init__(self, directory: Path, placement: Placement, freed: Callable[[], None] = lambda: None) -> None:
        self.directory, self.placement, self.freed = directory, placement, freed
        self.facts: dict[str, Any] = {}
        self.statistics: dict[str, float] = {}
        self.rows = 0  # asked for and not finished
        self.alive = False
        self.ended = asyncio.Event()
        self._asked: dict[int, tuple[Asked, int]] = {}  # by number: who, and how many of its rows are unfinished
        self._next = 0
        self._lines = wire.Lines()
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._loaded: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    async def start(self) -> Replica:
        """Starts the process and waits until it has the model. LoadFailed: it never will."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as failed:
            failed.callback(ours.close)
            words = ("--directory", str(self.directory), "--fd", str(theirs.fileno()), *self.placement.words)
            self._process = subprocess.Popen(
                python_command("nanochat.serve.replica_process", *words),
                stdin=subprocess.DEVNULL,
                env=child_environment(**{name: os.environ.get(name) or each for name, each in KEPT_SHAPES.items()}),
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in a terminal is for the server, which may wait for answers
            )
            failed.pop_all()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)
        try:
            self.facts = await asyncio.shield(self._loaded)
        except BaseException:
            await self.close()
            raise
        self.alive = True
        return self

    def ask(self, asked: Asked, prompt: Sequence[int], sampling: Mapping[str, Any], samples: int) -> Callable[[], None]:
        """Sends a request; the function that is returned takes it back."""
        number = self._next
        self._next += 1
        self._asked[number] = (asked, samples)
        self.rows += samples
        self._send({"id": number, "prompt": list(prompt), "sampling": dict(sampling), "samples": samples})
        return lambda: self._cancel(number)

    def _cancel(self, number: int) -> None:
        if number in self._asked:  # its rows count until the engine says that they are free
            self._asked[number] = (_Nobody(), self._asked[number][1])
            self._send({"cancel": number})

    def _send(self, value: Any) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.message(value))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport), transport
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        for told in self._lines.feed(data):
            if "deltas" in told:
                for number, *delta in told["deltas"]:
                    self._heard(number, wire.Piece(*delta))
            elif "refused" in told:
                asked, samples = self._asked.pop(told["refused"])
                self.rows -= samples
                asked.refuse(told["message"], told["retry_after"])
                self.freed()
            elif "statistics" in told:
                self.statistics = told["statistics"]
            elif not self._loaded.done():
                failed = LoadFailed(told["failed"]) if "failed" in told else None
                self._loaded.set_exception(failed) if failed else self._loaded.set_result(told["ready"])

    def _heard(self, number: int, piece: wire.Piece) -> None:
        asked, unfinished = self._asked[number]
        if piece.finish is not None:
            self.rows -= 1
            self._asked[number] = (asked, unfinished - 1)
            if unfinished == 1:
                del self._asked[number]
        asked.deliver(piece)
        if piece.finish is not None:
            self.freed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self.ended.set()
        if not self._loaded.done():
            self._loaded.set_exception(LoadFailed(f"the process of the model in {self.directory} ended while loading"))
            self._loaded.exception()  # somebody may have stopped waiting
        asked, self._asked, self.rows = self._asked, {}, 0
        for who, _ in asked.values():
            who.lost(self)

    @property
    def room(self) -> int:
        """Rows that it decodes at a time."""
        return int(self.facts["rows"])

    async def close(self) -> None:
        """Ends the process, by force if it must be."""
        if self._transport is not None:
            self._transport.close()
        if self._process is None:
            return
        for _ in range(int(END_SECONDS / 0.05)):
            if self._process.poll() is not None:
                return
            await asyncio.sleep(0.05)
        self.kill()
        await asyncio.to_thread(self._process.wait)

    def kill(self) -> None:
        """At once."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid


class _Nobody:
    """Took its request back."""

    def deliver(self, piece: wire.Piece) -> None: ...

    def refuse(self, message: str, retry_after: float | None) -> None: ...

    def lost(self, replica: Replica) -> None: ...
