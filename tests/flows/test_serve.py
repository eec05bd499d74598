"""`nanochat serve models:/NAME@champion` follows the alias in a real registry without a restart, and says why it cannot."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import httpx
import psutil
import pytest

from flows import cli
from flows.registry import Name
from flows.track import Tracker
from nanochat.artifacts.store import FileStore
from tests.paths import ROOT
from tests.serve.server import ANSWER, END, START, make_model, until

pytestmark = pytest.mark.filterwarnings("ignore:.*noload:DeprecationWarning")  # of MLflow's own queries
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}
OLD, NEW = "sft/d1-00000000", "rl/d1-11111111"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two versions in a registry, the older one champion."""
    home = tmp_path_factory.mktemp("home")
    store, tracker = FileStore(home / "store"), Tracker(f"sqlite:///{home}/mlflow.db")
    models = {OLD: make_model(tmp_path_factory.mktemp("old")),
              NEW: make_model(tmp_path_factory.mktemp("new"), 512, [[START, *b"New.", END]])}  # fmt: skip
    versions = []
    for score, (address, folder) in zip((0.5, 0.1), models.items(), strict=True):
        store.publish(address, {path.name: path for path in folder.iterdir()}, {"preimage": {}, "finished": 1.0})
        versions.append({"address": address, "stage": address[:2], "metrics": {"chatcore": score}, "digest": "d"})
    assert tracker.register("nanochat-test", versions, store).result(120).promoted
    assert tracker.close(60) == 0
    return home


def move(home, number):
    Tracker(f"sqlite:///{home}/mlflow.db").ask(
        lambda client: client.set_registered_model_alias("nanochat-test", "champion", str(number))
    )


@contextlib.contextmanager
def serving(home, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}
    command = [sys.executable, "-m", "flows.cli", "serve", *words, "--port", "0", "--home", str(home), "--poll", "0.2"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    children = []
    try:
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C" in line:
                break
        children = psutil.Process(process.pid).children()
        yield process, re.search(r"http://127\.0\.0\.1:\d+", said)[0], said
    finally:
        for each in [process, *children]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.communicate()


def test_the_champion_is_served_and_a_new_one_takes_over_between_requests(home):
    with serving(home, "models:/nanochat-test@champion") as (process, url, said):
        assert OLD in said

        def answer():
            told = httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=60).json()
            assert told["model"] == "models:/nanochat-test@champion"
            return told["choices"][0]["message"]["content"]

        assert answer() == ANSWER
        move(home, 2)
        until(lambda: answer() == "New.", 60)
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["address"] == NEW
        move(home, 1)
        until(lambda: answer() == ANSWER, 60)
        named = {**CHAT, "model": "models:/nanochat-test@champion"}
        assert httpx.post(f"{url}/v1/chat/completions", json=named, timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("models:/nanochat-test", "write models:/NAME@champion or models:/NAME/3"),
        ("models:/nanochat-test@", "write models:/NAME@champion"),
        ("models:/nanochat-test@nobody", "nanochat run tiny"),
        ("models:/nanochat-other@champion", "nanochat run tiny"),
        ("models:/nanochat-test/99", "nanochat run tiny"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_in_a_line(home, monkeypatch, capsys, name, words):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home}/mlflow.db")
    assert cli.main(["serve", name, "--home", str(home)]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert name in said
    assert "\n" not in said


def test_names_of_versions():
    assert Name.of("models:/a b@champion") == Name("a b", "champion", "")
    assert Name.of("models:/nanochat-tiny/12") == Name("nanochat-tiny", "", "12")
