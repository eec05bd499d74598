"""Addresses of MLflow: what can never work is refused before anything starts, and none of their secrets is written."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from flows import tracking_uri
from flows.outbox import Refused
from flows.track import Tracker
from nanochat.artifacts.store import FileStore
from tests.flows.test_loopback import speaking
from tests.paths import ROOT
from tests.s3_server import free_port

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # of MLflow's own queries
NEVER = {
    "htp://x": "MLflow knows no htp:",
    "ftp://me:SECRET@host/x": "MLflow knows no ftp:",
    "/some/folder": "MLflow keeps no runs in a folder any more",
    "file:///some/folder": "MLflow keeps no runs in a folder any more",
    "http://": "names no host",
    "http:///x": "names no host",
    "http://host:port": "Port could not be cast to integer value as 'port'",
    "http://a b": "has a space in it",
    "sqlite:/tmp/x.db": "is no address of a database",
    "mysql+nothing://me:SECRET@host/x": "its driver is not installed",
}
EVER = [
    "http://127.0.0.1:5000",
    "https://me:SECRET@mlflow.example/prefix",
    "http://[::1]:5000",
    "databricks",
    "databricks://profile",
    "sqlite:////tmp/a folder/mlflow.db",
    "sqlite:///mlflow.db",
]


@pytest.mark.parametrize("uri", NEVER)
def test_an_address_that_can_never_work_is_refused_in_one_sentence_without_its_password(uri):
    with pytest.raises(ValueError) as caught:
        tracking_uri.check(uri)
    said = str(caught.value)
    assert said.startswith("MLFLOW_TRACKING_URI = ")
    assert NEVER[uri] in said
    assert "SECRET" not in said


@pytest.mark.parametrize("uri", EVER)
def test_an_address_that_may_work_is_not(uri):
    tracking_uri.check(uri)


def test_mlflow_itself_agrees_about_every_address_without_a_network(tmp_path):
    for uri in ("htp://x", "/some/folder"):
        tracker = Tracker(uri)
        with pytest.raises(Refused):
            tracker.outbox.put(
                lambda tracker=tracker: tracker._guarded(lambda: tracker.client.search_experiments())
            ).result(60)


def test_the_file_of_an_address_is_the_one_that_sqlalchemy_opens(tmp_path, monkeypatch):
    from sqlalchemy.engine import URL

    for name in ("mlflow.db", "a%41b c.db", "x?y#z.db"):
        uri = URL.create("sqlite", database=str(tmp_path / name)).render_as_string()
        assert tracking_uri.database_of(uri) == tmp_path / name
        assert tracking_uri.absolute(uri) == uri
    monkeypatch.chdir(tmp_path)
    assert tracking_uri.absolute("sqlite:///x.db") == f"sqlite:///{tmp_path}/x.db"
    for uri in ("sqlite://", "sqlite:///:memory:", "http://host/mlflow.db", "postgresql://host/x"):
        assert tracking_uri.database_of(uri) is None


@pytest.mark.parametrize("command", ["run micro --only download", "ui"])
def test_the_commands_refuse_it_before_anything_is_started(command, tmp_path):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "htp://me:SECRET@x", "NANOCHAT_HOME": str(tmp_path / "home")}
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *command.split()], cwd=ROOT, env=environment,
        capture_output=True, text=True, encoding="utf-8", check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines() == [
        "nanochat: MLFLOW_TRACKING_URI = 'htp://***@x': MLflow knows no htp:; " + tracking_uri.EXAMPLES
    ]
    assert not (tmp_path / "home" / "prefect").exists()


@pytest.mark.parametrize("answer", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Oops"])
def test_a_server_that_always_says_no_is_told_once_and_what_waits_is_kept(answer, caplog):
    with speaking(f"{answer}\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno".encode()) as (url, asked):
        address = url.replace("http://", "http://me:SECRET@")
        tracker = Tracker(address)
        tracker.outbox.pauses = (0.01,)
        run = tracker.stage_run(
            tracker.pipeline_run("p", "tiny", {}),
            {"address": "sft/d4-01", "name": "sft", "tags": {}, "params": {}, "inputs": {}},
        )
        run.forward([{"step": 1, "time": 1.0, "loss": 1.0}])
        run.finish("FINISHED")
        tracker.finish_pipeline("FINISHED")
        assert tracker.close(2) >= 6
    assert asked
    said = [record.getMessage() for record in caplog.records if record.name.startswith("flows")]
    assert len(said) == 2
    assert "does not answer, work goes on without it" in said[0]
    assert answer[:3] in said[0]
    assert "their numbers wait, and the next run sends them" in said[1]
    assert "SECRET" not in caplog.text
    assert "http://***@127.0.0.1" in said[1]


def test_no_secret_of_a_url_reaches_mlflow(tmp_path, caplog):
    database, secret = tmp_path / "mlflow.db", "http://me:SECRET@host/{index:05d}.parquet?X-Signature=SECRET"
    tracker = Tracker(f"sqlite:///{database}", "test")
    parent = tracker.pipeline_run("p", "tiny", {"nanochat.settings": f"download.url={secret}"})
    inputs = {"x": {"address": "download/x", "uri": secret, "record": None}}
    run = tracker.stage_run(
        parent,
        {
            "address": "sft/d4-01",
            "name": "sft",
            "tags": {"execution.url": secret},
            "params": {"url": secret},
            "inputs": inputs,
        },
    )
    (tmp_path / "report.md").write_text(f"from {secret}", encoding="utf-8")
    run.finish("FAILED", f"cannot fetch {secret}", files=[tmp_path / "report.md"])
    tracker.cached(
        parent,
        "sft/d4-02",
        {"name": "sft", "tags": {}, "params": {}, "inputs": {}, "record": {}},
        lambda: FileStore(tmp_path).fetch(secret),
    )
    tracker.finish_pipeline("FAILED", f"cannot fetch {secret}")
    tracker.close(60)
    (tmp_path / "report.md").unlink()
    with closing(sqlite3.connect(database)) as connection:
        assert "***@host" in "\n".join(connection.iterdump())
    for path in filter(lambda each: each.is_file(), tmp_path.rglob("*")):
        assert b"SECRET" not in path.read_bytes(), path
    assert "SECRET" not in caplog.text


def test_a_server_that_is_away_is_told_without_its_password(caplog):
    tracker = Tracker(f"http://me:SECRET@127.0.0.1:{free_port()}")
    tracker.pipeline_run("p", "tiny", {})
    assert tracker.close(3) == 1
    assert "http://***@127.0.0.1" in caplog.text
    assert "SECRET" not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("flows"))
