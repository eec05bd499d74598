"""`nanochat ui` opens both pages without any service started by hand, and leaves nothing behind when told to stop."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from flows import loopback, server, settings, track
from tests.decoys import lay_decoys
from tests.paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # of MLflow's own queries
COMMAND = [sys.executable, "-P", "-m", "flows.cli", "ui"]  # what `.venv/bin/nanochat ui` is


def page(url):
    with loopback.open_url(url, 30) as answer:
        return answer.read().decode()


def test_one_command_opens_both_pages_and_takes_mlflow_along(tmp_path, empty_database):
    """From a working directory whose files are named like libraries: no server takes them for code."""
    (tmp_path / "here").mkdir()
    lay_decoys(tmp_path / "here")
    (tmp_path / "prefect").mkdir()
    shutil.copy(empty_database, tmp_path / "prefect")
    where = settings.read({}, home=tmp_path)
    try:
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            opens_and_ends(tmp_path, number, code)
    finally:
        assert server.stop(where)
    assert server.running(where) is None


def opens_and_ends(tmp_path, number, code):
    # port 0: another `nanochat ui` of this machine, or another run of this test, wants the usual one too
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    child = subprocess.Popen(
        [*COMMAND, "--mlflow-port", "0", "--home", str(tmp_path)],
        cwd=tmp_path / "here",
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    try:
        addresses = dict(next(child.stdout).split() for _ in range(2))
        assert "<title>" in page(addresses["Prefect"])
        assert "MLflow" in page(addresses["MLflow"])
        child.send_signal(number)
        assert child.wait(30) == code
        with pytest.raises(OSError, match="refused"):
            page(addresses["MLflow"])
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_mlflows_server_that_cannot_start_says_why_and_how_to_help_it(tmp_path):
    """Against a Prefect server that is named, so that only MLflow's is started; its database is of a newer MLflow."""
    track.prepare(f"sqlite:///{tmp_path}/mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        connection.commit()
    environment = {**os.environ, "PREFECT_API_URL": "http://me:SECRET@127.0.0.1:1/api"}
    done = subprocess.run(
        [*COMMAND, "--mlflow-port", "0", "--home", str(tmp_path)], env=environment, capture_output=True, text=True,
        encoding="utf-8", check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == "Prefect  http://***@127.0.0.1:1\n"
    [said] = done.stderr.splitlines()
    assert said.startswith("nanochat: MLflow's server ended: ")
    assert "ffffffffffff" in said
    assert f"{tmp_path}/mlflow.db is of another version of MLflow" in said
    assert said.endswith(f"its log is {tmp_path}/mlflow-server.log")


def test_the_page_of_mlflow_waits_for_a_run_that_is_just_making_the_database(tmp_path):
    """Both make it in the same way: under one lock, whole."""
    from flows import first_use

    database = tmp_path / "mlflow.db"
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    command = [*COMMAND, "--mlflow-port", "0", "--home", str(tmp_path)]
    with first_use.locked(tmp_path / ".mlflow.db.lock"):
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        assert next(child.stdout).startswith("Prefect")
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(3)
        assert not database.exists()
    try:
        address = next(child.stdout).split()[1]
        assert "MLflow" in page(address)
        assert not (tmp_path / ".mlflow.db.making").exists()
        assert database.exists()
    finally:
        child.terminate()
        child.wait(30)
        child.stdout.close()
