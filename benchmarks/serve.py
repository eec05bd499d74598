"""Many people talk to `nanochat serve` at once: `python -m benchmarks.serve --directory MODEL`.

First one client asks, one question after the other; then `--clients` do at the same time, each with a connection of
its own, streaming, for `--seconds`; they come within the first twelfth of that. Prints tokens a second of both, how
long the first token took (median, 95th percentile), answers by status, and the memory of the server's processes after
the first minute and at the end. Exits 1 where a promise is broken: an error other than 429, p95 above three times the
median, memory that grows by more than a tenth after the first minute, less than four times the tokens of one at a time.
The clients share the machine with the server. Without a model a random one of depth 4 is made, which answers nonsense.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

USAGE = re.compile(rb'"completion_tokens":(\d+)')
LONGEST = 64
RAMP_SECONDS = 5.0  # of a minute, in which the clients come one after the other
KNOWN = ["Hello! Who are you", "What is your name", "What can you do", "Spell the word garden. Thank you!"]


Memory = list[tuple[float, int]]  # seconds since the beginning, bytes


@dataclass
class Told:
    """What came back in a time."""

    seconds: float = 0.0
    tokens: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    first: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


class Client:
    """A connection that asks and reads streams; raises nothing."""

    def __init__(self, port: int, seed: int, told: Told) -> None:
        self.port, self.random, self.told = port, random.Random(seed), told

    async def talk(self, after: float, until: float) -> None:
        await asyncio.sleep(after)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            while time.monotonic() < until:
                wait = await self.ask(reader, writer)
                if wait:
                    await asyncio.sleep(wait)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.told.broken.append(repr(error))
        finally:
            writer.close()

    def question(self) -> str:
        a, b = self.random.randrange(100), self.random.randrange(100)
        return self.random.choice([f"What is {a} * {b}?", f"What is {a} + {b}?", *KNOWN])

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
        """One question and its answer; how long to wait before the next."""
        body = {"messages": [{"role": "user", "content": self.question()}], "max_tokens": LONGEST, "stream": True,
                "stream_options": {"include_usage": True}, "seed": self.random.randrange(2**31)}  # fmt: skip
        content = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        began = time.monotonic()
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        header = await reader.readuntil(b"\r\n\r\n")
        status = int(header.split(b" ", 2)[1])
        self.told.statuses[status] += 1
        if status != 200:
            length = int(re.search(rb"(?i)content-length: (\d+)", header)[1])
            await reader.readexactly(length)
            after = re.search(rb"(?i)retry-after: (\d+)", header)
            return float(after[1]) if after else 0.5
        said, first = b"", 0.0
        while (size := int(await reader.readline(), 16)) > 0:
            chunk = await reader.readexactly(size + 2)
            if not first and b'"content":"' in chunk and b'"content":""' not in chunk:
                first = time.monotonic()
            said = chunk if chunk != b"data: [DONE]\n\n\r\n" else said
        await reader.readline()
        if (usage := USAGE.search(said)) is None:
            self.told.broken.append(said.decode(errors="replace")[:200])
            return 0.0
        self.told.tokens += int(usage[1])
        self.told.first.append((first or time.monotonic()) - began)
        return 0.0


async def asked(port: int, clients: int, seconds: float) -> Told:
    """So many clients for so long; answers under way at the end are waited for and count."""
    told, began, ramp = Told(), time.monotonic(), RAMP_SECONDS * seconds / 60
    starts = [(seed, ramp * seed / clients) for seed in range(clients)]
    await asyncio.gather(*(Client(port, seed, told).talk(after, began + seconds) for seed, after in starts))
    told.seconds = time.monotonic() - began
    return told


def resident(process: psutil.Process) -> int:
    """Bytes in RAM of a process and its children."""
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


async def watched(port: int, clients: int, seconds: float, process: psutil.Process) -> tuple[Told, Memory]:
    """The same, with the memory every second."""
    asking, began = asyncio.create_task(asked(port, clients, seconds)), time.monotonic()
    memory: Memory = []
    while not asking.done():
        memory.append((time.monotonic() - began, resident(process)))
        await asyncio.wait([asking], timeout=1.0)
    return asking.result(), memory


def random_model(folder: Path) -> Path:
    """As large as the demo's, with weights of chance and a tokenizer of bytes and pairs."""
    from nanochat.data.tokenizer import Tokenizer
    from nanochat.model.config import GPTConfig
    from nanochat.model.gpt import GPT
    from nanochat.model.weights import save_model

    singles = [bytes([byte]) for byte in range(256)]
    pairs = [bytes([a, b]) for a in range(97, 123) for b in range(97, 123)]
    tokenizer = Tokenizer((*singles, *pairs))
    model = GPT(GPTConfig.modern(4, tokenizer.vocab_size, 256, width=128, head_dim=64))
    model.init_weights(0)
    save_model(model, folder, stage="rl")
    tokenizer.save(folder / "tokenizer.json")
    return folder


