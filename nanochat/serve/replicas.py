"""The replicas of one model behind one queue.

Promises: first come, first served, by the replica with the fewest rows; the queue is bounded and says when to come
back; a request that nobody began to answer survives the death of its replica; a dead replica is started again. Not
here: which model is served, and its change (serving.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nanochat.data.tokenizer import Tokenizer
from nanochat.serve.errors import ApiError
from nanochat.serve.replica import LoadFailed, Placement, Replica
from nanochat.serve.source import Source
from nanochat.serve.wire import Piece

AHEAD = 8  # rows beyond what a replica decodes: they begin without a way to the server and back
RESTART_SECONDS = (0.0, 1.0, 5.0, 30.0)
MOST_TRIES = 2  # of one request: what kills replicas shall not kill them all
log = logging.getLogger(__name__)


@dataclass(eq=False)
class Ticket:
    """A request in the queue, then its answer as it comes."""

    prompt: Sequence[int]
    sampling: Mapping[str, Any]
    samples: int
    replicas: ReplicaSet
    arrived: float = field(default_factory=time.monotonic)
    first: float | None = None  # when the first token came
    tries: int = 0
    error: ApiError | None = None
    take_back: Callable[[], None] | None = None
    _pieces: list[Piece] = field(default_factory=list)
    _unfinished: set[int] = field(default_factory=set)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._unfinished = set(range(self.samples))

    @property
    def done(self) -> bool:
        return self.error is not None or not self._unfinished

    def deliver(self, piece: Piece) -> None:
        if self.done:
            return
        if piece.finish == "error":
            self.fail(ApiError(500, "the engine failed on this request; its log says why", "engine_error"))
            return
        if self.first is None:
            self.first = time.monotonic()
        if piece.finish is not None:
            self._unfinished.discard(piece.sample)
        self._pieces.append(piece)
        self._changed.set()
        if not self._unfinished:
            self.replicas.finished(self)

    def refuse(self, message: str, retry_after: float | None) -> None:
        if retry_after is not None:  # the engine's own queue is full
            self.replicas.put_back(self)
            return
        self.fail(ApiError(400, message, "invalid_value"))

    def lost(self, replica: Replica) -> None:
        if self.first is None and self.tries < MOST_TRIES:
            self.replicas.put_back(self)
        else:
            self.fail(ApiError(500, "the process that answered ended; it is being started again", "replica_lost"))

    def fail(self, error: ApiError) -> None:
        """The end, with an error; what was said until now is still told first."""
        if self.done:
            return
        self.error = error
        self._leave()

    def cut_short(self) -> None:
        """The end for all answers that go on, as if they had been as long as they may be."""
        if self.done:
            return
        for sample in sorted(self._unfinished):
            self._pieces.append(Piece(sample, -1, "", True, 0.0, (), "cancelled"))
        self._unfinished.clear()
        self._leave()

    def _leave(self) -> None:
        self.replicas.forget(self)
        if self.take_back is not None:
            self.take_back()
        self._changed.set()

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """What came since the last time, until all answers are finished. ApiError: it will not be answered."""
        while True:
            if not self._pieces and not self.done:
                self._changed.clear()
                await self._changed.wait()
            pieces, self._pieces = self._pieces, []
            if pieces:
                yield pieces
            elif self.error is not None:
                raise self.error
            elif self.done:
                return


class ReplicaSet:
    """One model on some devices."""

    def __init__(self, source: Source, placement: Placement, count: int, max_waiting: int) -> None:
        self.source, self.placement, self.count, self.max_waiting = source, placement, count, max_waiting
        self.replicas: list[Replica] = []
        self.waiting: deque[Ticket] = deque()
        self.running: set[Ticket] = set()
        self.preparing = 0  # requests that are about to ask
        self.restarts = 0
        self.seconds = 1.0  # that an answer took, of late
        self._watchers: list[asyncio.Task[None]] = []
        self._tokenizer: Tokenizer | None = None

    async def start(self) -> ReplicaSet:
        """Loads the model everywhere. Raises LoadFailed, or ValueError for a broken tokenizer."""
        path = self.source.directory / "tokenizer.json"
        if not path.is_file():
            raise LoadFailed(f"no model in {self.source.directory}: there is no tokenizer.json")
        self._tokenizer = await asyncio.to_thread(Tokenizer.from_file, path)
        first = await self._replica(replace(self.placement, share=max(1, self.count))).start()
        count = self.count or int(first.facts["gpus"])  # who has torch knows how many there are
        ranks = [replace(self.placement, local_rank=rank, share=count) for rank in range(1, count)]
        starting = [asyncio.create_task(self._replica(each).start()) for each in ranks]
        try:
            self.replicas = [first, *await asyncio.gather(*starting)]
        except BaseException:
            for task in starting:
                task.cancel()
            for started in [first, *await asyncio.gather(*starting, return_exceptions=True)]:
                if isinstance(started, Replica):
                    await started.close()
            raise
        self._watchers = [asyncio.create_task(self._watch(index)) for index in range(len(self.replicas))]
        return self

    def _replica(self, placement: Placement) -> Replica:
        return Replica(self.source.directory, placement, self.dispatch)

    @property
    def tokenizer(self) -> Tokenizer:
        assert self._tokenizer is not None, "not started"
        return self._tokenizer

    @property
    def facts(self) -> dict[str, Any]:
        return self.replicas[0].facts

    @property
    def context(self) -> int:
        return int(self.facts["context"])

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running and not self.preparing

    @contextlib.contextmanager
    def preparation(self) -> Iterator[ReplicaSet]:
        """While a request is made ready with this tokenizer, the replicas stay."""
        self.preparing += 1
        try:
            yield self
        finally:
            self.preparing -= 1

    def ask(self, prompt: Sequence[int], sampling: Mapping[str, Any], samples: int) -> Ticket:
        """A place in the queue. ApiError (429): it is full."""
        if len(self.waiting) >= self.max_waiting:
            message = f"{len(self.waiting)} requests are waiting, which is as many as may: try again later"
            raise ApiError(429, message, "queue_full", retry_after=self.retry_after)
        ticket = Ticket(prompt, sampling, samples, self)
        self.waiting.append(ticket)
        self.dispatch()
        return ticket

    @property
    def retry_after(self) -> float:
        """Seconds until a place may be free: the queue's length in answers that take as long as the last ones did."""
        rows = sum(replica.room for replica in self.replicas)
        return min(60.0, 1.0 + self.seconds * len(self.waiting) / rows)

    def dispatch(self) -> None:
        """Gives waiting requests to replicas that have room."""
        while self.waiting:
            alive = [each for each in self.replicas if each.alive]
            replica = min(alive, key=lambda each: each.rows, default=None)
            ticket = self.waiting[0]
            if replica is None or (replica.rows and replica.rows + ticket.samples > replica.room + AHEAD):
                return  # an idle one takes anything
            self.waiting.popleft()
            self.running.add(ticket)
            ticket.tries += 1
            ticket.take_back = replica.ask(ticket, ticket.prompt, ticket.sampling, ticket.samples)

    def put_back(self, ticket: Ticket) -> None:
        """To the front of the queue."""
        self.running.discard(ticket)
        ticket.take_back = None
        self.waiting.appendleft(ticket)
        asyncio.get_running_loop().call_later(0.05, self.dispatch)

    def finished(self, ticket: Ticket) -> None:
        """All its answers came to their end."""
        self.seconds += 0.1 * (time.monotonic() - ticket.arrived - self.seconds)
        self.running.discard(ticket)

    def forget(self, ticket: Ticket) -> None:
        """It is over before its end."""
        self.running.discard(ticket)
        with contextlib.suppress(ValueError):
            self.waiting.remove(ticket)

    async def _watch(self, index: int) -> None:
        """Starts a replica again whenever it ends."""
        attempt = 0
        while True:
            replica = self.replicas[index]
            began = time.monotonic()
            await replica.ended.wait()
            await replica.close()
            attempt = 0 if time.monotonic() - began > 60 else attempt + 1
            log.error("the replica on %s ended; starting it again", replica.facts.get("device"))
            while True:
                await asyncio.sleep(RESTART_SECONDS[min(attempt, len(RESTART_SECONDS) - 1)])
                try:
                    self.replicas[index] = await self._replica(replica.placement).start()
                    break
                except (LoadFailed, OSError) as error:  # the latter: too many files or processes, for now
                    attempt += 1
                    log.error("it does not start: %s", error)
            self.restarts += 1
            self.dispatch()

    async def close(self, drain: float = 0.0) -> None:
        """Waits at most so many seconds for what was asked, ends the rest, then the processes."""
        deadline = time.monotonic() + drain
        while not self.idle and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for ticket in [*self.running, *self.waiting]:
            ticket.fail(ApiError(503, "the server is shutting down", "shutting_down", retry_after=5))
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await asyncio.gather(*(replica.close() for replica in self.replicas))
