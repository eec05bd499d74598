"""What all tasks of one pipeline run share: store, tracking, display, slots, and how one artifact is made with them.

Promises: GPU stages of one machine run one after another; a stage's numbers reach MLflow whether it was made here or
on another pool; tracking never stops a stage. The order of the tasks is the flow's business.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

from prefect.artifacts import create_markdown_artifact

from flows import corpus_fetch, display, remote, store, track
from flows.settings import Settings
from flows.watch import FlowWatch, attempt
from nanochat.launch import Stopped
from nanochat.plan import Step
from nanochat.runner import Job, Outcome, Workshop, find, git_facts, perform
from nanochat.store import Store

DISPLAY: list[display.Display] = []  # the terminal of the command that runs the flow in its own process, if any


@dataclasses.dataclass
class PipelineRun:
    """One run of a plan."""

    recipe: str
    settings: list[str]
    steps: dict[str, Step]
    where: Settings
    store: Store
    force: frozenset[str]
    gpu_deployment: str
    stopping: threading.Event = dataclasses.field(default_factory=threading.Event)
    shop: Workshop | None = None
    tracker: track.Tracker | None = None
    flow_run_id: str = ""
    parent: str = ""
    owns_parent: bool = True

    @classmethod
    @contextmanager
    def opened(
        cls, recipe: str, settings: list[str], steps: list[Step], where: Settings, force: frozenset[str], gpu: str
    ) -> Iterator[Self]:
        """The run with its store open; tracking is flushed in the end, whatever happens."""
        opened = store.open_store(where.store, where.home / "cache", cache_bytes=where.cache_bytes)
        run = cls(recipe, settings, {step.name: step for step in steps}, where, opened, force, gpu)
        run._jobs = {job.address: job for step in steps for job in (Job(step), *(Job(step, p) for p in step.parts))}
        run._gpu, run._cpu = threading.Semaphore(1), threading.Semaphore(max(1, os.cpu_count() or 1))
        try:
            yield run
        finally:
            if run.tracker is not None:
                run.tracker.close()

    def start(self, flow_run_id: str, *, grace_seconds: float, tracking_parent: str = "") -> None:
        """Opens the MLflow run of the pipeline (or joins the one that is given)."""
        facts = {**git_facts(self.where.checkout), "pipeline_run": flow_run_id, "recipe": self.recipe}
        self.shop = Workshop(
            self.store, self.where.home, facts, self.force, grace_seconds, prepare=corpus_fetch.fetch
        )
        self.tracker = track.Tracker(self.where.tracking_uri)
        self.flow_run_id, self.owns_parent = flow_run_id, not tracking_parent
        self.parent = tracking_parent or self.tracker.pipeline_run(
            flow_run_id, self.recipe, {"prefect.flow_run_id": flow_run_id, "nanochat.settings": " ".join(self.settings), **facts}
        )

    def job(self, address: str) -> Job:
        """The artifact of an address."""
        return self._jobs[address]

    def settings_for_workers(self) -> list[str]:
        """The settings with what this machine resolved written out, so that every worker finds the same addresses."""
        resolved = {
            f"{name}.{knob}={value}"
            for name, step in self.steps.items()
            for knob, value in step.stage.values("identity").items()
            if value != getattr(type(step.stage)(), knob) and value != ""
        }
        return [*self.settings, *sorted(resolved)]

    def is_missing(self, step: Step) -> bool:
        """Whether the step has to be made."""
        return step.name in self.force or find(Job(step), self.store) is None

    def make(self, job: Job) -> Outcome:
        """Finds one artifact or makes it, here or on the GPU pool."""
        assert self.shop is not None, "start() comes first"
        watch = FlowWatch(self.stopping, self._begin, DISPLAY[-1] if DISPLAY else None)
        found = None if job.stage.name in self.force else find(job, self.store)
        if found is None:
            if self.gpu_deployment and job.stage.on == "gpu":
                outcome = remote.make(self, job, watch)
            else:
                with self._slot(job):
                    outcome = perform(job, self.shop, watch)
        else:
            outcome = found
        if outcome.cached and watch.display and (job.part is None):
            watch.display.finished(job.address, outcome)
        if job.part is None:
            self._conclude(job.step, outcome, watch)
        return outcome

    @contextmanager
    def _slot(self, job: Job) -> Iterator[None]:
        slots = self._gpu if job.stage.on == "gpu" else self._cpu
        while not slots.acquire(timeout=0.5):
            if self.stopping.is_set():
                raise Stopped("the run was cancelled")
        try:
            yield
        finally:
            slots.release()

    def _begin(self, job: Job) -> track.StageRun | None:
        """The MLflow run of a stage; parts have none."""
        if job.part is not None or self.tracker is None:
            return None
        return self.tracker.stage_run(self.parent, self._info(job))

    def _info(self, job: Job) -> dict[str, Any]:
        return {
            "address": job.address,
            "name": job.stage.name,
            "params": job.stage.values("identity"),
            "tags": {**{f"execution.{k}": v for k, v in job.stage.values("execution").items()}, **self.shop.facts},
            "inputs": self._inputs(job.step),
        }

    def _inputs(self, step: Step) -> Mapping[str, Any]:
        return {
            name: {"address": each.address, "uri": self.store.location(each.address), "record": self.store.record(each.address)}
            for name, each in step.inputs.items()
        }

    def _conclude(self, step: Step, outcome: Outcome, watch: FlowWatch) -> None:
        """What is told once an artifact is there, whoever made it."""
        assert self.tracker is not None
        if watch.run is not None:
            files = track.small_files(self.store.fetch(step.address))
            watch.run.finish("FINISHED", numbers=outcome.numbers, files=files)
        else:  # found, or made on another machine
            info = {**self._info(Job(step)), "record": outcome.record}
            self.tracker.cached(self.parent, step.address, info, lambda: self.store.fetch(step.address))
        if step.name == "report":
            text = (self.store.fetch(step.address) / "report.md").read_text()
            key = step.address.replace("/", "-").replace("_", "-").replace(".", "-").lower()
            attempt(create_markdown_artifact, key=key, markdown=text, description="scores of all stages")
        if step.name == "register":
            self._register(step)

    def _register(self, step: Step) -> None:
        versions = json.loads((self.store.fetch(step.address) / "versions.json").read_text())
        metric = step.stage.values("identity")["metric"]
        self.tracker.register(f"nanochat-{self.recipe}", versions["versions"], self.store, metric)

    def end(self, status: str, cause: str) -> None:
        """Closes the MLflow run of the pipeline."""
        if self.tracker is not None and self.owns_parent:
            self.tracker.finish_pipeline(status, cause)
