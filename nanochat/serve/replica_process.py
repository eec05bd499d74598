"""The inside of a replica's process: the model, its engine's worker, and the line to the server (wire.py).

Promises: what came out since the last message goes in one message, so that a step of many rows costs the server one
read; it ends when the server ends, whatever happened to that; signals are the server's to heed. Not here: decoding
(nanochat/inference/).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nanochat.inference.engine import Engine
from nanochat.inference.load import load
from nanochat.inference.sampling import Sampling
from nanochat.inference.scheduler import Delta
from nanochat.inference.worker import Handle, QueueFull, Worker
from nanochat.serve import wire

STATISTICS_SECONDS = 1.0
PIECE = tuple(field.name for field in dataclasses.fields(wire.Piece))


class Outbox:
    """Sends deltas in batches from a thread of its own, and the worker's numbers once a second."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.statistics: Callable[[], dict[str, float]] | None = None
        self._deltas: list[list[Any]] = []
        self._changed = threading.Condition()
        self._sending = threading.Lock()

    def send(self, value: Any) -> None:
        """At once, from any thread."""
        with self._sending:
            self.connection.sendall(wire.message(value))

    def add(self, number: int, delta: Delta) -> None:
        """Of the worker's thread: does not block."""
        with self._changed:
            self._deltas.append([number, *(getattr(delta, name) for name in PIECE)])
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
            if self.statistics is not None and time.monotonic() - told > STATISTICS_SECONDS:
                told = time.monotonic()
                self.send({"statistics": self.statistics()})


def serve(connection: socket.socket, worker: Worker, outbox: Outbox) -> None:
    """Does what the server asks, until it hangs up."""
    handles: dict[int, Handle] = {}
    unfinished: dict[int, int] = {}

    def deliver(number: int, delta: Delta) -> None:
        outbox.add(number, delta)
        if delta.finish is not None:
            unfinished[number] -= 1
            if not unfinished[number]:
                del unfinished[number]
                handles.pop(number, None)

    lines = wire.Lines()
    while data := connection.recv(2**16):
        for asked in lines.feed(data):
            if "cancel" in asked:
                if (handle := handles.get(asked["cancel"])) is not None:
                    handle.cancel()
                continue
            number, samples = asked["id"], asked["samples"]
            unfinished[number] = samples
            try:
                sampling = Sampling(**{**asked["sampling"], "stop": tuple(asked["sampling"]["stop"])})
                handle = worker.submit(
                    asked["prompt"], sampling, samples, lambda delta, number=number: deliver(number, delta)
                )
            except (ValueError, QueueFull) as error:
                del unfinished[number]
                after = error.retry_after if isinstance(error, QueueFull) else None
                outbox.send({"refused": number, "message": str(error), "retry_after": after})
                continue
            handles[number] = handle
            if number not in unfinished:  # done already
                handles.pop(number, None)


def main() -> None:
    """Loads, says so, serves."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--local-rank", type=int, default=0)
    parser.add_argument("--rows", type=int, default=64)
    args = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    connection = socket.socket(fileno=args.fd)
    outbox = Outbox(connection)
    try:
        model, tokenizer = load(args.directory, args.device, local_rank=args.local_rank)
        worker = Worker(Engine(model, tokenizer), args.rows)
    except (ValueError, OSError, RuntimeError) as error:  # torch's out of memory is a RuntimeError
        outbox.send({"failed": str(error)})
        sys.exit(1)
    weight = model.wte.weight
    parameters = sum(each.numel() for each in model.parameters())
    dtype = str(model.compute_dtype).removeprefix("torch.")
    gpus = torch.cuda.device_count() if weight.device.type == "cuda" else 1
    facts = {"context": model.config.sequence_len, "vocab_size": model.config.vocab_size, "parameters": parameters}
    outbox.send({"ready": {**facts, "gpus": gpus, "device": str(weight.device), "dtype": dtype}})
    outbox.statistics = worker.statistics
    threading.Thread(target=outbox.run, daemon=True).start()
    try:
        serve(connection, worker, outbox)
    finally:
        os._exit(0)  # whatever the worker is at


if __name__ == "__main__":
    main()
