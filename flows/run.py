"""What all tasks of one pipeline run share: store, tracking, slots, and how one artifact is made with them.

Promises: the GPU stages of a run go one after another; a stage's numbers reach MLflow whether it was made here or on
another pool; tracking never stops a stage, and its final status is the true one. The order of the tasks is the flow's
business.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger

from flows import corpus_fetch, display, remote, store, track, tracking_uri
from flows.form import changed, settings_of
from flows.observer import FlowObserver, artifact_key, attempt
from flows.settings import Settings
from nanochat.artifacts.provenance import checkout_facts
from nanochat.redaction import redacted
from nanochat.workflow.launch import Stopped
from nanochat.workflow.plan import Step
from nanochat.workflow.runner import Job, Outcome, RunContext, find, run_job

# The terminal of the command that runs the flow in its own process, if any.
DISPLAY: ContextVar[display.Display | None] = ContextVar("DISPLAY", default=None)


class PipelineRun:
    """One run of a plan. `stopping` is set when it shall end. ValueError, where the settings can never work."""

    def __init__(
        self, recipe: str, steps: list[Step], where: Settings, force: frozenset[str], gpu_deployment: str = ""
    ) -> None:
        tracking_uri.check(where.tracking_uri)
        self.recipe, self.steps, self.where = recipe, steps, where
        self.force, self.gpu_deployment = force, gpu_deployment
        self.display = DISPLAY.get()
        self.store = store.open_store(where.store, where.home / "cache", cache_bytes=where.cache_bytes)
        self.settings = settings_of(changed(recipe, [step.stage for step in steps]))
        self.stopping = threading.Event()
        self.outcomes: dict[str, Outcome] = {}
        self.id = self.parent = ""
        self._jobs = {job.address: job for step in steps for job in (Job(step), *(Job(step, p) for p in step.parts))}
        self._slots = {"gpu": threading.Semaphore(1), "cpu": threading.Semaphore(os.cpu_count() or 1)}

    @contextmanager
    def recorded(self, pipeline_run: str, grace_seconds: float, tracking_parent: str = "") -> Iterator[None]:
        """With the MLflow run of the pipeline open (or the one that is given); flushed in the end, whatever happens."""
        self.id, self.owns_parent = pipeline_run, not tracking_parent
        facts = {**checkout_facts(self.where.checkout), "pipeline_run": pipeline_run, "recipe": self.recipe}
        home = self.where.home
        self.context = RunContext(self.store, home, facts, self.force, grace_seconds, prepare=corpus_fetch.fetch)
        self.tracker = track.Tracker(self.where.tracking_uri)
        tags = {"prefect.flow_run_id": pipeline_run, "nanochat.settings": " ".join(self.settings), **facts}
        self.parent = tracking_parent or self.tracker.pipeline_run(pipeline_run, self.recipe, tags)
        try:
            yield
        except BaseException as error:
            status: track.Status = (
                "FAILED" if isinstance(error, Exception) else "KILLED"
            )  # Ctrl-C and signals are no Exceptions
            self.end(status, str(error) or type(error).__name__)
            raise
        finally:
            if self.owns_parent:
                self._tell_where()
            self.tracker.close()

    def end(self, status: track.Status, cause: str = "") -> None:
        """The final status of the pipeline's MLflow run."""
        if self.owns_parent:
            self.tracker.finish_pipeline(status, cause)

    def job(self, address: str) -> Job:
        """The artifact of an address."""
        return self._jobs[address]

    def is_missing(self, step: Step) -> bool:
        """Whether the step has to be made."""
        return step.name in self.force or find(Job(step), self.store) is None

    def make(self, job: Job) -> Outcome:
        """Finds one artifact or makes it, here or on the GPU pool. Raises as `runner.run_job` does."""
        if self.stopping.is_set():
            raise Stopped("the run was cancelled")
        observer = FlowObserver(self.stopping, self._begin, self.display)
        outcome = None if job.stage.name in self.force else find(job, self.store)
        if outcome is None and self.gpu_deployment and job.stage.on == "gpu":
            outcome = remote.make(self, job, observer)
        elif outcome is None:
            with self._slot(job):
                outcome = run_job(job, self.context, observer)
        if outcome.cached and observer.display and job.part is None:
            observer.display.finished(job.address, outcome)
        if job.part is None:
            self._conclude(job.step, outcome, observer)
        return outcome

    @contextmanager
    def _slot(self, job: Job) -> Iterator[None]:
        while not self._slots[job.stage.on].acquire(timeout=0.5):
            if self.stopping.is_set():
                raise Stopped("the run was cancelled")
        try:
            yield
        finally:
            self._slots[job.stage.on].release()

    def _begin(self, job: Job) -> track.StageRun | None:
        """The MLflow run of a stage; parts have none."""
        return None if job.part else self.tracker.stage_run(self.parent, self._info(job))

    def _info(self, job: Job) -> dict[str, Any]:
        return {
            "address": job.address,
            "name": job.stage.name,
            "params": job.stage.values("identity"),
            "tags": {**{f"execution.{k}": v for k, v in job.stage.values("execution").items()}, **self.context.facts},
            "inputs": {name: self._input(step.address) for name, step in job.step.inputs.items()},
        }

    def _place(self, address: str) -> str:
        return redacted(self.store.location(address))

    def _input(self, address: str) -> Mapping[str, Any]:
        return {"address": address, "uri": self.store.location(address), "record": self.store.record(address)}

    def _conclude(self, step: Step, outcome: Outcome, observer: FlowObserver) -> None:
        """What is told once an artifact is there, whoever made it."""
        self.outcomes[step.address] = outcome
        get_run_logger().info("%s is in %s", step.address, self._place(step.address))
        if observer.run is not None:
            files = track.small_files(self.store.fetch(step.address))
            observer.run.finish("FINISHED", numbers=outcome.numbers, files=files)
        else:  # found, or made on another machine
            info = {**self._info(Job(step)), "record": outcome.record}
            self.tracker.cached(self.parent, step.address, info, lambda: self.store.fetch(step.address))
        if step.name == "report":
            text = (self.store.fetch(step.address) / "report.md").read_text(encoding="utf-8")
            text = redacted(text)
            attempt(
                create_markdown_artifact, key=artifact_key(f"scores-{step.label}"), markdown=text, description="scores"
            )
        if step.name == "register":
            entries = json.loads((self.store.fetch(step.address) / "versions.json").read_text("utf-8"))["versions"]
            metric = step.stage.values("identity")["metric"]
            self.tracker.register(f"nanochat-{self.recipe}", entries, self.store, metric)

    def _tell_where(self) -> None:
        """A table of what this run made and found, and where it lies, as an artifact of the flow run."""
        lines = [
            f"MLflow: {redacted(self.where.tracking_uri)}, the run with the tag `{track.PIPELINE} = {self.parent}`",
            "",
        ]
        lines += ["| stage | | where |", "|---|---|---|"]
        for step in self.steps:
            outcome = self.outcomes.get(step.address)
            if outcome is None:
                lines.append(f"| {step.address} | not made | |")
            else:
                became = "cached" if outcome.cached else f"{outcome.seconds:.1f} s"
                lines.append(f"| {step.address} | {became} | {self._place(step.address)} |")
        key = artifact_key(f"nanochat-{self.recipe}")
        attempt(create_markdown_artifact, key=key, markdown="\n".join(lines), description="where everything lies")
