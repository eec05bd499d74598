"""The server as a process: its socket, its signals, its beginning and its end.

Promises: a port in use, a model that does not load and an open door without a key are refused in one line; while the
model is loaded /ready says so; the first SIGTERM or Ctrl-C lets what runs finish within the limit and takes nothing
new, the second ends at once; either way no process is left. Not here: arguments (arguments.py), routes (app.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import uvicorn

from nanochat.serve.app import application, counted
from nanochat.serve.limits import LOOPBACK, Access, Limits
from nanochat.serve.replica import Placement
from nanochat.serve.serving import Serving
from nanochat.serve.source import Provider

KEEP_ALIVE_SECONDS = 15
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What a person may choose. ValueError: a choice that opens the server unsaid."""

    host: str = "127.0.0.1"
    port: int = 8000
    key: str = ""
    no_key: bool = False
    allow_hosts: Sequence[str] = ()
    allow_origins: Sequence[str] = ()
    placement: Placement = field(default_factory=Placement)
    replicas: int = 0
    limits: Limits = field(default_factory=Limits)
    poll_seconds: float = 5.0
    open_page: bool = False

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.key and not self.no_key:
            raise ValueError(
                f"--host {self.host} opens the server to others: set a key in NANOCHAT_API_KEY (or --key), or say "
                "--no-key"
            )

    @property
    def access(self) -> Access:
        """Foreign host names are refused on loopback, and elsewhere where names are given: all of them nobody knows."""
        known = (*LOOPBACK, self.host.lower(), *map(str.lower, self.allow_hosts))
        hosts = known if is_loopback(self.host) or self.allow_hosts else ()
        return Access(self.key, hosts, tuple(self.allow_origins))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def has_screen() -> bool:
    """Whether a browser would be a window, and not take over the terminal."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. ValueError: it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        remedy = "take another --port, or 0 for any free one" if port else "look at --host"
        raise ValueError(f"cannot listen on {host} port {port} ({error}): {remedy}") from error


class Server(uvicorn.Server):
    """uvicorn's, without its own signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def run(
    provider: Provider, options: Options, listener: socket.socket, started: Callable[[Serving, Server], None]
) -> None:
    """Serves until told to end. `started` is called when the model is there and requests are taken."""
    serving = Serving(
        provider, options.placement, options.replicas, options.limits.waiting, counted(), options.poll_seconds,
        options.limits.request_seconds + options.limits.drain_seconds,
    )  # fmt: skip
    app = application(serving, options.limits, options.access)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False, date_header=True,
        timeout_keep_alive=KEEP_ALIVE_SECONDS, proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = Server(config)
    listening = asyncio.create_task(server.serve([listener]))
    try:
        loading = asyncio.create_task(serving.start())
        await asyncio.wait([loading, listening], return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            started(serving, server)
        else:  # told to end before there was anything to serve
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
        await listening
    finally:
        server.should_exit = True
        await serving.close()
        await asyncio.gather(listening, return_exceptions=True)


class Ending:
    """What signals do: the first one drains, the second one ends."""

    def __init__(self, drain_seconds: float) -> None:
        self.drain_seconds = drain_seconds
        self.serving: Serving | None = None
        self.server: Server | None = None
        self.task: asyncio.Task[None] | None = None

    def heed(self, run: asyncio.Task[None]) -> None:
        """On the first signal, and on the second."""
        if self.serving is None or self.server is None:
            run.cancel()
        elif self.task is None:
            under_way = len(self.serving.tickets)
            if under_way:
                note = f"finishing {under_way} answers, at most {self.drain_seconds:g} s; again to end at once"
                print(note, file=sys.stderr, flush=True)
            self.serving.draining = True
            self.task = asyncio.create_task(self._drain(self.serving, self.server))
        else:
            self.serving.kill()
            os._exit(130)

    async def _drain(self, serving: Serving, server: Server) -> None:
        await serving.close(self.drain_seconds)
        server.should_exit = True


def serve(provider: Provider, options: Options) -> int:
    """Serves until SIGTERM or Ctrl-C; the exit code. ValueError, RuntimeError: why it cannot."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for noisy in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    listener = listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    ending = Ending(options.limits.drain_seconds)

    def started(serving: Serving, server: Server) -> None:
        ending.serving, ending.server = serving, server
        assert serving.current is not None, "loaded"
        facts = serving.current.facts
        count = len(serving.current.replicas)
        place = f"{count} x {facts['device'].partition(':')[0]}" if count > 1 else facts["device"]
        print(f"{serving.current.source.description} on {place} ({facts['dtype']})")
        print(f"the page  {url}\nthe API   {url}/v1\nCtrl-C ends it", flush=True)
        if options.open_page and has_screen():
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(run(provider, options, listener, started))
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ending.heed, task)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with listener:
        asyncio.run(whole())
    return 0
