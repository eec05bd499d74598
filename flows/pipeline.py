"""The Prefect flows: `pipeline`, one task per stage (and per part of a mapped one) named by address, and `stage`, what
the GPU work pool is given.

Promises: the store alone says what exists, so a retry of a run and a new run behave the same; what is found there is
`Cached`; a failed stage fails the run with its cause at the beginning of the message, while what does not depend on it
goes on; cancellation, Ctrl-C and the death of the flow leave no process behind. How a stage is made is runner.py's.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
from typing import Annotated, Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectConcurrentFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import loopback, remote
from flows.cancellation import listening
from flows.form import Knobs, RecipeName, StageName, filled_in, revealed, settings_of
from flows.run import PipelineRun
from flows.settings import read as read_settings
from nanochat.planning.preflight import preflight
from nanochat.recipes import apply, stages_of
from nanochat.redaction import redacted
from nanochat.workflow.launch import StageFailed, Stopped, hanging_up_terminates
from nanochat.workflow.plan import Step, plan
from nanochat.workflow.runner import Job, find, jobs

loopback.exempt()  # a worker's process comes in here
RUN: contextvars.ContextVar[PipelineRun] = contextvars.ContextVar("nanochat_run")
Futures = dict[str, PrefectConcurrentFuture[Any]]
PART_RETRIES, PART_DELAYS = 2, [2, 10]  # seconds; a cancelled run waits for them
GRACE_SECONDS = 25.0  # for a stage to save what it has: a Prefect worker kills 30 s after it asked
PREAMBLE = "Task run encountered an exception "  # of Prefect, before the cause
STOPPED = "stopped on request; the next run goes on where this one stopped"


def _worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """A part whose failure is not the user's: the network's, the machine's."""
    return state.is_failed() and "ValueError" not in (state.message or "")


@task(cache_policy=NO_CACHE)  # the store is the one truth about what exists
def make(address: str) -> Any:
    """Makes one artifact, or finds it made."""
    run = RUN.get()
    try:
        outcome = run.make(run.job(address))
    except StageFailed as failure:
        return Failed(message=redacted(str(failure)))
    except Stopped as stop:
        return Cancelled(message=str(stop)) if run.stopping.is_set() else Failed(message=f"{address}: {stop}")
    where = run.store.location(address)
    if outcome.cached:
        return Completed(name="Cached", message=" ".join(filter(None, (f"found: {where}", outcome.note))), data=address)
    return Completed(message=f"made in {outcome.seconds:.1f} s: {where}", data=address)


TASK_RUNNER: Any = ThreadPoolTaskRunner(max_workers=16)  # Prefect types it more narrowly than its own flows take it


@flow(task_runner=TASK_RUNNER, on_cancellation=[remote.cancel_children])
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
    try:
        settings = [*([] if seed is None else [f"seed={seed}"]), *settings_of(revealed(filled_in(knobs)))]
        steps = plan(apply(stages_of(recipe), settings), only)
        run = PipelineRun(recipe, steps, read_settings(store=store), frozenset(force), gpu_deployment)
        preflight(steps, run.store, run.force, gpu_stages_here=not gpu_deployment)
    except ValueError as refused:  # the user's: nothing was started
        return Failed(message=redacted(str(refused)))
    return _run_recorded(run, steps, str(flow_run.get_id() or ""))


@flow
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
        settings: STAGE.KNOB=VALUE, what the pipeline changes of the recipe.
        name: the stage to make.
        address: what the pipeline calls the result; refused where this machine would call it otherwise.
        store: where artifacts lie.
        pipeline_run: flow run of the pipeline.
        tracking_parent: MLflow run of the pipeline.
        force: make it again although it is there.
    """
    try:
        steps = plan(apply(stages_of(recipe), settings), [name])
        step = next(step for step in steps if step.name == name)
        run = PipelineRun(recipe, steps, read_settings(store=store), frozenset([name] if force else []))
        _check_worker(step, address, run)
    except ValueError as refused:
        return Failed(message=str(refused))
    return _run_recorded(run, [step], pipeline_run, tracking_parent)


def _check_worker(step: Step, address: str, run: PipelineRun) -> None:
    """ValueError, where this worker and the pipeline do not mean the same."""
    if step.address != address:
        raise ValueError(f"this worker calls it {step.address}, the pipeline {address}: bring both to the same commit")
    for each in step.inputs.values():
        if find(Job(each), run.store) is None:
            raise ValueError(f"{each.address} is not in {run.store.uri}: give the worker a store that it shares")


def _run_recorded(run: PipelineRun, steps: list[Step], pipeline_run: str, tracking_parent: str = "") -> State[Any]:
    """Makes the steps with everything recorded; the final state of the flow run."""
    recorded = run.recorded(pipeline_run, GRACE_SECONDS, tracking_parent)
    with hanging_up_terminates(), recorded, listening(run.stopping):
        token = RUN.set(run)
        try:
            causes = _run_steps(steps, run)
        finally:
            RUN.reset(token)
        if run.stopping.is_set():
            run.end("KILLED", STOPPED)
            return Cancelled(message=STOPPED)
        if causes:
            run.end("FAILED", "; ".join(causes))
            return Failed(message="; ".join(causes))
        run.end("FINISHED")
    return Completed(message=steps[-1].address, data={step.name: step.address for step in steps})


def _run_steps(steps: list[Step], run: PipelineRun) -> list[str]:
    """Submits all steps and waits for them; the causes of what failed by itself."""
    futures: Futures = {}
    causes: list[str] = []
    try:
        causes += _submit_all(steps, run, futures)
        _wait(futures)
    except KeyboardInterrupt:
        run.stopping.set()
    except BaseException:  # Prefect's termination signal, a bug: end the stages, then let it through
        run.stopping.set()
        _wait(futures)
        raise
    _wait(futures)
    causes += [cause for future in futures.values() if (cause := _cause(future))]
    return list(dict.fromkeys(causes))


def _submit_all(steps: list[Step], run: PipelineRun, futures: Futures) -> list[str]:
    """Submits the steps; the cause, where the store does not say what it holds: what was submitted still ends."""
    for step in steps:
        try:
            _submit(step, run, futures)
        except (OSError, ValueError) as error:
            return [f"{step.address}: {type(error).__name__}: {error}"]
    return []


def _submit(step: Step, run: PipelineRun, futures: Futures) -> None:
    parts, whole = jobs(step)
    before = [futures[name] for name in step.inputs if name in futures]
    if parts and run.is_missing(step):
        again: dict[str, Any] = {
            "retries": PART_RETRIES,
            "retry_delay_seconds": PART_DELAYS,
            "retry_condition_fn": _worth_retrying,
        }
        each = make.with_options(**again)
        made = [_named(each, f"{step.name} part", job).submit(job.address, wait_for=before) for job in parts]
        futures |= {job.address: future for job, future in zip(parts, made, strict=True)}
        before = made
    futures[step.name] = _named(make, step.name, whole).submit(whole.address, wait_for=before)


def _named(option: Any, name: str, job: Job) -> Any:
    return option.with_options(name=name, task_run_name=job.address, tags=[job.stage.on])


def _wait(futures: Futures) -> None:
    """Until all have ended, also those that never began because another failed (Prefect calls these not final)."""
    concurrent.futures.wait([future.wrapped_future for future in futures.values()])


def _cause(future: PrefectConcurrentFuture[Any]) -> str | None:
    """What a task failed of; nothing for one that never ran because another failed."""
    future.wait()
    state = future.state
    if not (state.is_failed() or state.is_crashed()):
        return None
    return redacted((state.message or str(state.name)).removeprefix(PREAMBLE))
