"""A real server on loopback for the tests, over a model whose weights are a table of what follows what.

The server runs in a thread of the test's process, on uvicorn, and its replica in a process of its own, as always. Asked
in a chat the model says `[6*7 = 42] OK.`; a text that ends in a, b or c is gone on with for ever; x becomes `é!`. It
does not test anything.
"""

import asyncio
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from openai import OpenAI

from nanochat.data.tokenizer import Tokenizer
from nanochat.model.config import GPTConfig
from nanochat.model.gpt import GPT
from nanochat.model.weights import save_model
from nanochat.serve.run import Options, listen, run
from nanochat.serve.source import in_directory

TOKENIZER = Tokenizer(tuple(bytes([byte]) for byte in range(256)))
START, END = TOKENIZER.special("<|assistant_start|>"), TOKENIZER.special("<|assistant_end|>")
CALL, CALLED = TOKENIZER.special("<|python_start|>"), TOKENIZER.special("<|python_end|>")
RESULTED = TOKENIZER.special("<|output_end|>")
ANSWER = "[6*7 = 42] OK."
CHAINS = [[START, CALL, *b"6*7", CALLED], [RESULTED, *b"OK.", END], [*b"abca"], [*b"x", *"é".encode(), *b"!", END]]


def make_model(folder: Path, sequence_len: int = 512, chains: list[list[int]] = CHAINS) -> Path:
    """Its files in a folder."""
    model = GPT(GPTConfig.classic(1, TOKENIZER.vocab_size, sequence_len, width=272, head_dim=16))
    model.init_weights(0)
    with torch.no_grad():
        model.wte.weight.copy_(torch.eye(TOKENIZER.vocab_size, 272))
        for chain in chains:
            for token, following in itertools.pairwise(chain):
                model.lm_head.weight[following, token] = 5.0
    save_model(model, folder, stage="rl")
    TOKENIZER.save(folder / "tokenizer.json")
    return folder


class Served:
    """A running server and what tests ask of it."""

    def __init__(self, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.serving = None
        self.loop = None
        self._stop = None

    def client(self, **more) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", **{"api_key": "none", "max_retries": 0, "timeout": 60, **more})

    def do(self, coroutine):
        """Runs something on the server's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    @property
    def replica(self):
        return self.serving.current.replicas[0]

    def rows(self) -> int:
        return sum(replica.rows for each in self.serving.sets for replica in each.replicas)

    def raw(self, data: bytes, seconds: float = 30.0) -> bytes:
        """All that comes back when these bytes are sent and the connection is left open."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(data)
            said = b""
            while more := connection.recv(2**16):
                said += more
            return said

    def begin(self, path: str, body: dict) -> socket.socket:
        """A request that was sent; the first bytes of its answer have come."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        return connection


def until(condition, seconds: float = 30.0) -> None:
    """Waits until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


@contextmanager
def served(provider, **options) -> Iterator[Served]:
    """Serves what `provider` names, a folder or a function, until the block ends."""
    where = in_directory(provider) if isinstance(provider, Path) else None
    chosen = Options(**{"port": 0, "poll_seconds": 0.1, **options})
    listener = listen(chosen.host, chosen.port)
    server, ready, failed = Served(listener.getsockname()[1]), threading.Event(), []

    async def whole() -> None:
        server.loop, stop = asyncio.get_running_loop(), asyncio.Event()
        server._stop = stop

        def started(serving, uvicorn_server):
            server.serving, server.uvicorn = serving, uvicorn_server
            ready.set()

        running = asyncio.create_task(run(provider if where is None else lambda: where, chosen, listener, started))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            server.uvicorn.should_exit = True
        await running

    def thread() -> None:
        try:
            asyncio.run(whole())
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    running = threading.Thread(target=thread)
    running.start()
    assert ready.wait(120)
    if failed:
        raise failed[0]
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server._stop.set)
        running.join(30)
        assert not running.is_alive()
        listener.close()
    if failed:
        raise failed[0]
