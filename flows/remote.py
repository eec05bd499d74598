"""A stage on another work pool: attach to the run that makes its address, or start one, and wait for it.

Promises: two pipelines that want the same address of the same store share one run, also when they ask at the same
moment, and only the one that started it shows it among its tasks; a crashed attempt is started again, a failed one is
not; the store decides, not the child's state (of a forced stage only what was made since); a cancelled pipeline takes
the runs that it started along; a server that is away for a while ends nothing.
(The pattern and its traps were measured on Prefect 3.8.8.)
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from uuid import UUID

import httpx
from prefect import Task
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, TaskRunResult
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.runtime import flow_run, task_run
from prefect.states import Cancelling, Pending, Scheduled

from flows.observer import attempt
from nanochat.artifacts.digest import digest
from nanochat.redaction import redacted
from nanochat.workflow.launch import StageFailed, Stopped
from nanochat.workflow.runner import Job, Outcome, find

if TYPE_CHECKING:
    import threading

    from flows.observer import FlowObserver
    from flows.settings import Settings
    from nanochat.artifacts.store import Store

POLL_SECONDS = 3.0
RESTARTS = 3  # of a run that crashed: a worker that was restarted, a node that was preempted
T = TypeVar("T")
LIVE = {"SCHEDULED", "PENDING", "RUNNING", "PAUSED"}


class AskingRun(Protocol):
    """The pipeline run that has stages made elsewhere (flows/run.py), as far as they need to know it."""

    recipe: str
    settings: list[str]
    where: Settings
    id: str
    parent: str  # its MLflow run
    gpu_deployment: str
    force: frozenset[str]
    stopping: threading.Event
    store: Store


def make(run: AskingRun, job: Job, observer: FlowObserver) -> Outcome:
    """Has the GPU pool make the artifact. Raises StageFailed or Stopped as `runner.run_job` does."""
    with get_client(sync_client=True) as client:
        for _ in range(1 + RESTARTS):
            child = _patiently(lambda: _attach_or_start(client, run, job), run)
            state = _follow(client, child, run, job, observer)
            found = find(job, run.store)
            ours = found is not None and found.record.get("facts", {}).get("pipeline_run") == run.id
            if found is not None and (ours or state.is_completed() or not _is_forced(job, run)):
                outcome = dataclasses.replace(found, cached=not ours, seconds=found.record["seconds"] if ours else 0.0)
                observer.finished(job, outcome)
                return outcome
            if not state.is_crashed() and (_is_ours(child, run) or not state.is_cancelled()):
                break
    message = (state.message or "no message").removeprefix(f"{job.address}: ")
    raise StageFailed(f"{job.address}: {message} ({state.name} on {run.gpu_deployment})")


def cancel_children(flow: Any, flow_run: FlowRun, state: State) -> None:
    """Hook of a cancelled pipeline: asks for the end of the runs it started, also where its own process is gone."""
    with get_client(sync_client=True) as client:
        for child in _tagged(client, f"parent:{flow_run.id}"):
            if _is_live(child):
                with suppress(httpx.HTTPError):  # one that cannot be told keeps nobody from telling the others
                    _cancel(client, child.id)


def _follow(client: SyncPrefectClient, child: FlowRun, run: AskingRun, job: Job, observer: FlowObserver) -> State:
    """Waits for the end of a run, passing on what it says; its final state."""
    relay = _Relay(client, child.id)
    while (state := _state(client, child.id)) is None or not state.is_final():
        if run.stopping.is_set():
            if _is_ours(child, run):
                attempt(_cancel, client, child.id)
            raise Stopped("the run was cancelled")
        relay.pass_on()
        if observer.display:
            name = state.name if state else "unknown"
            observer.display.progressed(job.address, None, f"on {run.gpu_deployment}: {name}")
        time.sleep(POLL_SECONDS)
    relay.pass_on()
    return state


def _attach_or_start(client: SyncPrefectClient, run: AskingRun, job: Job) -> FlowRun:
    wanted = [f"address:{job.address}", f"store:{digest(run.store.uri)[:8]}"]
    known = _tagged(client, *wanted)
    usable = [
        each for each in known if _is_ours(each, run) or not _is_forced(job, run)
    ]  # others' may only find it made
    child = next(filter(_is_live, usable), None) or _start(client, run, job, wanted, len(known))
    _drop_placeholders(client, run, job, child)
    return child


def _start(client: SyncPrefectClient, run: AskingRun, job: Job, wanted: list[str], attempts: int) -> FlowRun:
    """A run of the deployment; another pipeline's, if that asked at the same moment: by the idempotency key."""
    parameters = {
        "recipe": run.recipe,
        "settings": [redacted(each) for each in run.settings],  # Prefect writes them down; no GPU stage needs a
        # secret, and no address holds one
        "name": job.stage.name,
        "address": job.address,
        "store": run.where.store,
        "pipeline_run": run.id,
        "tracking_parent": run.parent,
        "force": _is_forced(job, run),
    }
    key = ":".join((*wanted, str(attempts)))  # without the count it would give back a failed run
    if _is_forced(job, run):
        key += f":{run.id}"  # not one that may only find it made
    return client.create_flow_run_from_deployment(
        client.read_deployment_by_name(run.gpu_deployment).id,
        parameters=parameters,
        state=Scheduled(),
        name=job.address,
        idempotency_key=key,
        parent_task_run_id=_placeholder(client, run, job, attempts),
        tags=[*wanted, f"parent:{run.id}"],
    )


