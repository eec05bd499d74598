"""Makes one step of a plan, or finds it made: what both runners (the plain loop and the Prefect flow) do per stage.

Promises: an address that lies whole in the store is never made again; one maker at a time; a stage that died continues
in its work directory; an artifact is published only when its process ended well and every file is there. It does not
order the steps (plan.py) and does not know who watches.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from nanochat.artifacts import metrics, provenance
from nanochat.artifacts.lease import TTL_SECONDS, Lease
from nanochat.artifacts.mirror import Mirror
from nanochat.artifacts.store import Damaged, Store
from nanochat.redaction import bare
from nanochat.workflow import launch, out_of_memory
from nanochat.workflow.launch import RESUME_EXIT_CODE
from nanochat.workflow.plan import Part, Step
from nanochat.workflow.stage import Stage

MAX_RESUMES = 20


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a step: its record, and whether it was found or made."""

    address: str
    record: Mapping[str, Any]
    cached: bool
    seconds: float
    note: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        return dict(self.record.get("numbers", {}))


class Observer:
    """Who looks on. All methods do nothing here; runners override what they need."""

    def started(self, job: Job) -> None:
        """The lease is ours and work begins (or goes on)."""

    def waiting(self, job: Job, holder: Mapping[str, Any]) -> None:
        """Another run is making the same address."""

    def rows(self, job: Job, rows: list[dict[str, Any]]) -> None:
        """New lines of the stage's metrics file."""

    def should_stop(self) -> str | None:
        """A text is the reason to stop."""
        return None

    def resuming(self, job: Job, reason: str) -> None:
        """The stage's process failed and is started again, otherwise."""

    def finished(self, job: Job, outcome: Outcome) -> None:
        """The artifact lies whole in the store."""

    def failed(self, job: Job, status: Literal["FAILED", "KILLED"], cause: str) -> None:
        """It does not."""


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Where work is done: the store, the directory for work and logs, and what goes into every record."""

    store: Store
    home: Path
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # git, lock, ids of the orchestrator
    force: frozenset[str] = frozenset()  # stages to make again although they are there
    grace_seconds: float = launch.GRACE_SECONDS
    lease_seconds: float = TTL_SECONDS
    prepare: Callable[[Job, Path], None] | None = None  # what the stage's process cannot fetch itself


@dataclasses.dataclass(frozen=True)
class Job:
    """One artifact to make: a whole stage, or one part of a mapped one."""

    step: Step
    part: Part | None = None

    @property
    def address(self) -> str:
        return self.part.address if self.part else self.step.address

    @property
    def preimage(self) -> Mapping[str, Any]:
        return self.part.preimage if self.part else self.step.preimage

    @property
    def stage(self) -> Stage:
        return self.step.stage


def jobs(step: Step) -> tuple[list[Job], Job]:
    """The parts of a step, which may be made side by side, and the whole, which needs them all."""
    return [Job(step, part) for part in step.parts], Job(step)


def run_job(job: Job, context: RunContext, observer: Observer) -> Outcome:
    """Finds the artifact or makes it.

    Raises:
        launch.StageFailed: the stage's process failed; the message is the cause.
        launch.Stopped: `observer.should_stop` or a lost lease ended it; it goes on where it was next time.
    """
    begun = time.monotonic()
    while True:
        forced = job.stage.name in context.force and not _made_since(job, context)
        if not forced and (found := find(job, context.store)) is not None:
            return found
        lease = Lease(context.store, job.address, ttl=context.lease_seconds)
        if not _acquire(lease, job, context, observer, forced):
            continue  # somebody else has just made it
        try:
            if not forced and (found := find(job, context.store)) is not None:  # made between our look and our lease
                shutil.rmtree(work_directory(context.home, job.address), ignore_errors=True)
                return found
            with _alone_in(work_directory(context.home, job.address), observer):
                outcome = _make(job, context, observer, lease, begun, forced)
        finally:
            lease.release()
        observer.finished(job, outcome)
        return outcome


def _acquire(lease: Lease, job: Job, context: RunContext, observer: Observer, forced: bool) -> bool:
    """True with the lease in hand; False once another run has made the artifact."""

    def waiting(holder: dict[str, Any]) -> None:
        observer.waiting(job, holder)
        if (reason := observer.should_stop()) is not None:
            raise launch.Stopped(reason)

    return lease.acquire(lambda: not forced and context.store.record(job.address) is not None, waiting)


@contextmanager
def _alone_in(work: Path, observer: Observer) -> Iterator[None]:
    """The work directory belongs to one process: two stores give two leases for what is one directory here."""
    work.mkdir(parents=True, exist_ok=True)
    with (work.parent / f".{work.name}.lock").open("w", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if (reason := observer.should_stop()) is not None:
                    raise launch.Stopped(reason) from None
                time.sleep(0.2)
        yield


def _made_since(job: Job, context: RunContext) -> bool:
    """A forced stage that this very run has already made (its retry must not make it twice)."""
    record = context.store.record(job.address)
    run = context.facts.get("pipeline_run")
    return record is not None and run is not None and record.get("facts", {}).get("pipeline_run") == run


def find(job: Job, store: Store) -> Outcome | None:
    """The artifact, if it is there. ValueError: the address holds something else (two digests that begin alike)."""
    record = store.record(job.address)
    if record is None:
        return None
    if record["preimage"] != json.loads(json.dumps(job.preimage)):
        raise ValueError(f"{job.address} in {store.uri} was made of something else: change a knob, or bump the version")
    changed = provenance.changed(record.get("code", {}))
    others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    note = f"made by other code: {changed[0]}{others} changed since" if changed else ""
    return Outcome(job.address, record, cached=True, seconds=0.0, note=note)


def work_directory(home: Path, address: str) -> Path:
    """Where a stage works; it survives attempts and goes when the artifact is whole."""
    return home / "work" / address


def _make(job: Job, context: RunContext, observer: Observer, lease: Lease, begun: float, forced: bool) -> Outcome:
    work = work_directory(context.home, job.address)
    observer.started(job)
    try:
        if context.prepare is not None:
            context.prepare(job, work)
        mirrored = job.stage.values("execution").get("mirror_checkpoints", False)
        mirror = Mirror(context.store, job.address, work, lease.token) if mirrored else None
        if mirror is not None:
            mirror.restore()
        with nullcontext() if mirror is None else mirror.following():
            result = _attempts(job, context, observer, lease, work)
        standing = _publish(job, context, lease, work, result, begun, forced)
        if mirror is not None:
            mirror.forget()
    except launch.Stopped as stop:
        observer.failed(job, "KILLED", str(stop))
        raise
    except launch.StageFailed as failure:
        observer.failed(job, "FAILED", str(failure))
        raise
    except Exception as error:
        observer.failed(job, "FAILED", f"{job.address}: {type(error).__name__}: {error}")
        raise
    shutil.rmtree(work)
    return Outcome(job.address, standing, cached=False, seconds=time.monotonic() - begun)


def _publish(
    job: Job, context: RunContext, lease: Lease, work: Path, result: Mapping[str, Any], begun: float, forced: bool
) -> dict[str, Any]:
    """Puts the files of the finished process into the store; nothing, if the lease has gone to somebody else."""

    def confirm() -> None:
        if not lease.confirm():
            raise launch.Stopped(f"the lease of {job.address} was lost to another run")

    record = {
        "preimage": job.preimage,
        "execution": bare(job.stage.values("execution")),
        "parts": [part.address for part in job.step.parts] if job.part is None else [],
        "numbers": result["numbers"],
        "code": result["code"],
        "versions": result["versions"],
        "arithmetic": result["arithmetic"],
        "facts": dict(context.facts),
        "fencing_token": lease.token,
        "finished": time.time(),
        "seconds": round(time.monotonic() - begun, 3),
    }
    if (work / metrics.FILE).exists():  # a copy: the store may link what it is given
        shutil.copyfile(work / metrics.FILE, work / "out" / metrics.FILE)
    files = {path.name: path for path in sorted((work / "out").iterdir()) if path.is_file()}
    confirm()
    if forced:  # only now: what is there serves others until there is something better
        context.store.forget(job.address)
    return context.store.publish(job.address, files, record, confirm)


def _attempts(job: Job, context: RunContext, observer: Observer, lease: Lease, work: Path) -> dict[str, Any]:
    """Runs the stage's process until it is done; one that asks to be resumed is started again."""
    logs = context.home / "logs" / job.address
    for _ in range(MAX_RESUMES):
        try:
            spec = _spec(job, context, work)
        except (KeyError, Damaged) as error:
            raise launch.StageFailed(f"{job.address}: an input is gone or damaged: {error}") from error
        process = launch.Process(spec, getattr(job.stage, "num_ranks", 1), logs, mark=str(work.absolute()))
        follower = metrics.Follower(work / metrics.FILE)

        def tick(follower: metrics.Follower = follower) -> str | None:
            if rows := follower.rows():
                observer.rows(job, rows)
            if lease.lost.is_set():
                return f"the lease of {job.address} was lost to another run"
            return observer.should_stop()

        try:
            code = launch.run(process, tick, grace=context.grace_seconds)
        finally:
            spec.unlink(missing_ok=True)
        if code == 0:
            return _result(job, work)
        if code != RESUME_EXIT_CODE and not (work / launch.RESUME).exists():
            said = launch.read_error(work)
            if reason := out_of_memory.halve(said, _knobs(job), work):
                observer.resuming(job, reason)
                continue
            cause = launch.cause(code, said, logs / "stage.log")
            raise launch.StageFailed(f"{job.address}: {cause}")
    raise launch.StageFailed(f"{job.address}: was interrupted {MAX_RESUMES} times in a row: look at {logs}")


