"""One real Prefect server for the whole test session, on a free loopback port with a home of its own.

`prefect_server` is the fixture (conftest.py makes it known, so that all files share one server);
`PrefectServer.environment` is what processes need that run flows. `deployed` is the same server after the commands of
deployments/README.md. This process asks the API and runs no flow. It does not test anything.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.first_use import locked
from flows.loopback import open_url
from flows.server import QUIET, free_port
from tests.paths import ROOT

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State

START_SECONDS = 90.0


@dataclasses.dataclass(frozen=True)
class PrefectServer:
    """A running server."""

    url: str
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**QUIET, "PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home), "OMP_NUM_THREADS": "1"}

    def command(self, *words: str) -> str:
        """What a command of the `prefect` command line prints, run in the checkout."""
        environment = {**os.environ, **self.environment}
        command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, encoding="utf-8"
        ).stdout

    def client(self) -> SyncPrefectClient:
        from prefect.client.orchestration import SyncPrefectClient

        return SyncPrefectClient(api=self.url)

    def run(self, run_id: Any) -> FlowRun:
        with self.client() as client:
            return client.read_flow_run(run_id)

    def latest_run(self) -> FlowRun:
        from prefect.client.schemas.sorting import FlowRunSort

        with self.client() as client:
            return client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)[0]

    def runs_tagged(self, tag: str) -> list[FlowRun]:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags

        with self.client() as client:
            return client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag])))

    def tasks(self, run_id: Any, count: int) -> dict[str, State]:
        """Task run name -> state, of one flow run with that many tasks (they reach the server through events, late)."""

        def settled() -> dict[str, State] | None:
            found = self._tasks(run_id)
            ended = all(state.is_final() or state.name == "NotReady" for state in found.values())
            return found if ended and len(found) == count else None

        return eventually(settled)

    def _tasks(self, run_id: Any) -> dict[str, State]:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

        only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))
        with self.client() as client:
            return {task.name: task.state for task in client.read_task_runs(flow_run_filter=only)}

    def cancel(self, run_id: Any) -> None:
        from prefect.states import Cancelling

        with self.client() as client:
            client.set_flow_run_state(run_id, Cancelling())


def eventually(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Waits until `true()` is; what it returned then."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)
    return found


def _answers(url: str) -> bool:
    try:
        with open_url(f"{url}/health", 5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A `prefect.db` with its tables, once for all workers: making them takes most of a first start."""
    own = tmp_path_factory.getbasetemp()
    home = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "prefect-database"
    home.mkdir(exist_ok=True)
    with locked(home / "lock"):
        if not (home / "whole").exists():
            environment = {**os.environ, **QUIET, "PREFECT_HOME": str(home), "PREFECT_API_URL": ""}
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
            subprocess.run(command, env=environment, capture_output=True, check=True)
            (home / "whole").touch()
    return home / "prefect.db"


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory, empty_database) -> Iterator[PrefectServer]:
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(empty_database, home)
    port = free_port(0)
    server = PrefectServer(f"http://127.0.0.1:{port}/api", home)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **server.environment}, stdout=log, stderr=log)
    try:
        eventually(lambda: _answers(server.url) or process.poll() is not None, START_SECONDS)
        assert process.poll() is None, (home / "server.log").read_text(encoding="utf-8")[-3000:]
        yield server
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="session")
def deployed(prefect_server: PrefectServer) -> PrefectServer:
    text = (ROOT / "deployments" / "README.md").read_text(encoding="utf-8")
    block = text.split("## Once per server")[1].split("```")[1]
    for line in block.strip().splitlines():
        prefect_server.command(*line.removeprefix("prefect ").replace("--no-prompt ", "").split())
    return prefect_server
