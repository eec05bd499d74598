"""The Prefect flow: one flow run for a pipeline, one task per stage (and per part of a mapped one), named by address.

Promises: the store alone says what exists, so a retry of a run and a new run behave the same; a stage found there is
`Cached`; a failed one fails the flow with its cause in the message while what does not depend on it goes on; Ctrl-C,
cancellation and the death of the flow leave no process behind. How a stage is made is runner.py's.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import settings as surroundings
from flows.form import Knobs, RecipeName, StageName, settings_of
from flows.run import PipelineRun
from nanochat.launch import StageFailed, Stopped
from nanochat.plan import Step, plan
from nanochat.preflight import preflight
from nanochat.recipes import apply, stages_of
from nanochat.runner import Job, jobs

RUN: contextvars.ContextVar[PipelineRun] = contextvars.ContextVar("nanochat_run")
PART_RETRIES = 2
CANCEL_POLL_SECONDS = 5.0
GRACE_SECONDS = 25.0  # a Prefect worker kills 30 s after it asked


def _worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """A part whose failure is not the user's: the network's, the machine's."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and "ValueError" not in str(error)


@task(cache_policy=NO_CACHE)
def make(address: str) -> Any:
    """Makes one artifact, or finds it made."""
    run = RUN.get()
    outcome = run.make(run.job(address))
    if outcome.cached:
        return Completed(name="Cached", message=outcome.note or f"found in {run.store.uri}", data=address)
    return address


@flow(name="pipeline", task_runner=ThreadPoolTaskRunner(max_workers=16), validate_parameters=True)
def pipeline(
    recipe: Annotated[RecipeName, Field(description="named settings to start from")] = "tiny",
    knobs: Annotated[Knobs, Field(description="what to change of the recipe; empty boxes keep its values")] = {},  # noqa: B006
    seed: int | None = None,
    only: list[StageName] = [],  # noqa: B006
    force: list[StageName] = [],  # noqa: B006
    store: str = "",
    gpu_deployment: str = "",
) -> Any:
    """From raw text to a registered model that chats; what is already made is not made again.

    Args:
        recipe: named settings to start from.
        knobs: what to change of the recipe; empty boxes keep its values.
        seed: of every stage that has one; empty keeps the recipe's.
        only: these stages and what they need; none means all.
        force: stages to make again although they are there.
        store: where artifacts lie, file:// or s3://; empty means what the environment says.
        gpu_deployment: deployment that makes the GPU stages (stage/gpu); empty means here, in this process's company.
    """
    filled = settings_of(knobs if isinstance(knobs, Knobs) else Knobs.model_validate(knobs))
    settings = [*([f"seed={seed}"] if seed is not None else []), *filled]
    steps = plan(apply(stages_of(recipe), settings), only)
    where = surroundings.read(store=store)
    with PipelineRun.opened(recipe, settings, steps, where, frozenset(force), gpu_deployment) as run:
        preflight(steps, run.store)
        run.start(str(flow_run.get_id() or ""), grace_seconds=GRACE_SECONDS)
        token = RUN.set(run)
        try:
            with _cancellation(run.stopping):
                causes = _carry_out(steps, run)
        finally:
            RUN.reset(token)
        if run.stopping.is_set():
            run.end("KILLED", "cancelled")
            return Cancelled(message="stopped on request; a new run goes on where this one stopped")
        if causes:
            run.end("FAILED", "; ".join(causes))
            raise StageFailed("; ".join(causes))
        run.end("FINISHED", "")
    return {step.name: step.address for step in steps}


def _carry_out(steps: list[Step], run: PipelineRun) -> list[str]:
    """Submits all steps, waits for them; the causes of what failed by itself."""
    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for step in steps:
            _submit(step, run, futures)
        for future in futures.values():
            while not future.state.is_final():
                future.wait(timeout=1)
    except KeyboardInterrupt:
        run.stopping.set()
    except BaseException:  # Prefect's termination signal: end the stages, then let it through
        run.stopping.set()
        _drain(futures)
        raise
    _drain(futures)
    return [cause for future in futures.values() if (cause := _cause(future.state))]


