"""No secret of a URL is written down by a run: not in Prefect's database, not in MLflow's, not on the terminal."""

import functools
import http.server
import os
import re
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

from flows.form import HIDDEN, filled_in, hidden, revealed, settings_of
from tests import mlflow_server, toy_corpus
from tests.paths import ROOT
from tests.s3_server import free_port

SIGNED = "http://me:SECRET@host/{index:05d}.parquet?X-Signature=SECRET"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_flow_of_this_process_gets_the_url_that_its_parameters_hide(monkeypatch):
    monkeypatch.setattr("flows.form.HIDDEN", {})
    shown = hidden({"download": {"url": SIGNED, "num_shards": 2}, "sft": {"seed": 1}})
    assert "SECRET" not in str(shown)
    assert shown["download"]["num_shards"] == 2
    assert f"download.url={SIGNED}" in settings_of(revealed(filled_in(shown)))
    assert "SECRET" not in str(revealed({"download": {"url": "http://elsewhere/x"}, "sft": {"seed": 1}}))
    assert HIDDEN == {}


def test_a_run_with_a_signed_url_and_a_password_for_mlflow_writes_neither_down(prefect_server, tmp_path):
    settings = toy_corpus.make(tmp_path / "corpus")
    handler = functools.partial(Quiet, directory=str(tmp_path / "corpus"))
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as shards,
        mlflow_server.serve(tmp_path, free_port()) as mlflow,
    ):
        threading.Thread(target=shards.serve_forever, args=(0.01,), daemon=True).start()
        place = f"http://127.0.0.1:{shards.server_address[1]}/"
        signed = [each.replace(f"file://{tmp_path}/corpus/", place) for each in settings]
        signed = [f"{each}?sig=SECRET" if each.startswith("download.url=") else each for each in signed]
        environment = {**os.environ, **prefect_server.environment, "NANOCHAT_HOME": str(tmp_path / "home")}
        environment["MLFLOW_TRACKING_URI"] = mlflow.uri.replace("http://", "http://me:SECRET@")
        done = subprocess.run(
            [sys.executable, "-m", "flows.cli", "run", "micro", *signed, "--only", "download"], cwd=ROOT,
            env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=200,
        )  # fmt: skip
        shards.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    run = prefect_server.run(re.search(r"flow-run/([0-9a-f-]{36})", done.stdout)[1])
    assert run.parameters["knobs"]["download"]["url"] == f"{place}shard_{{index:05d}}.parquet?sig=***"
    for database in (prefect_server.home / "prefect.db", tmp_path / "mlflow.db"):
        with closing(sqlite3.connect(database)) as connection:
            everything = "\n".join(connection.iterdump())
        assert "download/toy" in everything
        assert "SECRET" not in everything
