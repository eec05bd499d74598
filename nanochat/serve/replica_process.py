"""The inside of a replica's process: the model, its engine's worker, and the line to the server (wire.py).

Promises: what came out since the last message goes in one message, so that a step of many rows costs the server one
read; it ends when the server ends, whatever happened to that, and when its GPU fails, which no process survives in
use; signals are the server's to heed. Not here: decoding (nanochat/inference/).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from nanochat.inference.engine import Engine
from nanochat.inference.load import load
from nanochat.inference.sampling import Sampling
from nanochat.inference.worker import Delta, Handle, QueueFull, Worker
from nanochat.serve import wire

STATISTICS_SECONDS = 1.0
FAILED = 70  # EX_SOFTWARE of sysexits.h


class Outbox:
    """Sends deltas in batches from a thread of its own, and the worker's numbers once a second."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.worker: Worker | None = None
        self.fatal = False  # nothing more can come of this process
        self._deltas: list[list[Any]] = []
        self._changed = threading.Condition()
        self._sending = threading.Lock()

    def send(self, value: Any) -> None:
        """At once, from any thread."""
        with self._sending:
            self.connection.sendall(wire.message(value))

    def add(self, number: int, delta: Delta, shared: int) -> None:
        """Of the worker's thread: does not block."""
        told = [delta.sample, delta.token, delta.text, delta.forced, delta.log_prob, delta.top, delta.finish, shared]
        with self._changed:
            self._deltas.append([number, *told])
            self._changed.notify()

    def run(self) -> None:
        """Until the process ends."""
        told = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._deltas, STATISTICS_SECONDS)
                deltas, self._deltas = self._deltas, []
            if deltas:
                self.send({"deltas": deltas})
            if self.fatal or (self.worker is not None and not self.worker.alive):
                os._exit(FAILED)
            if self.worker is not None and time.monotonic() - told > STATISTICS_SECONDS:
                told = time.monotonic()
                self.send({"statistics": self.worker.statistics()})


class Asked:
    """The requests that the worker has, by the server's number."""

    def __init__(self, worker: Worker, outbox: Outbox) -> None:
        self.worker, self.outbox = worker, outbox
        self._handles: dict[int, Handle] = {}
        self._unfinished: dict[int, int] = {}
        self._new: set[int] = set()  # nothing came of them yet
        self._changing = threading.Lock()

    def ask(self, number: int, prompt: list[int], sampling: dict[str, Any], samples: int) -> None:
        """Gives it to the worker, or refuses it."""
        try:
            chosen = Sampling(**{**sampling, "stop": tuple(sampling["stop"])})
            with self._changing:  # the first token may come before the handle does
                self._handles[number] = self.worker.submit(
                    prompt, chosen, samples, lambda delta: self._deliver(number, delta)
                )
                self._unfinished[number] = samples
                self._new.add(number)
        except (ValueError, QueueFull) as error:
            after = error.retry_after if isinstance(error, QueueFull) else None
            self.outbox.send({"refused": number, "message": str(error), "retry_after": after})

    def cancel(self, number: int) -> None:
        """Takes it back, unless it is done."""
        with self._changing:
            handle = self._handles.get(number)
        if handle is not None:
            handle.cancel()

    def _deliver(self, number: int, delta: Delta) -> None:
        with self._changing:
            handle = self._handles[number]
            shared = handle.shared if number in self._new else 0
            self._new.discard(number)
            if delta.finish is not None:
                self._unfinished[number] -= 1
                if not self._unfinished[number]:
                    del self._unfinished[number], self._handles[number]
        if delta.finish == "error":
            reason = next((request.error for request in handle.requests if request.error), None)
            print(f"a step of the engine failed: {reason!r}", file=sys.stderr, flush=True)
            self.outbox.fatal = self.worker.engine.scheduler.device.type == "cuda"
        self.outbox.add(number, delta, shared)


def serve(connection: socket.socket, asked: Asked) -> None:
    """Does what the server asks, until it hangs up."""
    lines = wire.Lines()
    while data := connection.recv(2**16):
        for told in lines.feed(data):
            if "cancel" in told:
                asked.cancel(told["cancel"])
            else:
                asked.ask(told["id"], told["prompt"], told["sampling"], told["samples"])


def arguments() -> argparse.ArgumentParser:
    """What the server tells it on its command line (replica.Placement)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--local-rank", type=int, default=0)
    parser.add_argument("--rows", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--share", type=int, default=1)
    return parser


def main() -> None:
    """Loads, says so, serves."""
    args = arguments().parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=args.fd)
    outbox = Outbox(connection)
    try:
        engine, facts = loaded(args)
    except (ValueError, OSError, RuntimeError) as error:  # torch's out of memory is a RuntimeError
        with contextlib.suppress(OSError):
            outbox.send({"failed": str(error)})
        sys.exit(1)
    outbox.worker = Worker(engine)
    try:
        outbox.send({"ready": facts})  # the server may have been ended while this was loading
        threading.Thread(target=outbox.run, daemon=True).start()
        serve(connection, Asked(outbox.worker, outbox))
    finally:
        os._exit(0)  # whatever the worker is at


def loaded(args: argparse.Namespace) -> tuple[Engine, dict[str, Any]]:
    """The engine, and what the server wants to know of it."""
    if not os.environ.get("OMP_NUM_THREADS"):  # a core for the server: who waits for it waits for it with every chunk
        torch.set_num_threads(max(1, (torch.get_num_threads() - 1) // args.share))
    model, tokenizer = load(args.directory, args.device, local_rank=args.local_rank)
    # None: as the device needs it; without a graph a GPU waits for Python between kernels
    engine = Engine(model, tokenizer, max_rows=args.rows, compile=args.compile or None)
    device = engine.scheduler.device
    return engine, {
        "context": model.config.sequence_len,
        "vocab_size": model.config.vocab_size,
        "parameters": sum(each.numel() for each in model.parameters()),
        "rows": engine.scheduler.cache.max_rows,
        "device": str(device),
        "dtype": str(model.compute_dtype).removeprefix("torch."),
        "gpus": torch.cuda.device_count() if device.type == "cuda" else 1,
    }


if __name__ == "__main__":
    main()
