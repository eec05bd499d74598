"""A thread that owns an engine, so that many others may ask it: what a server stands on.

Promises: whoever asks waits for nobody's answer but gets its tokens as they are made; the queue is bounded; a cancelled
answer frees its row within a step; an error in a step ends the answers under way with that error and nothing else;
`close` leaves no thread behind. Not here: HTTP (serve/), several models.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict

from nanochat.inference.engine import Engine
from nanochat.inference.requests import Deliver, Delta, Request
from nanochat.inference.sampling import Sampling

PATIENCE = 1.0  # seconds: the first guess of how long a place in the queue takes to become free


class QueueFull(RuntimeError):
    """Too many wait already. `retry_after` is in how many seconds it may be worth asking again."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting already: try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class Handle:
    """One request, for whoever asked."""

    def __init__(self, worker: "Worker") -> None:
        self.worker, self.requests, self.cancelled = worker, list[Request](), False

    @property
    def shared(self) -> int:
        """Tokens of the prompt that did not have to be read, known when the first token is there."""
        return max((request.shared for request in self.requests), default=0)

    def cancel(self) -> None:
        """No more of it; delivers `cancelled` for the answers that have not ended."""
        self.cancelled = True
        for request in self.requests:
            request.cancel()
        self.worker.wake()


class Worker:
    """Steps its engine as long as there is something to do. `submit` and `cancel` are for any thread.

    At most `max_waiting` prompts wait for a row. `deliver` is called on the worker's thread: it must neither block nor
    raise.
    """

    def __init__(self, engine: Engine, max_waiting: int = 256) -> None:
        self.engine, self.max_waiting = engine, max_waiting
        self._something = threading.Condition()
        self._arrived: deque[tuple[list[int], Sampling, int, Deliver, Handle]] = deque()
        self._closing, self._hurry = False, False
        self._handles: list[Handle] = []
        self._paces: deque[float] = deque([PATIENCE], maxlen=32)  # seconds between two requests that were let in
        self._let_in = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Sequence[int], sampling: Sampling, num_samples: int, deliver: Deliver) -> Handle:
        """Queues a prompt. Raises ValueError as `Engine.generate`, QueueFull, and RuntimeError once it is closing."""
        self.engine.scheduler.check(prompt)
        if num_samples < 1:
            raise ValueError(f"num_samples={num_samples}: must be at least 1")
        handle = Handle(self)
        with self._something:
            if self._closing:
                raise RuntimeError("the engine is shutting down")
            waiting = self.waiting
            if waiting >= self.max_waiting:
                raise QueueFull(waiting, max(1.0, waiting * sum(self._paces) / len(self._paces)))
            self._arrived.append((list(prompt), sampling, num_samples, deliver, handle))
            self._something.notify()
        return handle

    @property
    def waiting(self) -> int:
        """Prompts that have no row yet."""
        return len(self._arrived) + len(self.engine.scheduler.waiting)

    @property
    def alive(self) -> bool:
        """Whether it takes and answers requests."""
        return self._thread.is_alive() and not self._closing

    def wake(self) -> None:
        """Looks at once whether something was cancelled."""
        with self._something:
            self._something.notify()

    def statistics(self) -> dict[str, float]:
        """Rows that speak, prompts that wait, and what was done since the beginning."""
        scheduler = self.engine.scheduler
        now = {"rows": float(scheduler.rows.state.astype(bool).sum()), "waiting": float(self.waiting)}
        return now | {"max_rows": scheduler.cache.max_rows, **asdict(scheduler.counts)}

    def close(self, drain: float = 0.0) -> None:
        """Takes no more, waits at most `drain` seconds for what is under way, cancels the rest and ends the thread."""
        with self._something:
            self._closing = True
            self._something.notify()
        self._thread.join(drain)
        self._hurry = True
        self.wake()
        self._thread.join()

    def _run(self) -> None:
        scheduler = self.engine.scheduler
        while True:
            with self._something:
                while not (self._arrived or scheduler.busy or self._closing):
                    self._something.wait()
                if self._closing and not self._arrived and not scheduler.busy:
                    return
                arrived, self._arrived = self._arrived, deque()
            for prompt, sampling, num_samples, deliver, handle in arrived:
                handle.requests = scheduler.submit(prompt, sampling, num_samples, deliver)
                self._handles.append(handle)
            for handle in self._handles:
                if handle.cancelled or self._hurry:
                    for request in handle.requests:
                        request.cancel()
            self._step()

    def _step(self) -> None:
        scheduler = self.engine.scheduler
        waiting = len(scheduler.waiting)
        try:
            scheduler.step()
        except Exception as error:
            scheduler.abandon(error)
        if let_in := waiting - len(scheduler.waiting):
            now = time.monotonic()
            self._paces.append((now - self._let_in) / let_in)
            self._let_in = now
        self._handles = [each for each in self._handles if not all(request.done for request in each.requests)]


__all__ = ["Delta", "Handle", "QueueFull", "Worker"]