def _placeholder(client: SyncPrefectClient, run: AskingRun, job: Job, attempts: int) -> UUID | None:
    """The task run by which Prefect shows a child in its parent's graph; the same one when asked again.

    (`run_deployment` makes a new one each time, also when it gives back a child that has another.)
    """
    if flow_run.get_id() is None:
        return None
    name = _placeholder_name(run, job)
    shown: Task[Any, None] = Task(fn=lambda: None, name=run.gpu_deployment)
    shown.task_key = "nanochat.on_another_pool"
    makes = task_run.get_id()
    inputs: dict[str, Any] = {"__parents__": [TaskRunResult(id=UUID(makes))]} if makes else {}
    parent = UUID(flow_run.get_id())
    state: State[None] = Pending()
    key = f"{job.address}:{attempts}"
    return client.create_task_run(shown, parent, dynamic_key=key, name=name, task_inputs=inputs, state=state).id


def _placeholder_name(run: AskingRun, job: Job) -> str:
    return f"{job.address} on {run.gpu_deployment}"


def _drop_placeholders(client: SyncPrefectClient, run: AskingRun, job: Job, child: FlowRun) -> None:
    """Takes away what would never end: ours, where the child has that of another pipeline, or was never made."""
    if flow_run.get_id() is None:
        return
    here = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(flow_run.get_id())]))
    named = TaskRunFilter(name=TaskRunFilterName(any_=[_placeholder_name(run, job)]))
    for each in client.read_task_runs(flow_run_filter=here, task_run_filter=named):
        if each.id != child.parent_task_run_id and (each.state is None or each.state.is_pending()):
            with suppress(ObjectNotFound):
                client.delete_task_run(each.id)


def _patiently(call: Callable[[], T], run: AskingRun) -> T:
    """What the server says, once it is there; Stopped, if the run is cancelled before. What it refuses is raised."""
    while True:
        try:
            return call()
        except httpx.HTTPError as error:
            if isinstance(error, httpx.HTTPStatusError) and error.response.is_client_error:
                raise
            get_run_logger().warning("Prefect's server does not answer, asking again: %s", redacted(str(error)))
        if run.stopping.wait(POLL_SECONDS):
            raise Stopped("the run was cancelled")


def _tagged(client: SyncPrefectClient, *tags: str) -> list[FlowRun]:
    return client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=list(tags))))


def _is_live(child: FlowRun) -> bool:
    return child.state_type is not None and child.state_type.value in LIVE


def _is_ours(child: FlowRun, run: AskingRun) -> bool:
    return f"parent:{run.id}" in child.tags


def _is_forced(job: Job, run: AskingRun) -> bool:
    return job.stage.name in run.force


def _state(client: SyncPrefectClient, run_id: UUID) -> State | None:
    try:
        return client.read_flow_run(run_id).state
    except httpx.HTTPError:  # the server is away; the child goes on
        return None


def _cancel(client: SyncPrefectClient, run_id: UUID) -> None:
    client.set_flow_run_state(run_id, Cancelling(message="the pipeline was cancelled"))


class _Relay:
    """Passes the child's log lines on to the parent's log."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID) -> None:
        self.client, self.run_id, self.seen = client, run_id, 0

    def pass_on(self) -> None:
        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.run_id]))
        try:
            logs = self.client.read_logs(only, offset=self.seen, sort=LogSort.TIMESTAMP_ASC)
        except httpx.HTTPError:
            return
        self.seen += len(logs)
        for log in logs:
            get_run_logger().info("%s", redacted(log.message))