def _result(job: Job, work: Path) -> dict[str, Any]:
    names = job.stage.makes if job.part is None else ()
    missing = [name for name in names if not (work / "out" / name).is_file()]
    if missing:
        raise launch.StageFailed(f"{job.address}: ended well without making {', '.join(missing)}")
    return json.loads((work / "result.json").read_text(encoding="utf-8"))


def _knobs(job: Job) -> dict[str, Any]:
    return {**job.stage.values("identity"), **job.stage.values("execution")}


def _spec(job: Job, context: RunContext, work: Path) -> Path:
    """Writes spec.json for the stage's process, with its inputs fetched and an empty directory for its files."""
    for stale in (work / "out", work / "result.json", work / launch.RESUME, *work.glob("error*.json")):
        if stale.is_dir():
            shutil.rmtree(stale)
        else:
            stale.unlink(missing_ok=True)
    (work / "out").mkdir()
    inputs, parts = {}, {}
    for name, step in job.step.inputs.items():
        if job.part is not None and step.parts:
            inputs[name] = str(context.store.fetch(step.parts[job.part.index].address).absolute())
        else:
            inputs[name] = str(context.store.fetch(step.address).absolute())
            parts[name] = [str(context.store.fetch(part.address).absolute()) for part in step.parts]
    if job.part is None and job.step.parts:
        parts[job.stage.name] = [str(context.store.fetch(part.address).absolute()) for part in job.step.parts]
    spec = {
        "stage": job.stage.name,
        "address": job.address,
        "part": job.part.index if job.part else None,
        "gather": job.part is None and job.stage.mapped,
        "knobs": out_of_memory.bounded(_knobs(job), work),
        "inputs": inputs,
        "parts": parts,
        "addresses": {name: step.address for name, step in job.step.inputs.items()},
        "work": str(work.absolute()),
    }
    path = work / "spec.json"
    path.touch()
    path.chmod(0o600)  # for nobody else: it holds whole URLs, and goes when the process has ended
    path.write_text(json.dumps(spec, indent=1), encoding="utf-8")
    return path


def run_plan(steps: Iterable[Step], context: RunContext, observer: Observer) -> list[Outcome]:
    """The plain runner: every step in order, in this process's company, without any orchestrator."""
    outcomes = []
    for step in steps:
        parts, whole = jobs(step)
        if (found := find(whole, context.store)) is None or step.name in context.force:
            for part in parts:
                run_job(part, context, observer)
            found = run_job(whole, context, observer)
        outcomes.append(found)
    return outcomes
