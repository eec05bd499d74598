"""Runs, numbers and model versions in MLflow; the only file that knows mlflow.

Promises: MLflow being away or slow never stops or slows anything: every call is queued (outbox.py) and comes back at
once; one logical run is one MLflow run across restarts, found again by its pipeline id or address; no step stands
twice, however often rows are sent; the final status is the true one. What could not be sent is sent by the next run,
from the record and metrics.jsonl; no secret of a URL is sent. An SQLite file is made whole or not at all. It keeps no
truth of its own, and knows nothing of versions (registry.py).
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from flows import first_use, gate, plots, service_log
from flows.outbox import Outbox, Refused, Unavailable
from flows.registry import Registry
from flows.tracking_uri import artifacts_beside, database_of, surround
from nanochat.artifacts import metrics
from nanochat.artifacts.digest import digest
from nanochat.artifacts.store import Damaged, Store
from nanochat.redaction import redacted

Status = Literal["FINISHED", "FAILED", "KILLED"]
ADDRESS, PIPELINE, SENT = "nanochat.address", "nanochat.pipeline", "nanochat.sent"
BATCH = 900  # MLflow takes 1000 metrics, parameters and tags together
MAX_TAG = 5000
CLOSE_SECONDS = 30.0
TRANSIENT = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}
# Of an HTTP answer without MLflow's JSON: somebody before it, or another server. It may be set right while we wait.
NOT_OF_MLFLOW = {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "ENDPOINT_NOT_FOUND"}


class Tracker:
    """One pipeline run's line to MLflow. Nothing here waits, `close` excepted."""

    def __init__(self, tracking_uri: str, experiment: str = "nanochat") -> None:
        self.tracking_uri, self.experiment = tracking_uri, experiment
        self.outbox = Outbox(f"MLflow at {redacted(tracking_uri)}", self._answers)
        self._client: Any = None
        self._experiment_id = ""
        self._pipelines: dict[str, Run] = {}

    def pipeline_run(self, pipeline_id: str, recipe: str, tags: Mapping[str, Any]) -> str:
        """Opens the parent run, or the same one again on a retry. Returns its key, for `stage_run` in any process."""
        key = pipeline_id or uuid.uuid4().hex
        run = self._pipelines[key] = Run(self, PIPELINE, key, recipe)
        run.open({"nanochat.recipe": recipe, **tags})
        return key

    def stage_run(self, parent: str, info: Mapping[str, Any]) -> StageRun:
        """Opens the run of a stage: {address, name, params, tags, inputs: name -> {address, uri, record}}."""
        run = StageRun(self, ADDRESS, info["address"], info["name"], self._pipeline(parent))
        run.open(info["tags"], info["params"], info["inputs"])
        return run

    def cached(
        self, parent: str, address: str, info: Mapping[str, Any] | None = None, files: Callable[[], Path] | None = None
    ) -> None:
        """Notes in the parent that a stage was found made.

        Where `info` (as in `stage_run`, with the `record`) and `files` (fetches the artifact) are given and MLflow has
        no finished run of that address, because it was away, the run is written now.
        """
        pipeline = self._pipeline(parent)
        pipeline.tag(f"nanochat.cached.{address.split('/')[0]}", address)
        if info is not None and files is not None:
            run = StageRun(self, ADDRESS, address, info["name"], pipeline)
            self.send(lambda: run.replay(info, files))

    def finish_pipeline(self, status: Status, cause: str = "") -> None:
        """The final status of the parent run."""
        for run in self._pipelines.values():
            run.finish(status, cause)

    def register(
        self, model: str, versions: Sequence[Mapping[str, Any]], store: Store, metric: str = "chatcore"
    ) -> Future:
        """One model version per entry {address, stage, metrics, digest}; @candidate is the last, @champion by the gate.

        The future holds the gate's Verdict; nobody has to wait for it.
        """
        entries = [gate.Version(v["address"], v["stage"], v["metrics"], v["digest"]) for v in versions]
        return self.send(lambda: Registry(self.client, model, store, self._run_of).enter(entries, metric))

    def close(self, seconds: float = CLOSE_SECONDS) -> int:
        """Waits until everything is sent, at most so long. Returns how many deliveries were left out."""
        return self.outbox.close(seconds)

    def send(self, job: Callable[[], Any]) -> Future[Any]:
        """Queues what is to be done with MLflow."""
        return self.outbox.put(lambda: self._guarded(job))

    def _pipeline(self, key: str) -> Run:
        return self._pipelines.get(key) or Run(self, PIPELINE, key, "")

    def _guarded(self, job: Callable[[], Any]) -> Any:
        """Sorts MLflow's failures into those that pass and those that stay."""
        surround()
        from alembic.util import CommandError
        from mlflow.exceptions import MlflowException, RestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return job()
        except MlflowException as error:
            transient = TRANSIENT if isinstance(error, RestException) else TRANSIENT | NOT_OF_MLFLOW
            raise (Unavailable if error.error_code in transient else Refused)(self._said(error)) from error
        except (OSError, SQLAlchemyError, CommandError) as error:  # requests' errors are OSErrors
            raise Unavailable(self._said(error)) from error

    def _said(self, error: Exception) -> str:
        """The first line of an error, without secrets, and what to do."""
        cause = redacted(str(error).strip() or type(error).__name__).splitlines()[0][:300]
        database = database_of(self.tracking_uri)
        remedy = service_log.remedy("MLflow", cause, database) if database else ""
        return f"{cause}; {remedy}" if remedy else cause

    def _answers(self) -> bool:
        """Whether MLflow is there at all: what it then fails to take again and again is dropped."""
        try:
            self._guarded(lambda: self.client.search_experiments(max_results=1))
        except (Unavailable, Refused):
            return False
        return True

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """What MLflow's client answers, now and on this thread. Raises Unavailable, or Refused, with the reason."""
        return self._guarded(lambda: question(self.client))

    @property
    def client(self) -> Any:
        """MLflow's client; on the outbox's thread, or of who only asks."""
        if self._client is None:
            from mlflow import MlflowClient

            prepare(self.tracking_uri)
            self._client = MlflowClient(self.tracking_uri, registry_uri=self.tracking_uri)
        return self._client

    @property
    def experiment_id(self) -> str:
        """The experiment's, made where there is none; on the outbox's thread only."""
        if not self._experiment_id:
            self._experiment_id = self._known_experiment() or self._new_experiment()
        return self._experiment_id

    def _known_experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        return found.experiment_id if found else ""

    def _new_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        try:
            database = database_of(self.tracking_uri)  # has no server: a folder beside it, not the working directory
            return self.client.create_experiment(self.experiment, artifacts_beside(database) if database else None)
        except MlflowException:
            made = self._known_experiment()  # by another run at the same moment
            if not made:
                raise
            return made

    def _run_of(self, address: str) -> str:
        """The run of an artifact; an empty one where it was made while MLflow was away."""
        found = self.find(ADDRESS, address)
        if found:
            return found.info.run_id
        run_id = Run(self, ADDRESS, address, address).ensure()
        self.client.set_terminated(run_id)
        return run_id

    def find(self, key: str, value: str) -> Any:
        """The newest MLflow run with this tag, or None."""
        wanted = f"tags.`{key}` = '{value}'"
        found = self.client.search_runs([self.experiment_id], wanted, max_results=1, order_by=["start_time DESC"])
        return found[0] if found else None


