"""A home directory in which a recipe (`micro`) runs through Prefect, and what tests ask about it.

`made` is one in which a first run made everything (once a session), `home` a copy of it. conftest.py makes the fixtures
known. It does not test anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from nanochat.artifacts import metrics
from nanochat.artifacts.store import FileStore
from nanochat.recipes import apply, stages_of
from nanochat.workflow import launch
from nanochat.workflow.plan import plan
from nanochat.workflow.runner import work_directory
from tests import toy_corpus
from tests.paths import ROOT
from tests.prefect_server import eventually


class FlowHome:
    """A home directory, what runs in it, and what is asked about it."""

    def __init__(self, path, settings, server, recipe="micro"):
        self.path, self.settings, self.server, self.recipe = path, settings, server, recipe
        self.store = FileStore(path / "store")
        self.log = path / "cli.log"

    def steps(self, *more, only=()):
        return {step.name: step for step in plan(apply(stages_of(self.recipe), [*self.settings, *more]), only)}

    def start(self, *more, only="", url=""):
        """`nanochat run RECIPE`."""
        environment = {**os.environ, **self.server.environment, "NANOCHAT_HOME": str(self.path)}
        environment |= {"PREFECT_API_URL": url} if url else {}
        command = [sys.executable, "-m", "flows.cli", "run", self.recipe, *self.settings, *more]
        command += ["--only", only] if only else []
        with self.log.open("wb") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def run(self, *more, only=""):
        """The same to the end; the flow run."""
        self.start(*more, only=only).wait(200)
        return self.said()

    def said(self):
        """The flow run that the command named at its end."""
        text = self.log.read_text(encoding="utf-8")
        named = re.search(r"flow-run/([0-9a-f-]{36})", text)
        assert named, text
        return self.server.run(named[1])

    def at_work(self, process, address, steps=3):
        """Waits until a stage has made some steps; the mark of its processes."""
        work = work_directory(self.path, address)

        def stepping():
            assert process.poll() is None, self.log.read_text(encoding="utf-8")
            return len(list(metrics.read(work / metrics.FILE))) >= steps and launch.marked(str(work))

        eventually(stepping)
        return str(work)

    def is_free(self, address):
        return json.loads(self.store.get(f"leases/{address}.json")[0])["released"]

    def states(self, run, steps, parts=0):
        """Stage -> the state of its task (parts under their address)."""
        names = {step.address: name for name, step in steps.items()}
        return {names.get(task, task): state for task, state in self.server.tasks(run.id, len(steps) + parts).items()}

    def tracked(self, address):
        """Status and tags of the MLflow runs of an artifact or of a flow run, newest first."""
        runs = (
            "SELECT r.run_uuid, r.status FROM runs r JOIN tags t USING (run_uuid) "
            "WHERE t.key IN ('nanochat.address', 'nanochat.pipeline') AND t.value = ? ORDER BY r.start_time DESC"
        )
        with closing(sqlite3.connect(self.path / "mlflow.db")) as database:
            found = database.execute(runs, (str(address),)).fetchall()
            tags = "SELECT key, value FROM tags WHERE run_uuid = ?"
            return [(status, dict(database.execute(tags, (run,)).fetchall())) for run, status in found]

    def versions(self, model):
        """The addresses of the registered versions of a model."""
        tagged = "SELECT value FROM model_version_tags WHERE name = ? AND key = 'nanochat.address'"
        with closing(sqlite3.connect(self.path / "mlflow.db")) as database:
            return {address for (address,) in database.execute(tagged, (model,))}


@pytest.fixture(scope="session")
def made(prefect_server, tmp_path_factory):
    """A home in which the whole recipe was made, and that flow run."""
    path = tmp_path_factory.mktemp("made")
    home = FlowHome(path, toy_corpus.make(path / "corpus"), prefect_server)
    return home, home.run()


@pytest.fixture
def home(made, tmp_path):
    """A copy of it, for tests that make more."""
    shutil.copytree(made[0].path, tmp_path / "home")
    return FlowHome(tmp_path / "home", made[0].settings, made[0].server)
