"""A TCP proxy on loopback that fails on request: the network between a program and the real server it talks to.

`Unreliable(port)` forwards to a server; `fail(...)` says what befalls the next connections, one fault each: `503` (an
HTTP answer), `reset`, `lost` (the request arrives, its answer does not), `headless` (the answer breaks off within its
headers), `hang` (nothing ever comes), or a number of bytes after which the answer breaks off. `fail_always` says what
befalls all of them.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

Fault = str | int | None


class Unreliable:
    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._always: Fault = None
        self._faults: deque[Fault] = deque()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def fail(self, *faults: Fault) -> None:
        """What happens to the next connections; the open ones are dropped, so that the next request needs a new one."""
        self._faults.extend(faults)
        self._drop()

    def fail_always(self, fault: Fault) -> None:
        """What happens to all connections from now on; None: nothing."""
        self._always = fault
        self._drop()

    def close(self) -> None:
        self._listener.close()
        self._drop()

    def _drop(self) -> None:
        for each in list(self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                fault = self._faults.popleft() if self._faults else self._always
                threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: Fault) -> None:
        with client, suppress(OSError):
            self._open.add(client)
            try:
                if fault == "reset":
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif fault == "hang":
                    while client.recv(65536):
                        pass
                elif fault == "503":
                    client.recv(65536)
                    client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                else:
                    self._forward(client, fault)
            finally:
                self._open.discard(client)
                if fault != "reset":  # else: closing alone resets it
                    with suppress(OSError):
                        client.shutdown(socket.SHUT_RDWR)

    def _forward(self, client: socket.socket, fault: Fault) -> None:
        with socket.create_connection(("127.0.0.1", self.target_port)) as server:
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            left = fault if isinstance(fault, int) else None
            while chunk := server.recv(65536):
                if fault in ("lost", "headless") and not chunk.startswith(b"HTTP/1.1 100"):
                    client.sendall(b"HTTP/1.1 200 OK\r\nDate: Sat" if fault == "headless" else b"")
                    return
                if left is not None and len(chunk) >= left:
                    client.sendall(chunk[:left])
                    return
                left = left if left is None else left - len(chunk)
                client.sendall(chunk)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(65536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def between(endpoint: str) -> Iterator[Unreliable]:
    """A proxy in front of http://127.0.0.1:PORT."""
    proxy = Unreliable(int(endpoint.rsplit(":", 1)[1]))
    try:
        yield proxy
    finally:
        proxy.close()
