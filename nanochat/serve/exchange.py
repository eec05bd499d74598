"""One request's way from its place in the queue to the last byte of its answer.

Promises: what cannot begin is an HTTP error and not a broken stream; a client that goes away gives its rows back; a
request ends in its time: what was said until then is the answer, and one that was not begun is told to come back; a
batch of a step is one chunk for each answer. Not here: what an answer looks like (shapes.py).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from nanochat.serve.errors import ApiError, json_response
from nanochat.serve.metrics import Metrics
from nanochat.serve.replicas import Ticket
from nanochat.serve.shapes import Shape
from nanochat.serve.wire import Piece

Heard = tuple[int, list[Piece]]  # which ticket, and what came
WRITING_SECONDS = 10.0  # beyond a request's time, for a client to read what is there


@dataclass
class Exchange:
    """The tickets of a request and what becomes of them."""

    tickets: Sequence[Ticket]
    shape: Shape
    metrics: Metrics
    arrived: float
    seconds: float

    async def respond(self, receive: Receive, stream: bool, include_usage: bool) -> Response:
        """Waits for the first words, at least. ApiError: there will be none."""
        loop = asyncio.get_running_loop()
        with ExitStack() as leaving:
            for ticket in self.tickets:
                leaving.callback(ticket.cut_short)
            leaving.callback(loop.create_task(self._until_gone(receive)).cancel)
            leaving.callback(loop.call_at(loop.time() + self.remaining, self._time_is_up).cancel)
            heard = merged(self.tickets)
            first = await anext(heard)
            if stream:
                events = self._events(first, heard, include_usage)
                return EventStream(events, self.shape.id, self.remaining + WRITING_SECONDS, leaving.pop_all())
            self.shape.hear(*first)
            async for more in heard:
                self.shape.hear(*more)
            self._count()
            return json_response(self.shape.whole(self.timings()), headers={"x-request-id": self.shape.id})

    @property
    def remaining(self) -> float:
        """Seconds until the request's time is up."""
        return self.arrived + self.seconds - time.monotonic()

    async def _events(self, first: Heard, rest: AsyncIterator[Heard], include_usage: bool) -> AsyncIterator[bytes]:
        """Server-sent events."""
        for chunk in self.shape.opening(include_usage):
            yield _event(chunk)
        try:
            for chunk in self.shape.chunks(*first, include_usage):
                yield _event(chunk)
            async for heard in rest:
                for chunk in self.shape.chunks(*heard, include_usage):
                    yield _event(chunk)
            self._count()
            if include_usage:
                yield _event(self.shape.last(self.timings()))
        except ApiError as error:
            yield _event(error.body)
            return
        yield b"data: [DONE]\n\n"

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.metrics.count("clients_gone_total")
        for ticket in self.tickets:
            ticket.cut_short()

    def _time_is_up(self) -> None:
        for ticket in self.tickets:
            if ticket.first is None:
                message = f"the answer did not begin within {self.seconds:g} s: try again later"
                ticket.fail(ApiError(503, message, "timeout", retry_after=ticket.replicas.retry_after))
            else:
                ticket.cut_short()

    def timings(self) -> dict[str, float]:
        """Seconds from the arrival, and how fast the tokens came after the first ones."""
        now = time.monotonic()
        first = min((ticket.first for ticket in self.tickets if ticket.first is not None), default=now)
        total, tokens = now - self.arrived, sum(voice.tokens for voice in self.shape.voices)
        following = tokens - len(self.shape.voices)
        rate = following / (now - first) if following > 0 and now > first else tokens / max(total, 1e-9)
        told = {"first_token_seconds": first - self.arrived, "total_seconds": total, "tokens_per_second": rate}
        return {name: round(value, 6) for name, value in told.items()}

    def _count(self) -> None:
        timings = self.timings()
        self.metrics.observe("time_to_first_token_seconds", timings["first_token_seconds"])
        self.metrics.observe("request_seconds", timings["total_seconds"])
        self.metrics.count("prompt_tokens_total", sum(len(ticket.prompt) for ticket in self.tickets))
        for voice in self.shape.voices:
            self.metrics.count("generated_tokens_total", voice.tokens)
            self.metrics.count("answers_total", finish=voice.finish or "length")


class EventStream(Response):
    """Server-sent events, and what is to be done when they end, however that is."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], request_id: str, seconds: float, leaving: ExitStack) -> None:
        self.events, self.seconds, self.leaving = events, seconds, leaving
        super().__init__(headers={"cache-control": "no-store", "x-request-id": request_id})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.leaving:
            async with asyncio.timeout(self.seconds):  # a client that does not read holds nothing for ever
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for data in self.events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def merged(tickets: Sequence[Ticket]) -> AsyncIterator[Heard]:
    """What comes of any of them, as it comes. ApiError: of the first that fails."""
    if len(tickets) == 1:
        async for pieces in tickets[0].batches():
            yield 0, pieces
        return
    queue: asyncio.Queue[Heard | ApiError | None] = asyncio.Queue()

    async def follow(index: int) -> None:
        try:
            async for pieces in tickets[index].batches():
                queue.put_nowait((index, pieces))
            queue.put_nowait(None)
        except ApiError as error:
            queue.put_nowait(error)

    following = [asyncio.create_task(follow(index)) for index in range(len(tickets))]
    try:
        ended = 0
        while ended < len(tickets):
            heard = await queue.get()
            if isinstance(heard, ApiError):
                raise heard
            if heard is None:
                ended += 1
            else:
                yield heard
    finally:
        for task in following:
            task.cancel()


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"