def started(directory: Path, words: list[str]) -> tuple[subprocess.Popen[str], int]:
    """The command, and the port that it says."""
    command = [sys.executable, "-m", "nanochat", "serve", "--directory", str(directory), "--port", "0", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    assert process.stdout is not None, "a pipe was asked for"
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)$", line.strip()):
            return process, int(found[1])
    raise SystemExit(f"the server ended: {process.wait()}")


def broken_promises(alone: Told, many: Told, memory: Memory) -> list[str]:
    """What was promised and is not so."""
    median, p95 = quantiles(many)
    minute = [size for at, size in memory if at >= 60]
    grown = max(minute[-5:]) / minute[0] if len(minute) > 10 else 1.0
    failed = {status: count for status, count in many.statuses.items() if status not in (200, 429)}
    promises = [
        (not failed and not many.broken, f"errors: {failed} {many.broken[:3]}"),
        (p95 <= 3 * median, f"first token: p95 {p95:.2f} s is more than three times the median {median:.2f} s"),
        (grown <= 1.1, f"memory: {grown:.2f} times what it was after the first minute"),
        (many.rate >= 4 * alone.rate, f"tokens: {many.rate / alone.rate:.1f} times one at a time"),
    ]
    return [text for kept, text in promises if not kept]


def quantiles(told: Told) -> tuple[float, float]:
    """Median and 95th percentile of the time to the first token."""
    return statistics.median(told.first), statistics.quantiles(told.first, n=20)[-1]


def row(name: str, told: Told) -> str:
    median, p95 = quantiles(told)
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(told.statuses.items()))
    return f"| {name} | {told.rate:,.0f} | {median * 1000:,.0f} | {p95 * 1000:,.0f} | {statuses} | {len(told.broken)} |"


def main() -> int:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, help="of a model; a random one otherwise")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--alone", type=float, default=10.0, help="seconds for one client alone")
    parser.add_argument("serve", nargs="*", help="more options of `nanochat serve`, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server, port = started(args.directory or random_model(Path(folder)), args.serve)
        try:
            process = psutil.Process(server.pid)
            asyncio.run(asked(port, 4, 3.0))  # what is loaded and compiled at first use
            alone = asyncio.run(asked(port, 1, args.alone))
            many, memory = asyncio.run(watched(port, args.clients, args.seconds, process))
            after = resident(process)
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
    print(f"{os.cpu_count()} cores, {args.clients} clients, {args.seconds:g} s\n")
    print("| clients | tokens/s | first token, median ms | p95 ms | answers | broken |\n|---|---|---|---|---|---|")
    print(f"{row('1', alone)}\n{row(str(args.clients), many)}\n")
    sizes = {at: next((size for when, size in memory if when >= at), after) for at in (0, min(60.0, args.seconds))}
    told = ", ".join(f"{size / 2**20:,.0f} MiB after {at:g} s" for at, size in sizes.items())
    ratio = many.rate / alone.rate
    print(f"tokens/s against one at a time: {ratio:.1f}; memory: {told}, {after / 2**20:,.0f} MiB at the end")
    broken = broken_promises(alone, many, memory) + [f"the server's exit code was {code}"] * bool(code)
    print("\n".join(broken) or "every promise was kept")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
