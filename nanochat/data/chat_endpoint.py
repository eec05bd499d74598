"""Asks a chat model behind an address that speaks as OpenAI's API does: one message there, one answer back.

Promises: what may pass (429, 5xx, cut connections, timeouts) is tried again with exponential backoff and jitter, or
when the server asks for it; what stays (401, 404, a certificate) fails at once and says why; the key is sent to that
host alone and stands in no message. Not here: what is asked (nanochat/data/identity_prompts.py), several requests at a
time (nanochat/data/identity_writer.py).
"""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from nanochat.data import web
from nanochat.data.fetch import Truncated, stays, tried
from nanochat.redaction import redacted

PATH = "/chat/completions"
KEY = "OPENAI_API_KEY"
TIMEOUT = 180.0  # seconds without a byte: a long answer comes in one piece, at the end
ATTEMPTS = 6
SAID = 300  # characters quoted of what a server answers


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A model behind an address; `key` may be empty, as for a server of one's own.

    Raises:
        ValueError: the address is none of the web, or there is no name of a model.
    """

    address: str  # with or without /chat/completions
    model: str
    key: str = dataclasses.field(default="", repr=False)

    def __post_init__(self) -> None:
        if urlsplit(self.address).scheme not in ("http", "https"):
            raise ValueError(f"--endpoint {redacted(self.address)!r}: give an address such as https://HOST/v1")
        web.quoted(self.address)
        if not self.model.strip():
            raise ValueError("--model is empty: name a model that the endpoint serves")
        if not self.key.isascii() or not self.key.isprintable():
            raise ValueError(f"{KEY} holds a character that no key has: copy it again")

    @property
    def url(self) -> str:
        """Where the request goes to."""
        parts = urlsplit(self.address)
        path = parts.path.rstrip("/")
        return parts._replace(path=path if path.endswith(PATH) else path + PATH).geturl()

    def ask(self, prompt: str, sleep: Callable[[float], None] = time.sleep) -> str:
        """The model's answer; empty where it gives none.

        Raises:
            ValueError: the server refuses (4xx), or answers something else than OpenAI's API does.
            ConnectionError: no answer after all attempts.
        """

        def refuse(error: urllib.error.HTTPError) -> None:
            if stays(error):
                raise ValueError(self._refusal(error)) from None

        return tried(lambda: self._answer(prompt), redacted(self.url), ATTEMPTS, refuse, sleep=sleep)

    def _answer(self, prompt: str) -> str:
        asked = {"model": self.model, "messages": [{"role": "user", "content": prompt}]}
        with web.opener().open(self._request(asked), timeout=TIMEOUT) as response:
            body = response.read()
        try:
            value = json.loads(body)
        except ValueError:
            raise Truncated(f"the answer is not JSON: {self._quoted(body)}") from None
        try:
            content = value["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            told = f"its answer has no choices[0].message.content: {self._quoted(body)}"
            raise ValueError(f"{redacted(self.url)}: {told}; does it speak as OpenAI's API?") from None
        return content if isinstance(content, str) else ""

    def _request(self, asked: dict[str, Any]) -> urllib.request.Request:
        made = web.request(self.url)
        made.data = json.dumps(asked).encode()
        made.add_header("Content-Type", "application/json")
        if self.key:
            made.add_unredirected_header("Authorization", f"Bearer {self.key}")
        return made

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        with error:
            said = self._quoted(error.read(10 * SAID))
        remedy = f"; set {KEY} to a key that may" if error.code in (401, 403) else "; check --endpoint and --model"
        return f"{redacted(self.url)}: the server refuses: {error.code} {said}{remedy}"

    def _quoted(self, body: bytes) -> str:
        """The beginning of what a server said, on one line and without the key, which some servers repeat."""
        said = body.decode(errors="replace")
        return repr(" ".join((said.replace(self.key, "***") if self.key else said).split())[:SAID])