class Run:
    """One MLflow run, found again by a tag."""

    def __init__(self, tracker: Tracker, key: str, value: str, name: str, parent: Run | None = None) -> None:
        self.tracker, self.key, self.value, self.name, self.parent = tracker, key, value, name, parent
        self.id = ""
        self.sent: dict[str, int] = {}  # metric -> last step that MLflow has

    def open(self, tags: Mapping[str, Any], params: Mapping[str, Any] = {}, inputs: Mapping[str, Any] = {}) -> None:
        """Starts the run, or goes on with the one that did not finish."""
        self.tracker.send(lambda: self._open(dict(tags), dict(params), dict(inputs)))

    def tag(self, name: str, value: Any) -> None:
        """Sets one tag."""
        self.tracker.send(lambda: self.tracker.client.set_tag(self.ensure(), name, _text(value)))

    def finish(self, status: Status, cause: str | None = None) -> None:
        """Sets the final status; the cause of a failure is a tag."""
        ended = int(time.time() * 1000)
        self.tracker.send(lambda: self._close(status, cause, ended))

    def ensure(self) -> str:
        """The run's id, of a new run where MLflow has none."""
        if not self.id:
            found = self.tracker.find(self.key, self.value)
            self.id = found.info.run_id if found else self._create()
            self.sent = json.loads(found.data.tags.get(SENT) or "{}") if found else {}
        return self.id

    def _create(self) -> str:
        tags = {self.key: self.value, **({"mlflow.parentRunId": self.parent.ensure()} if self.parent else {})}
        client = self.tracker.client
        return client.create_run(self.tracker.experiment_id, tags=tags, run_name=self.name or None).info.run_id

    def _open(self, tags: dict[str, Any], params: dict[str, Any], inputs: dict[str, Any]) -> None:
        client, found = self.tracker.client, self.tracker.find(self.key, self.value)
        if found and found.info.status == "FINISHED" and self.parent and not self.id:
            self.id, self.sent = self._create(), {}  # made again on request: a run of its own
        run_id = self.ensure()
        if found and found.info.run_id == run_id and found.info.status != "RUNNING":
            client.update_run(run_id, status="RUNNING")
            if "nanochat.cause" in found.data.tags:
                client.delete_tag(run_id, "nanochat.cause")
        if self.parent:
            tags["mlflow.parentRunId"] = self.parent.ensure()
        _log(client, run_id, tags=tags, params=params)
        if inputs:
            client.log_inputs(run_id, [_dataset(name, **each) for name, each in inputs.items()])

    def _close(self, status: Status, cause: str | None, ended: int) -> None:
        client, run_id = self.tracker.client, self.ensure()
        if cause:
            client.set_tag(run_id, "nanochat.cause", _text(cause))
        client.set_terminated(run_id, status, ended)


