"""Hears that a flow run is being cancelled, also where no Prefect worker would signal its process.

Promises: `stopping` is set within seconds of the request; a server that is away ends nothing. It stops nothing itself.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

POLL_SECONDS = 3.0


@contextmanager
def listening(stopping: threading.Event) -> Iterator[None]:
    """Looks at the state of the present flow run until the block ends."""
    over = threading.Event()
    run_id = flow_run.get_id()
    if run_id:
        context = contextvars.copy_context()  # Prefect's settings: which server
        arguments = (_listen, UUID(run_id), stopping, over)
        threading.Thread(target=context.run, args=arguments, name="cancellation", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _listen(run_id: UUID, stopping: threading.Event, over: threading.Event) -> None:
    with get_client(sync_client=True) as client:
        while not over.wait(POLL_SECONDS) and not stopping.is_set():
            try:
                state = client.read_flow_run(run_id).state
            except httpx.HTTPError:  # the server is away: training goes on
                continue
            if state is not None and (state.is_cancelling() or state.is_cancelled()):
                stopping.set()
