"""What the flow does while a stage works: forwards its numbers, shows its progress, hears of cancellation.

One `FlowObserver` per task. Promises: MLflow, Prefect's artifacts and the terminal see the same rows; none of them can
stop or slow the stage. It starts and decides nothing.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from nanochat.redaction import redacted
from nanochat.workflow.runner import Job, Observer, Outcome

if TYPE_CHECKING:
    from uuid import UUID

    from flows.display import Display
    from flows.track import StageRun

ARTIFACT_SECONDS = 5.0
LOG_SECONDS = 30.0
FORMS = {"loss": "loss {:.4f}", "reward": "reward {:.3f}", "tok_per_s": "{:,.0f} tok/s", "mfu": "MFU {:.1%}"}


def fraction(row: Mapping[str, Any]) -> float | None:
    """How much of the stage is done, between 0 and 1, where the row tells."""
    done, total = (row["done"], row["total"]) if "done" in row else (row.get("step"), row.get("num_steps"))
    return min(done / total, 1.0) if done is not None and total else None


def words(row: Mapping[str, Any]) -> str:
    """A row of metrics as one reads it."""
    if "done" in row:
        whole = f" of {row['total']:,.0f}" if row["total"] else ""  # 0: nobody knows
        return f"{row['done']:,.0f}{whole} {row['unit']}"
    said = [f"step {row['step']}" + (f"/{row['num_steps']}" if "num_steps" in row else "")]
    said += [form.format(row[name]) for name, form in FORMS.items() if name in row]
    if "eta_seconds" in row:
        minutes, seconds = divmod(int(row["eta_seconds"]), 60)
        said.append(f"ETA {minutes}:{seconds:02d}")
    return "  ".join(said)


def artifact_key(name: str) -> str:
    """A name as Prefect wants the keys of artifacts: lower case, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", name.lower())


class FlowObserver(Observer):
    """Stands between one stage's process and Prefect, MLflow and the terminal."""

    def __init__(
        self, stopping: threading.Event, begin: Callable[[Job], StageRun | None], display: Display | None
    ) -> None:
        self.stopping, self.begin, self.display = stopping, begin, display
        self.run: StageRun | None = None
        self.artifact: UUID | None = None
        self.last_artifact = self.last_log = 0.0

    def should_stop(self) -> str | None:
        return "the run was cancelled" if self.stopping.is_set() else None

    def started(self, job: Job) -> None:
        self.run = self.begin(job)
        if self.display:
            self.display.started(job.address)
        if job.part is None:
            key = artifact_key(job.address)
            self.artifact = attempt(create_progress_artifact, progress=0.0, key=key, description=job.address)

    def waiting(self, job: Job, holder: Mapping[str, Any]) -> None:
        if self.display:
            where = f"process {holder.get('pid')} on {holder.get('host')}"
            self.display.said(job.address, f"another run makes it: {where}")

    def rows(self, job: Job, rows: list[dict[str, Any]]) -> None:
        if self.run is not None:
            self.run.forward([row for row in rows if "step" in row])
        row, now = rows[-1], time.monotonic()
        if self.display:
            self.display.progressed(job.address, fraction(row), words(row))
        if now - self.last_log > LOG_SECONDS:
            self.last_log = now
            get_run_logger().info("%s  %s", job.address, words(row))
        if self.artifact and now - self.last_artifact > ARTIFACT_SECONDS:
            self.last_artifact = now
            progress, said = round(100 * (fraction(row) or 0.0), 1), f"{job.address}: {words(row)}"
            attempt(update_progress_artifact, self.artifact, progress=progress, description=said)

    def resuming(self, job: Job, reason: str) -> None:
        get_run_logger().warning("%s  %s", job.address, reason)
        if self.display:
            self.display.said(job.address, reason)

    def finished(self, job: Job, outcome: Outcome) -> None:
        if self.artifact:
            attempt(update_progress_artifact, self.artifact, progress=100.0, description=f"{job.address}: done")
        if self.display:
            self.display.finished(job.address, outcome)

    def failed(self, job: Job, status: Literal["FAILED", "KILLED"], cause: str) -> None:
        if self.run is not None:
            self.run.finish(status, cause=cause)
        if self.display:
            self.display.failed(job.address, redacted(cause.removeprefix(f"{job.address}: ")))


def attempt(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls Prefect's API for something nice to have; a server that is away is told in the log, and that is all."""
    try:
        return call(*args, **kwargs)
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("Prefect's server did not take it: %s", redacted(str(error)))
        return None
