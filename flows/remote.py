"""A stage on another work pool: attach to the run that makes its address, or start one, and wait for it.

Promises: two pipelines that want the same address share one run; a dead attempt does not hold up the next one; the
store decides, not the child's state; a cancelled pipeline takes its children along; a server that is away for a while
ends nothing. (The pattern and its traps were measured on Prefect 3.8.8.)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.deployments import run_deployment
from prefect.logging import get_run_logger
from prefect.states import Cancelling

from nanochat.launch import StageFailed, Stopped
from nanochat.runner import Job, Outcome, find

if TYPE_CHECKING:
    from flows.run import PipelineRun
    from flows.watch import FlowWatch

POLL_SECONDS = 3.0
LIVE = {"SCHEDULED", "PENDING", "RUNNING", "PAUSED"}


def make(run: PipelineRun, job: Job, watch: FlowWatch) -> Outcome:
    """Has the GPU pool make the artifact. Raises StageFailed or Stopped as `runner.perform` does."""
    with get_client(sync_client=True) as client:
        child = _attach_or_start(client, run, job)
        relay = _Relay(client, child.id)
        while not (state := _state(client, child.id)) or not state.is_final():
            if run.stopping.is_set():
                cancel(client, child.id)
                raise Stopped("the run was cancelled")
            relay.pass_on()
            if watch.display:
                watch.display.progressed(job.address, None, f"on {run.gpu_deployment}: {state.name if state else 'unknown'}")
            time.sleep(POLL_SECONDS)
        relay.pass_on()
    outcome = find(job, run.store)
    if outcome is None:
        raise StageFailed(f"{job.address}: on {run.gpu_deployment}: {state.name}: {state.message or 'no message'}")
    watch.finished(job, outcome)
    return outcome


def _tag(address: str) -> str:
    return f"address:{address}"


def _attach_or_start(client: SyncPrefectClient, run: PipelineRun, job: Job) -> FlowRun:
    known = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[_tag(job.address)])))
    for earlier in known:
        if earlier.state_type and earlier.state_type.value in LIVE:
            return earlier
    parameters = {
        "recipe": run.recipe,
        "settings": run.settings_for_workers(),
        "name": job.stage.name,
        "address": job.address,
        "store": run.where.store,
        "pipeline_run": run.flow_run_id,
        "tracking_parent": run.parent,
        "force": job.stage.name in run.force,
    }
    return run_deployment(
        run.gpu_deployment,
        parameters=parameters,
        timeout=0,
        as_subflow=True,
        flow_run_name=job.address,
        idempotency_key=f"{job.address}:{len(known)}",  # the address alone would give back a failed run
        tags=[_tag(job.address), f"parent:{run.flow_run_id}"],
    )


def _state(client: SyncPrefectClient, run_id: UUID) -> Any:
    try:
        return client.read_flow_run(run_id).state
    except httpx.TransportError:  # the server is away; the child goes on
        return None


def cancel(client: SyncPrefectClient, run_id: UUID) -> None:
    """Asks Prefect to cancel a run."""
    client.set_flow_run_state(run_id, Cancelling(message="the pipeline was cancelled"))


class _Relay:
    """Passes the child's log lines on to the parent's log, sparsely."""

    def __init__(self, client: SyncPrefectClient, run_id: UUID) -> None:
        self.client, self.run_id, self.seen = client, run_id, 0

    def pass_on(self) -> None:
        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[self.run_id]))
        try:
            logs = self.client.read_logs(only, offset=self.seen, sort=LogSort.TIMESTAMP_ASC)
        except httpx.TransportError:
            return
        self.seen += len(logs)
        for log in logs:
            get_run_logger().info("%s", log.message)