class StageRun(Run):
    """The run of one stage: also its numbers, figures and small files."""

    def __init__(self, tracker: Tracker, key: str, value: str, name: str, parent: Run) -> None:
        super().__init__(tracker, key, value, f"{name} {value.split('/')[-1]}", parent)
        self._waiting: list[dict[str, Any]] = []
        self._outgoing: list[dict[str, Any]] = []  # of the outbox's thread; what was dropped goes with the next batch
        self._rows: dict[int, dict[str, Any]] = {}  # by step, for the figures
        self._mutex, self._lost = threading.Lock(), False

    def forward(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of metrics.jsonl, in any number, also again; sent in batches, as fast as MLflow takes them."""
        with self._mutex:
            queued = bool(self._waiting)
            self._waiting += [dict(row) for row in rows if "step" in row]
            if not queued and self._waiting:
                self.tracker.send(self._send_waiting)

    def finish(
        self,
        status: Status,
        cause: str | None = None,
        numbers: Mapping[str, float] = {},
        files: Iterable[Path] = (),
    ) -> None:
        """The end of the stage: final numbers (at its last step), figures, small text files, status."""
        texts = _texts(files)
        now = time.time()
        self.tracker.send(self._send_waiting)
        for job in (lambda: self._send_numbers(numbers, now), lambda: self._send_files(texts)):
            self.tracker.send(job).add_done_callback(self._heed)
        super().finish(status, cause)

    def replay(self, info: Mapping[str, Any], files: Callable[[], Path]) -> None:
        """Writes the run of a stage that was made while MLflow was away; nothing, if it is there."""
        found = self.tracker.find(self.key, self.value)
        if found and found.info.status == "FINISHED" and found.data.tags.get(SENT):
            return
        try:
            where, record = files(), info["record"]
        except (KeyError, Damaged) as error:  # forgotten or broken since: whoever needs it will say so
            raise Refused(f"{self.value} cannot be told: {error}") from error
        self.id = found.info.run_id if found else ""
        self._open(dict(info["tags"]), dict(info["params"]), dict(info["inputs"]))
        self._send([row for row in metrics.read(where / metrics.FILE) if "step" in row])
        there = found.data.metrics if found else {}
        self._send_numbers({k: v for k, v in record["numbers"].items() if k not in there}, record["finished"])
        self._send_files(_texts(small_files(where)))
        self._close("FINISHED", None, int(record["finished"] * 1000))

    def _heed(self, delivery: Future[Any]) -> None:
        self._lost = self._lost or delivery.exception() is not None

    def _send_waiting(self) -> None:
        with self._mutex:
            self._outgoing += self._waiting
            self._waiting.clear()
        if self._outgoing:
            self._send(self._outgoing)
            self._outgoing.clear()

    def _close(self, status: Status, cause: str | None, ended: int) -> None:
        if self._outgoing or (self._lost and status == "FINISHED"):  # refused to the end: `replay` sends them
            self.tracker.client.set_tag(self.ensure(), SENT, "")
        super()._close(status, cause, ended)

    def _send(self, rows: list[dict[str, Any]]) -> None:
        """Sends what is newer than what MLflow has: a step that an attempt repeats after a resume stands once."""
        from mlflow.entities import Metric, RunTag

        run_id, fresh, sent = self.ensure(), [], dict(self.sent)
        for row in rows:
            step = row["step"]
            self._rows.setdefault(step, {}).update(row)
            for name, value in row.items():
                if name in ("step", "time") or type(value) not in (int, float) or sent.get(name, -1) >= step:
                    continue
                fresh.append(Metric(name, float(value), int(row.get("time", 0.0) * 1000), step))
                sent[name] = step
        for start in range(0, max(1, len(fresh)), BATCH):
            done = [RunTag(SENT, json.dumps(sent))] if start + BATCH >= len(fresh) else []
            self.tracker.client.log_batch(run_id, metrics=fresh[start : start + BATCH], tags=done)
        self.sent = sent

    def _send_numbers(self, numbers: Mapping[str, float], when: float) -> None:
        self.ensure()
        last = max(self.sent.values(), default=0)
        self._send([{**numbers, "step": last, "time": when}])

    def _send_files(self, texts: Mapping[str, str]) -> None:
        client, run_id = self.tracker.client, self.ensure()
        for name, text in texts.items():
            client.log_text(run_id, text, name)
        tasks = json.loads(texts["scores.json"])["tasks"] if "scores.json" in texts else {}
        rows = [self._rows[step] for step in sorted(self._rows)]
        figures = {"curves.png": plots.curves(rows, self.value), "scores.png": plots.scores(tasks, self.value)}
        for name, figure in figures.items():
            if figure is not None:
                client.log_figure(run_id, figure, name)


def prepare(tracking_uri: str) -> None:
    """Makes the file of an SQLite address, unless it is there whole. Raises what MLflow raises."""
    database = database_of(tracking_uri)
    if database is not None:
        first_use.made_whole(database, "experiments", _make_database)  # the experiment `Default` is made last


def _make_database(database: Path) -> None:
    surround()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy.engine import URL

    uri = URL.create("sqlite", database=str(database)).render_as_string(hide_password=False)
    SqlAlchemyStore(uri, artifacts_beside(database)).engine.dispose()


def small_files(artifact: Path) -> list[Path]:
    """What people want to read beside the numbers."""
    return [artifact / name for name in ("samples.md", "scores.json", "report.md") if (artifact / name).is_file()]


def _texts(files: Iterable[Path]) -> dict[str, str]:
    return {path.name: redacted(path.read_text(encoding="utf-8", errors="replace")) for path in files}


def _text(value: Any) -> str:
    """A tag's value as MLflow takes it."""
    return redacted(str(value))[:MAX_TAG]


def _log(client: Any, run_id: str, tags: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param, RunTag

    pairs = [RunTag(name, _text(value)) for name, value in tags.items()]
    knobs = [Param(name, redacted(str(value))) for name, value in params.items()]
    for start in range(0, max(len(pairs), len(knobs)), 100):
        client.log_batch(run_id, tags=pairs[start : start + 100], params=knobs[start : start + 100])


def _dataset(name: str, address: str, uri: str, record: Mapping[str, Any] | None) -> Any:
    """An input as MLflow knows it: named by its address, with a digest of its contents (not of when it was made)."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    files = (record or {}).get("files", {})
    contents = digest({file: entry["sha256"] for file, entry in files.items() if file != metrics.FILE})[:36]
    dataset = Dataset(address, contents, "nanochat", json.dumps({"uri": redacted(uri)}))
    return DatasetInput(dataset, [InputTag("mlflow.data.context", name)])
