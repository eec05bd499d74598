"""A queue of deliveries to a service that may be slow or away, so that nobody who works ever waits for it.

One background thread delivers in order. Promises: `put` returns at once; while the service is away the first delivery
is tried again with growing pauses and nothing is lost or reordered; what the service refuses, or fails to take although
it answers, is dropped, counted and said; the same is never said twice; `close` waits a bounded time and tells how much
was not delivered. It knows no service: a job raises `Unavailable` or `Refused`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from nanochat.redaction import redacted

TRIES = 5  # of one delivery that fails while the service answers otherwise
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # seconds after the 1st, 2nd, … failure in a row; the last one repeats
log = logging.getLogger(__name__)


class Unavailable(Exception):
    """The service does not answer now; the same delivery may succeed later."""


class Refused(Exception):
    """The service answered that it will never take this."""


class Outbox:
    """Deliveries to one service. `answers` asks whether it is there; `failures` counts attempts, `dropped` losses."""

    def __init__(self, service: str, answers: Callable[[], bool], pauses: tuple[float, ...] = PAUSES) -> None:
        self.service, self.answers, self.pauses = service, answers, pauses
        self.failures = self.dropped = 0
        self._jobs: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._said: set[str] = set()

    def put(self, job: Callable[[], Any]) -> Future[Any]:
        """Delivers later. The future holds what the job returns, or why it was dropped."""
        future: Future[Any] = Future()
        with self._changed:
            if self._closing.is_set():
                self.dropped += 1
                future.set_exception(Refused(f"the outbox to {self.service} is closed"))
                return future
            self._jobs.append((job, future))
            if self._thread is None:
                self._thread = threading.Thread(target=self._deliver_all, name=f"to {self.service}", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return future

    def __len__(self) -> int:
        return len(self._jobs)

    def flush(self, seconds: float) -> int:
        """Waits until all is delivered, at most so long. Returns how many deliveries are left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._jobs or self._closing.is_set(), seconds)
            return len(self._jobs)

    def close(self, seconds: float) -> int:
        """Flushes, then stops. Returns how many deliveries were given up, and says so."""
        left = self.flush(seconds)
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if left:
            waiting = f"{left} deliveries were left out; their numbers wait, and the next run sends them"
            log.warning("%s did not answer: %s", self.service, waiting)
            self.dropped += left
        elif self._thread is not None:
            self._thread.join()
        return left

    def _deliver_all(self) -> None:
        try:
            self._loop()
        finally:  # also of a job with a bug, whose traceback the thread prints: nobody shall wait for the rest
            self._closing.set()
            with self._changed:
                self._changed.notify_all()

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closing.is_set())
                if not self._jobs or self._closing.is_set():
                    return
                job, future = self._jobs[0]
            self._deliver(job, future)
            if self._closing.is_set():
                return
            with self._changed:
                self._jobs.popleft()
                self._changed.notify_all()

    def _deliver(self, job: Callable[[], Any], future: Future[Any]) -> None:
        failures = 0
        while not self._closing.is_set():
            try:
                future.set_result(job())
                return
            except Refused as error:
                self._drop(future, error)
                return
            except Unavailable as error:
                if not failures:
                    self._say("does not answer, work goes on without it", error)
                failures += 1
                if failures >= TRIES and self.answers():
                    self._drop(future, error)
                    return
            self.failures += 1
            self._closing.wait(self.pauses[min(failures, len(self.pauses)) - 1])

    def _drop(self, future: Future[Any], error: Exception) -> None:
        self._say("does not take it", error)
        self.failures += 1
        self.dropped += 1
        future.set_exception(error)

    def _say(self, what: str, error: Exception) -> None:
        text = redacted(f"{self.service} {what}: {error}")
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)
