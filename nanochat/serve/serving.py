"""The model that is served now, and its change without a restart.

Whoever knows which model it is (an alias in MLflow) is asked every few seconds. When the answer changes, the new model
is loaded beside the old one; from then on new requests go to it, and the old one leaves when its requests are
answered. Promises: no request is lost or mixed by a change; while the new one does not load, or nobody can say which
it is, the old one serves.
"""

from __future__ import annotations

import asyncio
import logging

from nanochat.redaction import redacted
from nanochat.serve.metrics import Metrics
from nanochat.serve.replica import LoadFailed, Placement
from nanochat.serve.replicas import ReplicaSet, Ticket
from nanochat.serve.source import Provider, Source

log = logging.getLogger(__name__)


class Serving:
    """Holds the current set of replicas and those that are leaving."""

    def __init__(
        self,
        provider: Provider,
        placement: Placement,
        count: int,
        max_waiting: int,
        metrics: Metrics,
        poll_seconds: float = 5.0,
        drain_seconds: float = 120.0,
    ) -> None:
        self.provider, self.placement, self.count, self.max_waiting = provider, placement, count, max_waiting
        self.metrics, self.poll_seconds, self.drain_seconds = metrics, poll_seconds, drain_seconds
        self.current: ReplicaSet | None = None
        self.draining = False
        self._leaving: dict[asyncio.Task[None], ReplicaSet] = {}
        self._poll: asyncio.Task[None] | None = None
        self._failed: Source | None = None  # is not loaded again until another one is named
        self._silent = False  # the provider could not say, which was told once

    async def start(self) -> None:
        """Loads the first model. Raises what loading raises."""
        source = await asyncio.to_thread(self.provider)
        self.current = await self._set(source).start()
        self._poll = asyncio.create_task(self._follow())

    def _set(self, source: Source) -> ReplicaSet:
        return ReplicaSet(source, self.placement, self.count, self.max_waiting)

    @property
    def sets(self) -> list[ReplicaSet]:
        """All that have requests or may get some."""
        return [*([self.current] if self.current else []), *self._leaving.values()]

    @property
    def tickets(self) -> list[Ticket]:
        """All requests that are waiting or being answered."""
        return [ticket for each in self.sets for ticket in (*each.running, *each.waiting)]

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.poll_seconds)
            try:
                source = await asyncio.to_thread(self.provider)
                self._silent = False
            except Exception as error:  # of a store or of MLflow: any kind, and the model that is there serves on
                if not self._silent:
                    log.warning("which model to serve cannot be found out: %s", redacted(str(error)))
                self._silent = True
                continue
            assert self.current is not None, "started"
            if source.address != self.current.source.address and source != self._failed:
                await self._change(source)

    async def _change(self, source: Source) -> None:
        assert self.current is not None, "started"
        try:
            fresh = await self._set(source).start()
        except (LoadFailed, ValueError, OSError) as error:
            self._failed = source
            self.metrics.count("model_changes_total", result="failed")
            log.error("%s does not load, %s serves on: %s", source.address, self.current.source.address, error)
            return
        old, self.current, self._failed = self.current, fresh, None
        self.metrics.count("model_changes_total", result="loaded")
        log.warning("serving %s, no more %s", source.address, old.source.address)
        leaving = asyncio.create_task(old.close(self.drain_seconds))
        self._leaving[leaving] = old
        leaving.add_done_callback(lambda task: self._leaving.pop(task, None))

    async def close(self, drain: float = 0.0) -> None:
        """Waits at most so long for what was asked, then ends everything."""
        self.draining = True
        if self._poll is not None:
            self._poll.cancel()
            await asyncio.gather(self._poll, return_exceptions=True)
        leaving = dict(self._leaving)
        waits = [asyncio.wait(leaving, timeout=drain)] if leaving else []
        await asyncio.gather(*waits, *([self.current.close(drain)] if self.current else []))
        await asyncio.gather(*(each.close() for task, each in leaving.items() if not task.done()))

    def kill(self) -> None:
        """Ends the processes at once."""
        for each in self.sets:
            for replica in each.replicas:
                replica.kill()
