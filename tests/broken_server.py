"""A real HTTP server on the loopback, which breaks off, stalls, refuses and changes a file under way.

`broken_server` has one file, whatever is asked for; `broken_folder` has several, each with faults of its own. It honours
Range and If-Range as RFC 9110 has it, unless the fault of the request says otherwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import re
import threading
from collections.abc import Callable, Iterator, Mapping

BODY = b"".join(number.to_bytes(4, "big") for number in range(50_000))


@dataclasses.dataclass
class Site:
    """One file behind a server, and what goes wrong with the next requests, in order."""

    body: bytes = BODY
    etag: str = '"one"'
    modified: str = ""
    faults: list[str] = dataclasses.field(default_factory=list)
    seen: list[dict] = dataclasses.field(default_factory=list)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        site = self.server.site_of(self.path)
        site.seen.append({"range": self.headers.get("Range"), "if_range": self.headers.get("If-Range")})
        fault = site.faults.pop(0) if site.faults else ""
        self.close_connection = True
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault == "reset":
            return
        if fault in ("change", "swap"):
            site.body, site.etag = bytes(reversed(site.body)), '"two"'
        self.answer(site, fault)

    def answer(self, site, fault):
        start, asked = 0, self.headers.get("Range")
        validator = site.etag or site.modified
        if asked and (self.headers.get("If-Range") == validator or fault in ("deaf", "swap")):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            self.send_response(206)
            first = start + 1 if fault == "shifted" else start
            self.send_header("Content-Range", f"bytes {first}-{len(site.body) - 1}/{len(site.body)}")
        else:
            self.send_response(200)
        if fault != "lengthless":
            self.send_header("Content-Length", str(len(site.body) - start))
        for name, value in (("ETag", site.etag), ("Last-Modified", site.modified)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        body = site.body[start:]
        if fault in ("cut", "stall"):
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.wfile.flush()
        if fault == "stall":
            self.server.released.wait(5)


@contextlib.contextmanager
def broken_server() -> Iterator[Site]:
    site = Site()
    with _serving(lambda path: site) as url:
        site.url = f"{url}/shard_00000.parquet"
        yield site


@contextlib.contextmanager
def broken_folder(bodies: Mapping[str, bytes]) -> Iterator[dict[str, Site]]:
    """Files by name; any other name is 404."""
    sites = {name: Site(body) for name, body in bodies.items()}
    with _serving(lambda path: sites.get(path.removeprefix("/"), Site(faults=["404"]))) as url:
        for name, site in sites.items():
            site.url = f"{url}/{name}"
        yield sites


@contextlib.contextmanager
def _serving(site_of: Callable[[str], Site]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.released, server.site_of = True, threading.Event(), site_of
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
