"""A real HTTP server that serves the page and answers as the model's server does, from a script instead of a model.

A question has an answer of steps: text, a call of the calculator, a pause until the test goes on, an end, a broken
connection. What was asked is kept. The headers are those of the real server, the policy against foreign content included.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import nanochat.serve

PAGE = Path(nanochat.serve.__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CARD = {"id": "tiny", "object": "model", "created": 0, "owned_by": "nanochat", "context": 512, "parameters": 4_600_000,
        "description": "A model of the recipe tiny, trained on a CPU."}  # fmt: skip
PATIENCE = 20  # s that a pause lasts at most

Step = str | tuple[str, str] | dict


@dataclasses.dataclass
class Stub:
    """What is answered, and what was asked."""

    url: str = ""
    answers: dict[str, list[Step]] = dataclasses.field(default_factory=dict)
    refusals: list[tuple[int, str, dict[str, str]]] = dataclasses.field(default_factory=list)  # of the next questions
    key: str = ""
    cards: list[dict] = dataclasses.field(default_factory=lambda: [CARD])
    asked: list[dict] = dataclasses.field(default_factory=list)
    go_on: threading.Event = dataclasses.field(default_factory=threading.Event)
    gone: threading.Event = dataclasses.field(default_factory=threading.Event)  # a client left before the end

    def say(self, question: str, *steps: Step) -> str:
        """The answer to a question: text; ("12*34", "408") for the calculator; {"pause": True}, {"cut": True}
        (the connection), {"leave": True} (an end without a reason), {"finish": "length"}, {"error": words}, or further
        fields of the usage."""
        self.answers[question] = list(steps)
        return question


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    @property
    def stub(self) -> Stub:
        return self.server.stub

    def do_GET(self):
        path = self.path.split("?")[0]
        file = PAGE / ("index.html" if path == "/" else path.removeprefix("/"))
        if path == "/v1/models":
            if self.allowed():
                self.whole(200, json.dumps({"object": "list", "data": self.stub.cards}))
        elif file.parent == PAGE and file.is_file():
            self.whole(200, file.read_text(encoding="utf-8"), TYPES[file.suffix])
        else:
            self.whole(404, json.dumps({"error": {"message": f"nothing at {path}"}}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.allowed():
            return
        self.stub.asked.append(body)
        if self.stub.refusals:
            status, message, headers = self.stub.refusals.pop(0)
            self.whole(
                status, json.dumps({"error": {"message": message, "type": "", "param": None, "code": None}}), **headers
            )
            return
        question = body["messages"][-1]["content"]
        try:
            self.stream(self.stub.answers.get(question, [f"You said: {question}"]))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            self.stub.gone.set()

    def allowed(self) -> bool:
        if not self.stub.key or self.headers.get("authorization") == f"Bearer {self.stub.key}":
            return True
        self.whole(401, json.dumps({"error": {"message": "the server wants a key", "type": "authentication_error"}}))
        return False

    def whole(self, status: int, text: str, kind: str = "application/json", **headers: str) -> None:
        body = text.encode()
        self.begin(status, f"{kind}; charset=utf-8", {"content-length": str(len(body)), **headers})
        self.wfile.write(body)

    def begin(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        standing = {"content-type": kind, "content-security-policy": POLICY, "cache-control": "no-cache"}
        for name, value in (standing | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def stream(self, steps: list[Step]) -> None:
        self.begin(200, "text/event-stream", {"transfer-encoding": "chunked"})
        self.send({"delta": {"role": "assistant", "content": ""}})
        last: dict = {"finish": "stop"}
        tokens = 0
        for step in steps:
            tokens += 1
            if isinstance(step, str):
                self.send({"delta": {"content": step}})
            elif isinstance(step, tuple):
                self.send({"delta": {"tool": {"input": step[0], "output": step[1]}}})
            elif step.get("pause"):
                self.pause()
            elif step.get("cut"):
                self.close_connection = True
                return
            elif step.get("leave"):
                self.chunk(b"")
                return
            elif "error" in step:
                self.event({"error": {"message": step["error"]}})
                return
            else:
                last |= step
        self.send({"delta": {}, "finish_reason": last.pop("finish")})
        usage = {"prompt_tokens": 30, "completion_tokens": tokens, "total_tokens": 30 + tokens, **last}
        self.event({"choices": [], "usage": usage, "timings": {"total_seconds": 0.8, "tokens_per_second": 42.5}})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def pause(self) -> None:
        """Until the test goes on; comments, which the page must leave out, find out that a client left."""
        for _ in range(PATIENCE * 50):
            if self.stub.go_on.wait(0.02):
                return
            self.chunk(b": waiting\n\n")

    def send(self, choice: dict) -> None:
        self.event({"choices": [{"index": 0, "finish_reason": None, **choice}]})

    def event(self, fields: dict) -> None:
        whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "tiny", **fields}
        self.chunk(b"data: " + json.dumps(whole).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()


@contextlib.contextmanager
def page_stub() -> Iterator[Stub]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    stub = server.stub = Stub(url=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield stub
    finally:
        stub.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