def _drain(futures: dict[str, PrefectFuture[Any]]) -> None:
    for future in futures.values():
        future.wait(timeout=GRACE_SECONDS + 10)


def _submit(step: Step, run: PipelineRun, futures: dict[str, PrefectFuture[Any]]) -> None:
    parts, whole = jobs(step)
    before = [futures[name] for name in step.inputs]
    if parts and run.is_missing(step):
        option = make.with_options(
            name=f"{step.name} part",
            retries=PART_RETRIES,
            retry_delay_seconds=[5, 30],
            retry_condition_fn=_worth_retrying,
        )
        made = [_named(option, job).submit(job.address, wait_for=before) for job in parts]
        futures |= {job.address: future for job, future in zip(parts, made, strict=True)}
        before = made
    futures[step.name] = _named(make.with_options(name=step.name), whole).submit(whole.address, wait_for=before)


def _named(option: Any, job: Job) -> Any:
    return option.with_options(task_run_name=job.address.replace("{", "").replace("}", ""), tags=[job.stage.on])


def _cause(state: State[Any]) -> str | None:
    """What a task failed of; nothing for one that never ran because another failed."""
    if not (state.is_failed() or state.is_crashed()):
        return None
    error = state.result(raise_on_failure=False)
    if isinstance(error, Stopped):
        return None
    return str(error) if isinstance(error, Exception) else (state.message or state.name or "unknown")


@contextmanager
def _cancellation(stopping: threading.Event) -> Iterator[None]:
    """Hears of a cancellation in the UI also where no worker would signal it."""
    over = threading.Event()
    run_id = flow_run.get_id()

    def watch() -> None:
        with get_client(sync_client=True) as client:
            while not over.wait(CANCEL_POLL_SECONDS):
                if _is_cancelling(client, run_id):
                    stopping.set()

    thread = threading.Thread(target=watch, name="cancellation", daemon=True)
    if run_id:
        thread.start()
    try:
        yield
    finally:
        over.set()


def _is_cancelling(client: Any, run_id: Any) -> bool:
    import httpx

    try:
        state = client.read_flow_run(run_id).state
    except httpx.HTTPError:  # the server is away: training goes on
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


@flow(name="stage", validate_parameters=True)
def stage(
    recipe: RecipeName,
    settings: list[str],
    name: StageName,
    address: str,
    store: str = "",
    pipeline_run: str = "",
    tracking_parent: str = "",
    force: bool = False,
) -> Any:
    """Makes one stage of a pipeline that runs elsewhere: what the GPU work pool is given.

    Args:
        recipe: of the pipeline.
        settings: STAGE.KNOB=VALUE, all that the pipeline set.
        name: the stage to make.
        address: what the pipeline calls the result; refused where this machine would call it otherwise.
        store: where artifacts lie.
        pipeline_run: flow run of the pipeline.
        tracking_parent: MLflow run of the pipeline.
        force: make it again although it is there.
    """
    steps = plan(apply(stages_of(recipe), settings), [name])
    step = next(step for step in steps if step.name == name)
    if step.address != address:
        raise ValueError(f"this worker calls it {step.address}, the pipeline {address}: bring both to the same commit")
    forced = frozenset([name] if force else [])
    with PipelineRun.opened(recipe, settings, steps, surroundings.read(store=store), forced, "") as run:
        run.start(pipeline_run, grace_seconds=GRACE_SECONDS, tracking_parent=tracking_parent)
        token = RUN.set(run)
        try:
            with _cancellation(run.stopping):
                future = _named(make.with_options(name=name), Job(step)).submit(address)
                try:
                    while not future.state.is_final():
                        future.wait(timeout=1)
                except BaseException:
                    run.stopping.set()
                    future.wait(timeout=GRACE_SECONDS + 10)
                    raise
        finally:
            RUN.reset(token)
    cause = _cause(future.state)
    if cause:
        raise StageFailed(cause)
    return Cancelled(message="stopped on request") if run.stopping.is_set() else address


def checkout() -> Path:
    """The root of the project's files: where deployments are run from."""
    return Path(os.path.realpath(__file__)).parents[1]
